"""The ONNX files of a run give the answers of its classifier, and the card's snippet runs.

Run: python -m pytest tests/test_export.py
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

from train_wav2vec2 import TINY
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
    """A classifier of each family, exported; its head answers loudly enough to have an opinion."""
    kind, settings = ENCODERS[request.param]
    torch.manual_seed(3)
    config = kind(**TINY | settings, num_labels=4, use_weighted_layer_sum=True)
    model = AutoModelForAudioClassification.from_config(config)
    torch.nn.init.normal_(model.classifier.weight, std=20)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    export_onnx(folder, list(clips(20, 16_000)))
    return folder


class Convolutions(torch.nn.Module):
    """Answers with frames where a classifier would with logits."""

    def __init__(self, convolutions: torch.nn.Module):
        super().__init__()
        self.convolutions = convolutions

    def forward(self, input_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.convolutions(input_values))


def clips(count: int, num_samples: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, num_samples)).astype(np.float32)


@pytest.mark.parametrize("num_samples", [4_000, 16_000, 41_237])
def test_the_answers_are_those_of_the_classifier_whatever_the_length(folder, num_samples):
    values = clips(3, num_samples)
    with torch.inference_mode():
        expected = (
            AutoModelForAudioClassification.from_pretrained(folder).eval()(torch.from_numpy(values)).logits
        )
    spread = float(expected.std())
    for kind, limit in (("fp32", 1e-4), ("int8", 0.2)):
        [got] = open_session(folder / "onnx" / FILES[kind]).run(None, {"input_values": values})
        assert np.abs(got - expected.numpy()).max() < limit * spread, kind


def test_a_whisper_beside_a_shout_is_heard_in_integers(folder, tmp_path):
    """Frames 40 dB below others are within the error that 8 bits in the weights make."""
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    convolutions = model.base_model.feature_extractor
    hidden = torch.from_numpy(clips(2, 6_400))
    hidden[:, 3_200:] /= 100
    path = tmp_path / "convolutions.onnx"
    _export(Convolutions(IntegerConvolutions(convolutions)), path, in_integers=True)
    [got] = open_session(path).run(None, {"input_values": hidden.numpy()})
    with torch.inference_mode():
        expected = convolutions(hidden).numpy()
    assert got.shape == expected.shape
    for half in np.array_split(np.arange(got.shape[2]), 2):
        apart = np.sqrt(((got - expected)[:, :, half] ** 2).mean() / (expected[:, :, half] ** 2).mean())
        assert apart < 0.05


def test_all_large_weights_are_bytes(folder):
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
    assert small < 0.45 * large  # of a tiny encoder the graph is a good part


def test_convolutions_that_bear_no_8_bits_are_kept_in_16(folder, monkeypatch):
    kept = {path.name: path.read_bytes() for path in (folder / "onnx").iterdir()}
    monkeypatch.setattr("utils.onnx_export.exporter.MAX_CONVOLUTION_SHARE", -1000)
    assert export_onnx(folder, list(clips(2, 9_000))) == "float16"
    model = onnx.load(folder / "onnx" / FILES["int8"])
    cast = {node.output[0] for node in model.graph.node if node.op_type == "Cast"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions and all(node.input[1] in cast for node in convolutions)
    for name, content in kept.items():
        (folder / "onnx" / name).write_bytes(content)


def test_clips_that_disagree_are_counted(folder):
    waveforms = list(clips(6, 9_000))
    found = compare_onnx(folder, waveforms, [0, 1, 2, 3, 0, 1])
    assert found["fp32"]["agreement"] == 1 and found["clips"] == 6
    assert found["fp32"]["uar"] == found["eager"]["uar"]
    # Another model's file in its place: random answers.
    (folder / "onnx" / "kept").write_bytes((folder / "onnx" / FILES["int8"]).read_bytes())
    model = onnx.load(folder / "onnx" / FILES["fp32"])
    for tensor in model.graph.initializer:
        if tensor.name.endswith("projector.bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([0, 0, 0, 1e6]), tensor.name))
    onnx.save(model, folder / "onnx" / FILES["int8"])
    answers = compare_onnx(folder, waveforms)["int8"]
    (folder / "onnx" / "kept").replace(folder / "onnx" / FILES["int8"])
    assert answers["agreement"] < 1 and answers["uar"] is None


def test_a_run_exports_its_model_and_the_snippet_of_its_card_works(tmp_path, demo_folder):
    run = tmp_path / "run"
    options = ["--demo", "--emotions", "sad", "angry", "--num_train_epochs=0", "--export=onnx"]
    call("train_wav2vec2.py", *options, f"--output_dir={run}", f"--cache_dir={tmp_path / 'cache'}")
    found = json.loads((run / "metrics.json").read_text())["onnx"]
    assert found["clips"] == 32 and found["int8"]["agreement"] >= 0.95
    assert found["fp32"]["agreement"] == 1 and found["fp32"]["uar"] == found["eager"]["uar"]
    card = (run / "README.md").read_text()
    assert "| ONNX, 8 bits |" in card

    [snippet] = re.findall(r"```python\n(.*?)```", card.split("### Without PyTorch")[1], re.DOTALL)
    speech = sorted(demo_folder.rglob("*.wav"))[0]
    snippet = snippet.replace("speech.wav", str(speech)).replace(f"runs/{run.name}", str(run))
    printed = dict(line.split() for line in call("-c", snippet).splitlines())
    classifier = pipeline("audio-classification", model=str(run))
    for answer in classifier(librosa.load(speech, sr=16_000)[0], top_k=None):
        assert abs(float(printed[answer["label"]]) - answer["score"]) < 0.1

    # An earlier run is exported by a command of its own.
    for name in FILES.values():
        (run / "onnx" / name).unlink()
    output = call("-m", "utils.export", run)
    assert "the same answer on" in output and (run / "onnx" / FILES["int8"]).exists()


def call(*command) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
