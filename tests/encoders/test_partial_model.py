"""Training the last layers on stored outputs of the frozen layers equals training the whole model.

Run: python -m pytest tests/encoders/test_partial_model.py
"""

import numpy as np
import pytest
import torch
from datasets import Dataset
from test_freezing import build, every_encoder, random_clips
from transformers import Wav2Vec2FeatureExtractor

from utils.encoders.embeddings import fill_frames
from utils.encoders.frames import Frames
from utils.encoders.freezing import count_frames, freeze_all_but_last, unpadded_logits
from utils.encoders.hidden_states import hidden_states
from utils.encoders.partial_model import MAX_PADDING, FrozenClips, TunedLayers, similar_length_groups

EXTRACTOR = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)


def layer_input(model, clip: torch.Tensor, num_frozen: int) -> torch.Tensor:
    """Return the frames of a clip as in `FrozenClips`."""
    states, _ = hidden_states(model, [clip], num_frozen)
    return states[num_frozen][0].clone()


def check_tuned_layers(model, clips: list[torch.Tensor], num_layers: int) -> None:
    """Compare logits and gradients of the last layers on stored frames with those of the whole model."""
    freeze_all_but_last(model, num_layers)
    whole = torch.cat([unpadded_logits(model, [clip]) for clip in clips])
    whole.square().sum().backward()
    expected = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()

    tuned = TunedLayers(model, num_layers)
    logits = tuned([layer_input(model, clip, max(0, 3 - num_layers)) for clip in clips])
    torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-4)
    logits.square().sum().backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-3)


@every_encoder
@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_logits_and_gradients_are_those_of_the_whole_model(encoder, num_layers):
    clips = random_clips(16_000, 15_000, 9_000, 16_000)  # all but one share a forward pass
    check_tuned_layers(build(encoder), clips, num_layers)


def test_its_parameters_are_the_trainable_ones_of_the_model():
    model = build("wavlm")
    freeze_all_but_last(model, 1)
    tuned = dict(TunedLayers(model, 1).named_parameters())
    trainable = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {id(each) for each in tuned.values()} == {
        id(dict(model.named_parameters())[name]) for name in trainable
    }


def test_clips_of_similar_length_share_a_pass_with_little_padding():
    generator = np.random.default_rng(0)
    lengths = generator.integers(50, 260, size=100).tolist()
    groups = list(similar_length_groups(lengths))
    assert sorted(row for group in groups for row in group) == list(range(100))
    assert len(groups) < 40
    for group in groups:
        own = [lengths[row] for row in group]
        assert max(own) * len(own) <= (1 + MAX_PADDING) * sum(own)


class LayerCounter:
    """Counts how often each transformer layer runs."""

    def __init__(self, model):
        self.counts = [0] * len(model.base_model.encoder.layers)
        for number, layer in enumerate(model.base_model.encoder.layers):
            layer.register_forward_pre_hook(lambda *_, number=number: self.count(number))

    def count(self, number: int) -> None:
        self.counts[number] += 1


@every_encoder
def test_only_the_frozen_layers_run_and_only_for_missing_clips(encoder, tmp_path):
    model = build(encoder)
    lengths = [8_000, 6_000, 7_000]
    clips = random_clips(*lengths)
    waveforms = Dataset.from_dict({"waveform": [clip.numpy() for clip in clips]})

    def fill() -> tuple[Frames, list[int]]:
        frames = Frames(tmp_path, 2, count_frames(model, lengths), 32)
        layers = LayerCounter(model)
        fill_frames(model, EXTRACTOR, waveforms, lengths, frames)
        return frames, layers.counts

    frames, counts = fill()
    checks = counts[2]  # of the encoder, with all layers, before the pass
    assert counts == [checks + 3, checks + 3, checks]
    for row, clip in enumerate(clips):
        np.testing.assert_allclose(frames[row], layer_input(model, clip, 2), atol=1e-5)
        item = FrozenClips(frames, np.array([row]), [2])[0]
        np.testing.assert_array_equal(item["input_values"], frames[row])
        assert item["label"] == 2

    expected = frames[1]
    frames._is_filled[1] = 0  # as in a killed pass
    frames.values[:] = 0
    same, counts = fill()
    assert counts[0] - counts[2] == 1
    np.testing.assert_array_equal(same[1], expected)
    assert not same[0].any()
    assert fill()[1] == [0, 0, 0]
