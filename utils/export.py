"""Export the classifier of a finished run to ONNX, in float32 and in 8 bits, and update its card.

python -m utils.export runs/wav2vec2
"""

import argparse
import json
from pathlib import Path

from utils.onnx_export.comparison import compare_onnx
from utils.onnx_export.exporter import export_onnx
from utils.report.card import write_card
from utils.report.run_folder import is_finished, load_reference_predictions
from utils.runtime import InputError, logger, refuse_arguments, run_script, write_json


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("run", type=Path, help="the folder of a finished run of train_wav2vec2.py")
    folder = parser.parse_args().run
    if not is_finished(folder):
        raise InputError(f"{folder}: expected the folder of a finished run, with its README.md")
    run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    if run["model"]["library"] != "transformers":
        raise InputError(f"{folder}: is a run of {run['script']}; expected one of train_wav2vec2.py")
    waveforms, _ = load_reference_predictions(folder)
    # Half of the clips for the export, the other half for the comparison.
    convolutions = export_onnx(folder, waveforms[::2])
    run["onnx"] = compare_onnx(folder, waveforms[1::2]) | {"convolutions": convolutions}
    write_json(folder / "metrics.json", run)
    write_card(folder)
    int8 = run["onnx"]["int8"]
    logger.info(
        "%s: %.1f MB in 8 bits, %.1f times as fast, the same prediction for %.1f %% of %d clips. Card: %s",
        folder / "onnx",
        int8["mb"],
        int8["times_faster"],
        100 * int8["agreement"],
        run["onnx"]["clips"],
        folder / "README.md",
    )


if __name__ == "__main__":
    run_script(main)
