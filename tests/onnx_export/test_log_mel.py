"""The ONNX files of a Whisper classifier map waveforms to its logits: the log-mel spectrogram is inside.

Run: python -m pytest tests/onnx_export/test_log_mel.py
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForAudioClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    pipeline,
)

from utils.onnx_export.comparison import compare_onnx
from utils.onnx_export.exporter import export_onnx
from utils.onnx_export.log_mel import LogMel
from utils.onnx_export.session import FILES, onnx_inputs, open_session

EXTRACTOR = WhisperFeatureExtractor(chunk_length=2)


def noise(num_samples: int, level: float = 0.1) -> np.ndarray:
    """Noise that changes its level ten times, like speech and pauses."""
    generator = np.random.default_rng(num_samples)
    envelope = 10.0 ** generator.uniform(-4, 0, 10).repeat(-(-num_samples // 10))[:num_samples]
    return (level * envelope * generator.standard_normal(num_samples)).astype(np.float32)


WAVEFORMS = {
    "short": noise(9_000),
    "as long as the window": noise(32_000),
    "longer than the window": noise(50_000),
    "quiet": noise(20_000, 1e-4),
    "silent": np.zeros(16_000, np.float32),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    config = WhisperConfig(
        d_model=64, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=128, num_labels=4,
        max_source_positions=100, classifier_proj_size=32, init_std=0.1,
    )  # fmt: skip
    model = WhisperForAudioClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=5)
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    export_onnx(folder, [noise(length) for length in range(10_000, 30_000, 1_000)])
    return folder


@pytest.mark.parametrize("name", WAVEFORMS)
def test_the_spectrogram_is_that_of_the_feature_extractor(name):
    expected = EXTRACTOR(WAVEFORMS[name], sampling_rate=16_000)["input_features"]
    spectrogram = LogMel(EXTRACTOR)(torch.from_numpy(WAVEFORMS[name])[None])
    np.testing.assert_allclose(spectrogram.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("name", WAVEFORMS)
def test_the_logits_are_those_of_the_classifier(folder, name):
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()

    def expected_logits(waveform: np.ndarray) -> np.ndarray:
        features = EXTRACTOR(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            return model(**features).logits.numpy()

    spread = np.concatenate([expected_logits(waveform) for waveform in WAVEFORMS.values()]).std()
    expected, [values] = expected_logits(WAVEFORMS[name]), onnx_inputs(folder, [WAVEFORMS[name]])
    assert values.shape == (1, len(WAVEFORMS[name]))
    for kind, limit in (("fp32", 1e-3), ("int8", 0.2)):
        [logits] = open_session(folder / "onnx" / FILES[kind]).run(None, {"input_values": values})
        assert np.abs(logits - expected).max() < limit * spread, kind


def test_predictions_are_compared_with_those_of_pipeline(folder):
    waveforms = [noise(length) for length in range(10_000, 40_000, 5_000)]
    results = compare_onnx(folder, waveforms)
    assert results["fp32"]["agreement"] == 1 and not results["do_normalize"]
    classifier = pipeline("audio-classification", model=str(folder))
    session = open_session(folder / "onnx" / FILES["fp32"])
    for waveform in waveforms:
        [logits] = session.run(None, {"input_values": waveform[None]})[0]
        assert classifier(waveform)[0]["label"] == f"LABEL_{logits.argmax()}"
