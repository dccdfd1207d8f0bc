"""The ONNX files of a run give the predictions of its classifier, and the code example of the card runs.

Run: python -m pytest tests/onnx_export/test_export.py
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import librosa
import numpy as np
import onnx
import pytest
import torch
from conftest import PROJECT
from transformers import HubertConfig, Wav2Vec2Config, Wav2Vec2FeatureExtractor, WavLMConfig, pipeline
from transformers.models.auto import AutoModelForAudioClassification

from utils.encoders.classifier import TINY
from utils.onnx_export.comparison import compare_onnx
from utils.onnx_export.exporter import _export, export_onnx
from utils.onnx_export.integers import IntegerConvolutions
from utils.onnx_export.session import FILES, open_session

LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
ENCODERS = {
    "wav2vec2-base": (Wav2Vec2Config, {}),
    "xls-r": (Wav2Vec2Config, LAYER_NORM),
    "hubert": (HubertConfig, {}),
    "wavlm": (WavLMConfig, {}),
}


@pytest.fixture(scope="module", params=ENCODERS)
def folder(request, tmp_path_factory) -> Path:
    """An exported classifier of each family, with large weights in the head, so that logits differ."""
    kind, settings = ENCODERS[request.param]
    torch.manual_seed(3)
    config = kind(**TINY | settings, num_labels=4)
    model = AutoModelForAudioClassification.from_config(config)
    torch.nn.init.normal_(model.classifier.weight, std=20)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    export_onnx(folder, list(clips(20, 16_000)))
    return folder


class Convolutions(torch.nn.Module):
    """Module that returns the frames of convolutions as `logits`."""

    def __init__(self, convolutions: torch.nn.Module):
        super().__init__()
        self.convolutions = convolutions

    def forward(self, input_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.convolutions(input_values))


def clips(count: int, num_samples: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, num_samples)).astype(np.float32)


@pytest.mark.parametrize("num_samples", [4_000, 16_000, 41_237])
def test_the_logits_are_those_of_the_classifier_for_clips_of_any_length(folder, num_samples):
    values = clips(3, num_samples)
    with torch.inference_mode():
        expected = (
            AutoModelForAudioClassification.from_pretrained(folder).eval()(torch.from_numpy(values)).logits
        )
    spread = float(expected.std())
    for kind, limit in (("fp32", 1e-4), ("int8", 0.2)):
        [logits] = open_session(folder / "onnx" / FILES[kind]).run(None, {"input_values": values})
        assert np.abs(logits - expected.numpy()).max() < limit * spread, kind


def test_quiet_frames_beside_loud_ones_are_accurate_in_integers(folder, tmp_path):
    """The error of frames 40 dB below others is that of 8-bit weights."""
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    convolutions = model.base_model.feature_extractor
    hidden = torch.from_numpy(clips(2, 6_400))
    hidden[:, 3_200:] /= 100
    path = tmp_path / "convolutions.onnx"
    _export(Convolutions(IntegerConvolutions(convolutions)), path, integer_ops=True)
    [frames] = open_session(path).run(None, {"input_values": hidden.numpy()})
    with torch.inference_mode():
        expected = convolutions(hidden).numpy()
    assert frames.shape == expected.shape
    for half in np.array_split(np.arange(frames.shape[2]), 2):
        error = np.sqrt(((frames - expected)[:, :, half] ** 2).mean() / (expected[:, :, half] ** 2).mean())
        assert error < 0.05


def test_all_large_weights_are_stored_in_8_bits(folder):
    assert sorted(path.name for path in (folder / "onnx").iterdir()) == sorted(FILES.values())
    model = onnx.load(folder / "onnx" / FILES["int8"])
    assert {node.op_type for node in model.graph.node} >= {"MatMulInteger", "DequantizeLinear"}
    floats = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 2_000
    ]
    assert not floats
    large, small = ((folder / "onnx" / FILES[kind]).stat().st_size for kind in ("fp32", "int8"))
    assert small < 0.45 * large  # not 0.25: with a tiny encoder the graph is a large part


def test_convolutions_with_a_large_error_in_8_bits_are_stored_in_16(folder, monkeypatch):
    files = {path.name: path.read_bytes() for path in (folder / "onnx").iterdir()}
    monkeypatch.setattr("utils.onnx_export.exporter.MAX_CONVOLUTION_SHARE", -1000)
    assert export_onnx(folder, list(clips(2, 9_000))) == "float16"
    model = onnx.load(folder / "onnx" / FILES["int8"])
    cast = {node.output[0] for node in model.graph.node if node.op_type == "Cast"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions and all(node.input[1] in cast for node in convolutions)
    for name, content in files.items():
        (folder / "onnx" / name).write_bytes(content)


def test_the_share_of_equal_predictions_is_counted(folder):
    waveforms = list(clips(6, 9_000))
    results = compare_onnx(folder, waveforms, [0, 1, 2, 3, 0, 1])
    assert results["fp32"]["agreement"] == 1 and results["clips"] == 6
    assert results["fp32"]["uar"] == results["eager"]["uar"]
    # The file of another model in its place: one emotion is predicted for all clips.
    (folder / "onnx" / "kept").write_bytes((folder / "onnx" / FILES["int8"]).read_bytes())
    model = onnx.load(folder / "onnx" / FILES["fp32"])
    for tensor in model.graph.initializer:
        if tensor.name.endswith("projector.bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([0, 0, 0, 1e6]), tensor.name))
    onnx.save(model, folder / "onnx" / FILES["int8"])
    results = compare_onnx(folder, waveforms)["int8"]
    (folder / "onnx" / "kept").replace(folder / "onnx" / FILES["int8"])
    assert results["agreement"] < 1 and results["uar"] is None


@pytest.mark.slow
def test_a_run_exports_its_model_and_the_code_example_of_its_card_works(tmp_path, demo_folder):
    run = tmp_path / "run"
    options = [
        "--demo",
        "--emotions",
        "sad",
        "angry",
        "--num_train_epochs=0",
        "--export=onnx",
        "--keep_layers=2",
    ]
    call("train_wav2vec2.py", *options, f"--output_dir={run}", f"--cache_dir={tmp_path / 'cache'}")
    assert json.loads((run / "config.json").read_text())["num_hidden_layers"] == 2
    results = json.loads((run / "metrics.json").read_text())["onnx"]
    assert results["clips"] == 32 and results["int8"]["agreement"] >= 0.95
    assert results["fp32"]["agreement"] == 1 and results["fp32"]["uar"] == results["eager"]["uar"]
    card = (run / "README.md").read_text()
    assert "| ONNX, 8 bits |" in card

    [snippet] = re.findall(r"```python\n(.*?)```", card.split("### Without PyTorch")[1], re.DOTALL)
    speech = sorted(demo_folder.rglob("*.wav"))[0]
    snippet = snippet.replace("speech.wav", str(speech)).replace(f"runs/{run.name}", str(run))
    printed = dict(line.split() for line in call("-c", snippet).splitlines())
    classifier = pipeline("audio-classification", model=str(run))
    for prediction in classifier(librosa.load(speech, sr=16_000)[0], top_k=None):
        assert abs(float(printed[prediction["label"]]) - prediction["score"]) < 0.1

    # A finished run can be exported later.
    for name in FILES.values():
        (run / "onnx" / name).unlink()
    output = call("-m", "utils.export", run)
    assert "the same prediction for" in output and (run / "onnx" / FILES["int8"]).exists()


def call(*command) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
