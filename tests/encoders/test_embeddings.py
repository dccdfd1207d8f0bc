"""Layer means of a clip do not depend on the other clips of its batch, and no clip is encoded twice.

Run: python -m pytest tests/encoders/test_embeddings.py
"""

import numpy as np
import pytest
import torch
from datasets import Dataset
from test_freezing import CONFIGS, build, every_encoder, random_clips, run_python
from transformers import Wav2Vec2FeatureExtractor

from utils.data.decoding import Waveforms
from utils.encoders.embeddings import _batches, embed, shares_batches
from utils.encoders.families import keep_layers
from utils.encoders.hidden_states import hidden_states, output_means
from utils.runtime import InputError

EXTRACTOR = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)


def means_of(model, clips: list[torch.Tensor]) -> torch.Tensor:
    return output_means(model, *hidden_states(model, clips))


@every_encoder
def test_means_do_not_depend_on_the_other_clips_of_the_batch(encoder):
    model = build(encoder)
    clips = random_clips(16_000, 9_000, 16_000, 4_321, 12_345)
    batch_means = means_of(model, clips)
    for num_layers in (3, 2, 1):
        keep_layers(model, num_layers)
        for clip, means in zip(clips, batch_means, strict=True):
            with torch.inference_mode():
                output = model.base_model(clip[None]).last_hidden_state
            torch.testing.assert_close(means[num_layers - 1], output.mean(dim=1)[0], atol=1e-5, rtol=0)


@every_encoder
def test_a_stock_head_gives_the_same_logits_from_the_means(encoder):
    model = build(encoder)
    clips = random_clips(16_000, 9_000, 4_321)
    means = means_of(model, clips)
    with torch.inference_mode():
        logits = model.classifier(model.projector(means[:, -1]))
        expected = torch.cat([model(clip[None]).logits for clip in clips])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert (
        expected.std(dim=0).min() > 1e-3
    )  # the logits differ between clips, otherwise the comparison is meaningless


NUM_CHECKS = 2
"""Clips that are encoded a second time, to check the encoder."""


class CountingExtractor:
    """Feature extractor that counts its calls."""

    model_input_names = EXTRACTOR.model_input_names

    def __init__(self):
        self.count = 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        return EXTRACTOR(*args, **kwargs)

    def to_json_string(self):
        return EXTRACTOR.to_json_string()


def clips_of(*lengths: int) -> tuple[Dataset, list[int], list[str]]:
    clips = [clip.numpy() for clip in random_clips(*lengths)]
    return Dataset.from_dict({"waveform": clips}), list(lengths), [f"clip {length}" for length in lengths]


def test_no_clip_is_encoded_twice_and_other_weights_are_not_served_from_the_cache(tmp_path):
    model = build("wav2vec2-base")
    waveforms, lengths, digests = clips_of(8_000, 6_000, 7_000)
    first = embed(model, EXTRACTOR, waveforms.select([0, 1]), lengths[:2], digests[:2], tmp_path)
    counting = CountingExtractor()
    again = embed(model, counting, waveforms, lengths, digests, tmp_path)
    assert counting.count == 1 + 1  # it is checked too
    np.testing.assert_array_equal(again[:2], first)
    assert again.shape == (3, 3, 32) and again.dtype == np.float32

    with torch.no_grad():
        model.base_model.encoder.layers[0].attention.k_proj.weight[0, 0] += 1
    counting = CountingExtractor()
    other = embed(model, counting, waveforms, lengths, digests, tmp_path)
    assert counting.count == 3 + NUM_CHECKS and np.abs(other - again).max() > 1e-6


def test_the_cache_depends_on_the_settings_of_the_encoder_and_not_on_those_of_the_head(tmp_path):
    waveforms, lengths, digests = clips_of(8_000, 6_000)
    first = embed(build("wav2vec2-base"), EXTRACTOR, waveforms, lengths, digests, tmp_path)

    def encode_again(**settings) -> tuple[np.ndarray, int]:
        model = build("wav2vec2-base")
        other = type(model)(type(model.config)(**model.config.to_dict() | settings))
        other.base_model.load_state_dict(model.base_model.state_dict())
        counting = CountingExtractor()
        return embed(other, counting, waveforms, lengths, digests, tmp_path), counting.count

    same, count = encode_again(id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    np.testing.assert_array_equal(same, first)
    assert count == 0
    other, count = encode_again(num_attention_heads=2, layer_norm_eps=0.1)
    assert count == 2 + NUM_CHECKS and np.abs(other - first).max() > 1e-6


def test_a_killed_pass_keeps_the_shards_it_has_written(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.encoders.embeddings.SHARD", 2)
    model = build("wav2vec2-base")
    waveforms, lengths, digests = clips_of(8_000, 7_000, 6_000, 5_000, 4_000)
    whole = embed(model, EXTRACTOR, waveforms, lengths, digests, tmp_path / "whole")

    class Killed(CountingExtractor):
        def __call__(self, *args, **kwargs):
            if self.count == 3 + NUM_CHECKS:
                raise KeyboardInterrupt
            return super().__call__(*args, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        embed(model, Killed(), waveforms, lengths, digests, tmp_path / "killed")
    counting = CountingExtractor()
    resumed = embed(model, counting, waveforms, lengths, digests, tmp_path / "killed")
    assert counting.count == 3 + NUM_CHECKS  # two of five clips had been written
    np.testing.assert_array_equal(resumed, whole)


def test_batches_respect_the_maximum_size_and_do_not_change_the_means(tmp_path, monkeypatch):
    model = build("wavlm")
    waveforms, lengths, digests = clips_of(8_000, 7_000, 6_000, 5_000)
    alone = embed(model, EXTRACTOR, waveforms, lengths, digests, tmp_path / "alone")
    sizes = []
    for batch in _batches(range(4), lengths, max_samples=16_000, mixes=True):
        values = [
            EXTRACTOR(waveform, sampling_rate=16_000)["input_values"][0]
            for waveform in Waveforms(waveforms.select(batch))
        ]
        batch_means = means_of(model, [torch.as_tensor(value) for value in values]).numpy()
        np.testing.assert_allclose(batch_means, alone[batch], atol=1e-5)
        sizes.append(len(batch))
    assert sizes == [2, 2]


def test_an_encoder_to_which_padding_matters_gets_batches_of_one_length():
    model = build("wav2vec2-large")
    clips = random_clips(9_000, 4_321)
    assert shares_batches(model, clips)
    layer = model.base_model.encoder.layers[0]
    layer.register_forward_hook(lambda layer, args, output: roll(output))
    assert not shares_batches(model, clips)
    assert shares_batches(model, [clips[0], clips[0]])
    assert list(_batches(range(4), [9, 9, 5, 5], max_samples=100, mixes=False)) == [[0, 1], [2, 3]]
    assert list(_batches(range(4), [9, 9, 5, 5], max_samples=100, mixes=True)) == [[0, 1, 2, 3]]


def roll(output):
    """Shift frames by one: the last frame, padding in a batch, becomes the first."""
    if isinstance(output, tuple):
        return (output[0].roll(1, dims=1), *output[1:])
    return output.roll(1, dims=1)


def test_an_encoder_whose_head_does_not_get_the_time_mean_is_refused():
    model = build("wav2vec2-base")
    model.projector.register_forward_hook(lambda module, args, output: output.cumsum(dim=-2))
    with pytest.raises(InputError, match="wav2vec2 is computed differently by transformers"):
        shares_batches(model, random_clips(9_000, 4_321))


def test_the_configs_cover_group_and_layer_norm():
    assert {config.feat_extract_norm for config in CONFIGS.values()} == {"group", "layer"}


SHARED_PASS = """
import sys
from pathlib import Path

import numpy as np
from accelerate import PartialState, debug_launcher
from test_embeddings import CountingExtractor, clips_of
from test_freezing import build
from utils.encoders.embeddings import embed

def work():
    rank = PartialState(cpu=True).process_index  # the Trainer does this with --use_cpu true
    counting, folder = CountingExtractor(), Path(sys.argv[1])
    means = embed(build("wav2vec2-base"), counting, *clips_of(8_000, 7_000, 6_000, 5_000, 4_000), folder)
    np.savez(folder / f"{rank}.npz", means=means, count=counting.count)

debug_launcher(work, num_processes=2)
"""


def test_two_processes_share_the_pass_and_both_return_all_means(tmp_path):
    run_python(SHARED_PASS, tmp_path)
    waveforms, lengths, digests = clips_of(8_000, 7_000, 6_000, 5_000, 4_000)
    expected = embed(build("wav2vec2-base"), EXTRACTOR, waveforms, lengths, digests, tmp_path / "alone")
    for process, count in enumerate((3, 2)):
        result = np.load(tmp_path / f"{process}.npz")
        assert result["count"] == count + NUM_CHECKS
        # Not equal: the number of threads differs.
        np.testing.assert_allclose(result["means"], expected, atol=1e-5)
