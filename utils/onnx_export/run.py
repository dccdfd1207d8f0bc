"""Export the classifier of a run that has just been trained, and compare the files with it."""

from pathlib import Path

from utils.data.decoding import Waveforms
from utils.data.loading import LoadedClips
from utils.data.splits import Plan
from utils.onnx_export.comparison import compare_onnx
from utils.onnx_export.exporter import export_onnx
from utils.report.predictions import pick_waveforms


def export_and_compare(folder: Path, clips: LoadedClips, plan: Plan) -> dict:
    """Return the section `onnx` of metrics.json.

    Args:
        folder: with the saved classifier.
        clips, plan: of the run. Quantization is calibrated on validation clips, or training clips of
            a model without, and compared on test clips.
    """
    is_validation = plan.final["split"] == "validation"
    calibration = plan.final[is_validation if is_validation.any() else plan.final["split"] == "train"]
    stored = export_onnx(folder, pick_waveforms(calibration, clips.waveforms, clips.emotions)[0])
    test, audio = plan.last_test_clips(), Waveforms(clips.waveforms)
    # Beside scores of folds, the saved model was trained on these clips: no UAR.
    labels = test["label"].tolist() if len(plan.models) == 1 else None
    return compare_onnx(folder, [audio[row] for row in test.index], labels) | {"convolutions": stored}
