"""Whisper: a window of fixed length, cut for shorter clips, in a checkpoint that stays stock.

Run: python -m pytest tests/encoders/test_whisper.py
"""

from types import SimpleNamespace

import librosa
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerModel,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    pipeline,
)

from utils.data.audio import SAMPLING_RATE
from utils.encoders.batches import Clips
from utils.encoders.classifier import build_classifier
from utils.encoders.embeddings import embed
from utils.encoders.encoding import encode_clips
from utils.encoders.families import FAMILIES, keep_layers
from utils.encoders.freezing import add_lora, count_frames, freeze_all_but_last, is_head, predict
from utils.encoders.hidden_states import hidden_states, output_means
from utils.encoders.partial_model import TunedLayers
from utils.encoders.probe import Probe, fold_into
from utils.runtime import InputError

EMOTIONS = ("sad", "angry", "happy")
NUM_LAYERS = 3
WINDOW = 2
"""Seconds."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A whole Whisper, with decoder, stored in half precision, as on the Hub."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32, encoder_layers=NUM_LAYERS, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=100, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, classifier_proj_size=16, init_std=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("whisper")
    WhisperForConditionalGeneration(config).half().save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


@pytest.fixture
def classifier(checkpoint):
    model, extractor = build_classifier(str(checkpoint), None, EMOTIONS, WINDOW)
    return model.eval(), extractor


@pytest.fixture(scope="module")
def waveforms(demo_folder) -> list[np.ndarray]:
    """Clips that are shorter and longer than the window."""
    clips = [librosa.load(path, sr=SAMPLING_RATE)[0] for path in sorted(demo_folder.rglob("*.wav"))[:24:2]]
    return [clip if number % 3 else np.tile(clip, 3) for number, clip in enumerate(clips)]


def features_of(extractor, waveforms) -> list[torch.Tensor]:
    return [
        torch.as_tensor(extractor(clip, sampling_rate=SAMPLING_RATE)["input_features"][0])
        for clip in waveforms
    ]


def test_the_window_is_cut_and_the_weights_stay_those_of_the_checkpoint(checkpoint, classifier):
    model, extractor = classifier
    whole = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).model.encoder
    stored, expected = dict(model.encoder.named_parameters()), dict(whole.named_parameters())
    assert stored.keys() == expected.keys()
    for name, values in stored.items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, expected[name][: len(values)], atol=0, rtol=0)
    assert len(stored["embed_positions.weight"]) == 100 < len(expected["embed_positions.weight"])
    assert extractor(np.zeros(100), sampling_rate=SAMPLING_RATE)["input_features"][0].shape == (80, 200)


def test_the_states_are_those_of_the_stock_classifier(classifier, waveforms):
    model, extractor = classifier
    clips = features_of(extractor, waveforms)
    states, num_frames = hidden_states(model, clips)
    assert len(states) == NUM_LAYERS + 1 and num_frames.tolist() == count_frames(model, [1] * len(clips))
    with torch.no_grad():
        stock = model.encoder(torch.stack(clips), output_hidden_states=True).hidden_states
    for own, expected in zip(states[:-1], stock[:-1], strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)
    means = output_means(model, states, num_frames)
    alone = torch.cat([output_means(model, *hidden_states(model, [clip])) for clip in clips])
    torch.testing.assert_close(means, alone, atol=1e-5, rtol=0)
    for num_layers in (NUM_LAYERS, 2, 1):
        keep_layers(model, num_layers)
        with torch.no_grad():
            output = model.encoder(torch.stack(clips)).last_hidden_state
        torch.testing.assert_close(means[:, num_layers - 1], output.mean(dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_layers", [1, NUM_LAYERS])
def test_pipeline_gives_the_probabilities_of_scikit_learn(classifier, waveforms, num_layers, tmp_path):
    model, extractor = classifier
    dataset = Dataset.from_dict({"waveform": waveforms})
    names = [str(number) for number in range(len(waveforms))]
    means = embed(model, extractor, dataset, [len(clip) for clip in waveforms], names, tmp_path / "cache")
    labels = np.arange(len(waveforms)) % len(EMOTIONS)
    features = means[:, num_layers - 1]
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(features, labels)
    scaler, regression = reference
    weights = regression.coef_ / scaler.scale_
    keep_layers(model, num_layers)
    fold_into(model, Probe(num_layers, 0.1, weights, regression.intercept_ - weights @ scaler.mean_, {}))
    model.save_pretrained(tmp_path / "run")
    extractor.save_pretrained(tmp_path / "run")

    answers = pipeline("audio-classification", model=str(tmp_path / "run"))
    for clip, expected in zip(waveforms, reference.predict_proba(features), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers(clip, top_k=None)}
        assert [scores[emotion] for emotion in EMOTIONS] == pytest.approx(expected.tolist(), abs=1e-5)


def test_predictions_of_a_data_set_are_those_of_pipeline(classifier, waveforms, tmp_path):
    model, extractor = classifier
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    columns = {"num_samples": [len(clip) for clip in waveforms], "label": [0] * len(waveforms)}
    clips = Clips(Dataset.from_dict({"waveform": waveforms} | columns), extractor)
    probabilities = predict(model, clips, "")
    stock = AutoModelForAudioClassification.from_pretrained(tmp_path)
    inputs = AutoFeatureExtractor.from_pretrained(tmp_path)(
        waveforms, sampling_rate=SAMPLING_RATE, return_tensors="pt"
    )
    with torch.no_grad():
        expected = stock(**inputs).logits.softmax(dim=-1)
    torch.testing.assert_close(probabilities.float(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_layers", [1, 2, NUM_LAYERS])
def test_tuning_layers_on_stored_frames_equals_tuning_the_whole_model(classifier, waveforms, num_layers):
    model, extractor = classifier
    freeze_all_but_last(model, num_layers)
    clips = features_of(extractor, waveforms[:4])
    whole = model(torch.stack(clips)).logits
    whole.square().sum().backward()
    expected = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    trained = {name for name in expected if not is_head(name)}
    assert trained and {name.split(".")[2] for name in trained} == {
        str(number) for number in range(NUM_LAYERS - num_layers, NUM_LAYERS)
    }
    model.zero_grad()

    num_frozen = NUM_LAYERS - num_layers
    states, _ = hidden_states(model, clips, num_frozen)
    logits = TunedLayers(model, num_layers)([frames.clone() for frames in states[num_frozen]])
    torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-4)
    logits.square().sum().backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-4, rtol=1e-3)


def test_adapters_are_merged_into_a_stock_model(classifier, waveforms):
    model, extractor = classifier
    batch = torch.stack(features_of(extractor, waveforms[:2]))
    before = model(batch).logits.detach()
    adapted = add_lora(model, rank=2)
    torch.testing.assert_close(adapted(batch).logits, before)
    trained = [each for each in adapted.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(batch).logits.square().sum().backward()
        optimizer.step()
    tuned = adapted.eval()(batch).logits.detach()
    merged = adapted.merge_and_unload()
    assert isinstance(merged, WhisperForAudioClassification)
    torch.testing.assert_close(merged(batch).logits, tuned, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(tuned, before, atol=1e-3)


def test_a_family_that_is_not_computed_correctly_is_refused_in_one_line(tmp_path):
    config = Wav2Vec2ConformerConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    Wav2Vec2ConformerModel(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is a wav2vec2-conformer; expected one of wav2vec2, .*whisper"):
        build_classifier(str(tmp_path), None, EMOTIONS)
    assert "wav2vec2-conformer" not in FAMILIES


def test_the_probe_chooses_the_window_by_the_training_speakers(monkeypatch, tmp_path):
    """The means of one window depend on the emotion, those of the other on the emotion of test clips only."""
    generator = np.random.default_rng(0)
    speakers, labels = np.repeat(np.arange(6), 30), np.tile(np.arange(3), 60)
    table = pd.DataFrame(
        {"corpus": "demo", "speaker": speakers.astype(str), "text": "one", "label": labels}
        | {"num_samples": 16_000, "digest": "", "split": np.where(speakers < 4, "train", "test")}
    )
    noise = generator.normal(size=(2, len(table), 2, 8)).astype(np.float32)
    informative = noise / 2 + np.eye(8, dtype=np.float32)[labels][:, None]
    is_training = (table["split"] == "train").to_numpy()[:, None, None]
    means = {1: np.where(is_training, noise[0], informative[0]), 2: informative[1]}
    monkeypatch.setattr("utils.encoders.encoding.embed", lambda window, *rest: means[window])
    clips = SimpleNamespace(table=table, waveforms=Dataset.from_dict({"waveform": [[0.0]] * len(table)}))
    clips.emotions = EMOTIONS
    plan = SimpleNamespace(models={"holdout": table})
    encoded = encode_clips([(1, 1, None), (2, 2, None)], clips, plan, "holdout", tmp_path, None)
    assert encoded.probes["holdout"].window_seconds == 2 and encoded.means == means
