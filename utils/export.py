"""Write the ONNX files of a finished run, in float32 and in 8 bits, and add the comparison to its card.

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
    stored = export_onnx(folder, waveforms[::2])
    run["onnx"] = compare_onnx(folder, waveforms[1::2]) | {"convolutions": stored}  # on others than it tried
    write_json(folder / "metrics.json", run)
    write_card(folder)
    facts = run["onnx"]["int8"]
    logger.info(
        "%s: %.1f MB in 8 bits, %.1f times as fast, the same answer on %.1f %% of %d clips. Card: %s",
        folder / "onnx",
        facts["mb"],
        facts["times_faster"],
        100 * facts["agreement"],
        run["onnx"]["clips"],
        folder / "README.md",
    )


if __name__ == "__main__":
    run_script(main)
