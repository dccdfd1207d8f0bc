"""Training batches contain no padding and do not depend on how they are loaded; augmented clips are valid.

Run: python -m pytest tests/encoders/test_batches.py
"""

from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from datasets import Dataset
from torch.utils.data import BatchSampler, DataLoader
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from utils.data.audio import MIN_SECONDS, SAMPLING_RATE
from utils.data.augment import NOISE_SNR_DB, SPEEDS, augment, mask_spectrogram
from utils.encoders.batches import Clips, EqualLengthSampler, collate

MAX_SAMPLES = 4 * SAMPLING_RATE


def corpus_lengths(seed: int = 0) -> np.ndarray:
    """Lengths like those of RAVDESS speech (3.7 s) and TESS (2.1 s), in samples."""
    generator = np.random.default_rng(seed)
    seconds = np.concatenate([generator.normal(3.7, 0.35, 900), generator.normal(2.05, 0.3, 1_103)])
    return (seconds * SAMPLING_RATE).astype(int)


def steps(sampler: EqualLengthSampler) -> list[list[tuple[int, int, int]]]:
    keys = list(sampler)
    return [keys[start : start + sampler.batch_size] for start in range(0, len(keys), sampler.batch_size)]


class KeyDataset(torch.utils.data.Dataset):
    """Dataset of 40 items; each item is its key."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, key):
        return key


# ---------------------------------------------------------------------------------------------------
# Which clips share an optimiser step


@pytest.mark.parametrize("num_clips", [1, 5, 8, 2_003])
def test_every_clip_is_sampled_and_len_is_correct(num_clips):
    sampler = EqualLengthSampler(corpus_lengths()[:num_clips], 8, MAX_SAMPLES, seed=0)
    drawn = Counter(index for index, _, _ in sampler)
    assert set(drawn) == set(range(num_clips))
    assert len(list(sampler)) == len(sampler) == 8 * -(-num_clips // 8)
    assert max(drawn.values()) - min(drawn.values()) <= 1  # repeats that fill the last step are spread evenly


def test_all_clips_of_a_step_have_the_length_of_its_shortest_clip():
    lengths = corpus_lengths()
    assert lengths.max() > MAX_SAMPLES
    for step in steps(EqualLengthSampler(lengths, 8, MAX_SAMPLES, seed=0)):
        (num_samples,) = {num_samples for _, num_samples, _ in step}
        assert num_samples == min(MAX_SAMPLES, *(lengths[index] for index, _, _ in step))


def test_cropping_removes_less_than_five_percent():
    lengths = corpus_lengths()
    sampler = EqualLengthSampler(lengths, 8, MAX_SAMPLES, seed=0)
    kept = sum(num_samples for _, num_samples, _ in sampler)
    whole = sum(min(int(lengths[index]), MAX_SAMPLES) for index, _, _ in sampler)
    assert 0.95 * whole < kept < whole


def test_batches_depend_on_seed_and_epoch():
    def draw(seed: int, epoch: int) -> list:
        sampler = EqualLengthSampler(corpus_lengths()[:200], 8, MAX_SAMPLES, seed)
        sampler.set_epoch(epoch)
        return steps(sampler)

    assert draw(0, 3) == draw(0, 3)
    for other in (draw(0, 4), draw(1, 3)):
        # Not only another order of the same batches: the batches contain other clips.
        first_batches = {frozenset(index for index, _, _ in step) for step in draw(0, 3)}
        assert len(first_batches & {frozenset(index for index, _, _ in step) for step in other}) < 5
    assert {epoch for step in draw(0, 4) for _, _, epoch in step} == {4}


def test_batch_length_does_not_depend_on_the_position_in_the_epoch():
    num_samples = [step[0][1] for step in steps(EqualLengthSampler(corpus_lengths(), 8, MAX_SAMPLES, seed=0))]
    assert abs(np.corrcoef(num_samples, np.arange(len(num_samples)))[0, 1]) < 0.3


@pytest.mark.parametrize(("num_processes", "accumulation"), [(2, 1), (1, 2), (4, 2)])
def test_a_step_does_not_depend_on_the_number_of_processes(num_processes, accumulation):
    single_process = steps(EqualLengthSampler(corpus_lengths()[:101], 8, MAX_SAMPLES, seed=0))

    def shard(process: int) -> list:
        sampler = EqualLengthSampler(corpus_lengths()[:101], 8, MAX_SAMPLES, seed=0)
        batches = BatchSampler(sampler, 8 // num_processes // accumulation, drop_last=False)
        return list(BatchSamplerShard(batches, num_processes, process))

    shards = [shard(process) for process in range(num_processes)]
    assert {len(batches) for batches in shards} == {len(single_process) * accumulation}
    for number, step in enumerate(single_process):
        own = slice(number * accumulation, (number + 1) * accumulation)
        all_keys = [key for batches in shards for batch in batches[own] for key in batch]
        assert sorted(all_keys) == sorted(step)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_loader_of_the_trainer_sets_the_epoch_of_the_sampler(num_processes):
    sampler = EqualLengthSampler(corpus_lengths()[:40], 8, MAX_SAMPLES, seed=0)
    loader = DataLoader(KeyDataset(), 8 // num_processes, sampler=sampler, collate_fn=list)
    prepared = prepare_data_loader(loader, num_processes=num_processes, process_index=0, put_on_device=False)
    epochs = []
    for epoch in (0, 1, 2):
        prepared.set_epoch(epoch)
        epochs.append({key[2] for batch in prepared for key in batch})
    assert epochs == [{0}, {1}, {2}]


# ---------------------------------------------------------------------------------------------------
# Clips


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Twelve clips of noise, 0.3 to 0.8 s long, at the levels of quiet and loud recordings."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(0.3 * SAMPLING_RATE, 0.8 * SAMPLING_RATE, size=12)
    waveforms = [
        (level * generator.standard_normal(length)).clip(-1, 1).astype(np.float32)
        for length, level in zip(lengths, np.geomspace(0.003, 0.3, 12), strict=True)
    ]
    return Dataset.from_dict(
        {"waveform": waveforms, "label": [i % 4 for i in range(12)], "num_samples": lengths.tolist()}
    )


@pytest.fixture(params=[True, False], ids=["normalised", "raw"])
def extractor(request) -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(do_normalize=request.param, return_attention_mask=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("augmented", [False, True])
def test_an_integer_index_returns_the_whole_clip_as_in_inference(dataset, extractor, augmented):
    clips = Clips(dataset, extractor, augmented=augmented, seed=0)
    assert len(clips) == len(dataset)
    for index, row in enumerate(dataset):
        waveform = np.asarray(row["waveform"], np.float32)
        expected = extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")["input_values"][0]
        assert torch.equal(clips[index]["input_values"], expected)
        assert clips[index]["input_values"].dtype == torch.float32
        assert clips[index]["label"] == row["label"]


def test_a_training_clip_is_a_crop_of_the_whole_clip(dataset):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    clips = Clips(dataset, extractor, seed=0)
    num_samples, starts = 4_000, set()
    for epoch in range(8):
        cut = clips[5, num_samples, epoch]["input_values"].numpy()
        windows = np.lib.stride_tricks.sliding_window_view(clips[5]["input_values"].numpy(), num_samples)
        (start,) = np.flatnonzero((windows == cut).all(axis=1))
        starts.add(int(start))
    assert len(starts) > 4  # the position differs between epochs


@pytest.mark.parametrize("augmented", [False, True])
def test_a_training_clip_depends_only_on_seed_epoch_and_index(dataset, extractor, augmented):
    clips, same = (Clips(dataset, extractor, augmented, seed=0) for _ in range(2))
    first = clips[3, 4_800, 1]["input_values"]
    others = [clips[4, 4_800, 1], clips[3, 4_800, 2]]  # reading them in between has no effect
    assert not any(torch.equal(other["input_values"], first) for other in others)
    for again in (clips[3, 4_800, 1], same[3, 4_800, 1]):
        assert torch.equal(again["input_values"], first)
    other_seed = Clips(dataset, extractor, augmented, seed=1)
    for other in (clips[3, 4_800, 2], other_seed[3, 4_800, 1]):
        assert len(other["input_values"]) == 4_800 and not torch.equal(other["input_values"], first)


def test_augmentation_is_off_by_default(dataset):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    length = dataset["num_samples"][7]
    whole = Clips(dataset, extractor)[7]["input_values"]
    plain = Clips(dataset, extractor, augmented=False)[7, length, 0]["input_values"]
    changed = Clips(dataset, extractor, augmented=True)[7, length, 0]["input_values"]
    assert torch.equal(plain, whole)
    assert changed.shape == whole.shape and not torch.allclose(changed, whole, atol=0.01)


def test_batches_do_not_depend_on_the_number_of_loader_workers(dataset):
    clips = Clips(dataset, Wav2Vec2FeatureExtractor(), augmented=True, seed=0)

    def read(num_workers: int) -> list[dict]:
        sampler = EqualLengthSampler(clips.lengths, 4, MAX_SAMPLES, seed=0)
        return list(DataLoader(clips, 4, sampler=sampler, num_workers=num_workers, collate_fn=collate))

    for without_workers, with_workers in zip(read(0), read(2), strict=True):
        assert without_workers["input_values"].shape[0] == 4
        assert torch.equal(without_workers["input_values"], with_workers["input_values"])
        assert torch.equal(without_workers["labels"], with_workers["labels"])


def test_clips_of_equal_length_are_stacked_and_others_returned_as_a_list():
    clips = [{"input_values": torch.full((length,), float(length)), "label": length} for length in (3, 3, 5)]
    stacked, listed = collate(clips[:2]), collate(clips)
    assert (
        list(stacked) == list(listed) == ["labels", "input_values"]
    )  # the Trainer reads the batch size from the first tensor
    assert stacked["input_values"].shape == (2, 3)
    assert [values.tolist() for values in listed["input_values"]] == [[3.0] * 3, [3.0] * 3, [5.0] * 5]
    assert listed["labels"].tolist() == [3, 3, 5] and listed["labels"].dtype == torch.int64


# ---------------------------------------------------------------------------------------------------
# Augmentation


def tone(seconds: float, level: float) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    return (level * np.sin(2 * np.pi * 300 * time)).astype(np.float32)


@pytest.mark.parametrize(("seconds", "level"), [(MIN_SECONDS, 0.5), (3.0, 1.0), (1.0, 0.01), (1.0, 0.0)])
def test_an_augmented_clip_is_valid(seconds, level):
    waveform = tone(seconds, level)
    untouched = waveform.copy()
    lengths = []
    for seed in range(50):
        changed = augment(waveform, np.random.default_rng(seed), SAMPLING_RATE)
        assert changed.dtype == np.float32 and changed.ndim == 1
        assert np.isfinite(changed).all() and np.abs(changed).max() <= 1
        assert np.abs(changed).max() >= 0.2 * level  # not silenced
        lengths.append(len(changed) / len(waveform))
    np.testing.assert_array_equal(waveform, untouched)
    slowest, fastest = 1 / SPEEDS[0], 1 / SPEEDS[1]
    assert fastest - 0.01 < min(lengths) < 1 < max(lengths) < slowest + 0.01


def test_the_pitch_changes_with_the_speed():
    for seed in range(10):
        changed = augment(tone(2.0, 0.5), np.random.default_rng(seed), SAMPLING_RATE)
        hertz = np.fft.rfftfreq(len(changed), 1 / SAMPLING_RATE)[np.abs(np.fft.rfft(changed)).argmax()]
        assert hertz * len(changed) == pytest.approx(300 * 2.0 * SAMPLING_RATE, rel=0.01)


def test_the_signal_to_noise_ratio_is_in_the_configured_range():
    ratios = []
    for seed in range(50):
        changed = augment(tone(1.0, 0.2), np.random.default_rng(seed), SAMPLING_RATE)
        power = np.abs(np.fft.rfft(changed * np.hanning(len(changed)))) ** 2
        hertz = np.fft.rfftfreq(len(changed), 1 / SAMPLING_RATE)
        noise = power[hertz > 1_000].mean() * len(power)
        ratios.append(10 * np.log10(power[hertz < 1_000].sum() / noise))
    low, high = NOISE_SNR_DB
    assert low - 1 < min(ratios) < low + 8 and high - 8 < max(ratios) < high + 1


def test_the_same_seed_gives_the_same_augmented_clip():
    first, same, other = (
        augment(tone(1.0, 0.2), np.random.default_rng(seed), SAMPLING_RATE) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, same)
    assert len(first) != len(other) or not np.array_equal(first, other)


def test_of_a_spectrogram_bands_and_periods_are_masked_and_most_of_it_is_left():
    spectrogram = np.random.default_rng(0).normal(size=(80, 200)).astype(np.float32)
    untouched = spectrogram.copy()
    shares = []
    for seed in range(50):
        masked = mask_spectrogram(spectrogram, np.random.default_rng(seed))
        changed = masked != spectrogram
        assert masked.dtype == np.float32 and (masked[changed] == spectrogram.mean()).all()
        bins, frames = changed.all(axis=1), changed.all(axis=0)
        assert (changed == (bins[:, None] | frames)).all()  # whole bands and periods
        shares.append([bins.mean(), frames.mean()])
    np.testing.assert_array_equal(spectrogram, untouched)
    assert (np.max(shares, axis=0) <= [0.3, 0.2]).all() and (np.mean(shares, axis=0) > 0.05).all()


def test_training_clips_of_whisper_are_masked_and_whole_clips_are_not(dataset):
    extractor = WhisperFeatureExtractor(chunk_length=1)
    plain, masked = (Clips(dataset, extractor, augmented, seed=0) for augmented in (False, True))
    assert torch.equal(plain[5]["input_values"], masked[5]["input_values"])
    values = masked[5, 16_000, 0]["input_values"].numpy()
    assert values.shape == (80, 100) and len(np.unique(values, axis=0)) < 80 - 1
    assert torch.equal(masked[5, 16_000, 0]["input_values"], torch.as_tensor(values))
