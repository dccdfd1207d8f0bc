"""w2v-BERT: log-mel spectrograms as long as the clip, with a mask.

Run: python -m pytest tests/encoders/test_w2v_bert.py
"""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_freezing import random_clips
from test_partial_model import check_tuned_layers
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    pipeline,
)

from utils.encoders.classifier import build_classifier
from utils.encoders.embeddings import embed, shares_batches
from utils.encoders.families import check_exportable, extract_input, keep_layers
from utils.encoders.freezing import add_lora, count_frames, unpadded_logits
from utils.encoders.hidden_states import hidden_states
from utils.encoders.probe import Probe, fold_into
from utils.runtime import InputError

EMOTIONS = ("sad", "angry", "happy")
LENGTHS = (16_000, 9_000, 9_160, 9_000)
"""Of the second clip the number of frames of 10 ms is odd, of the third it is even."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        feature_projection_input_dim=160, initializer_range=0.3, layerdrop=0.1, classifier_proj_size=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("w2v-bert")
    Wav2Vec2BertModel(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2).save_pretrained(folder)
    return folder


@pytest.fixture
def classifier(checkpoint):
    model, extractor = build_classifier(str(checkpoint), None, EMOTIONS)
    return model.eval(), extractor


@pytest.fixture
def clips(classifier) -> list[torch.Tensor]:
    return [torch.as_tensor(extract_input(classifier[1], clip.numpy())) for clip in random_clips(*LENGTHS)]


def test_clips_share_batches_and_their_frames_are_counted(classifier, clips):
    model, _ = classifier
    assert shares_batches(model, clips)
    _, num_frames = hidden_states(model, clips)
    assert num_frames.tolist() == count_frames(model, LENGTHS) == [len(clip) for clip in clips]


def test_pipeline_gives_the_probabilities_of_scikit_learn(classifier, tmp_path):
    model, extractor = classifier
    waveforms = [clip.numpy() for clip in random_clips(*LENGTHS, 12_345, 7_000)]
    lengths, names = [len(each) for each in waveforms], [str(row) for row in range(len(waveforms))]
    dataset = Dataset.from_dict({"waveform": waveforms})
    means = embed(model, extractor, dataset, lengths, names, tmp_path / "cache")
    labels = np.arange(len(waveforms)) % len(EMOTIONS)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(means[:, 1], labels)
    scaler, regression = reference
    weights = regression.coef_ / scaler.scale_
    keep_layers(model, 2)
    fold_into(model, Probe(2, 0.1, weights, regression.intercept_ - weights @ scaler.mean_, {}))
    model.save_pretrained(tmp_path / "run")
    extractor.save_pretrained(tmp_path / "run")
    answers = pipeline("audio-classification", model=str(tmp_path / "run"))
    for waveform, expected in zip(waveforms, reference.predict_proba(means[:, 1]), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers(waveform, top_k=None)}
        assert [scores[emotion] for emotion in EMOTIONS] == pytest.approx(expected.tolist(), abs=1e-5)


def test_tuning_layers_on_stored_frames_equals_tuning_the_whole_model(classifier, clips):
    check_tuned_layers(classifier[0], clips, 2)


def test_adapters_are_merged_into_a_stock_model(classifier, clips):
    model, _ = classifier
    before = unpadded_logits(model, clips).detach()
    adapted = add_lora(model, rank=2)
    model.eval()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.01)
    unpadded_logits(model, clips).square().sum().backward()
    optimizer.step()
    tuned = unpadded_logits(model, clips).detach()
    assert not torch.allclose(tuned, before, atol=1e-4)
    torch.testing.assert_close(
        unpadded_logits(adapted.merge_and_unload(), clips), tuned, atol=1e-5, rtol=1e-4
    )


def test_an_export_is_refused_before_any_work(classifier):
    with pytest.raises(InputError, match=r"--export onnx: is not available for .* wav2vec2-bert"):
        check_exportable(classifier[0].config)
