"""data2vec: its position convolutions see the padding of a batch, so batches have clips of one length.

Run: python -m pytest tests/encoders/test_data2vec.py
"""

import numpy as np
import pytest
import torch
from test_freezing import TINY, random_clips
from test_partial_model import check_tuned_layers
from transformers import Data2VecAudioConfig, Data2VecAudioForSequenceClassification

from utils.encoders.embeddings import shares_batches
from utils.encoders.families import keep_layers
from utils.encoders.freezing import add_lora
from utils.encoders.hidden_states import hidden_states, output_means


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Data2VecAudioForSequenceClassification(Data2VecAudioConfig(**TINY)).eval()


def test_clips_of_unlike_length_do_not_share_a_batch(model):
    clips = random_clips(16_000, 9_000)
    assert not shares_batches(model, clips)
    assert shares_batches(model, random_clips(9_000, 9_000))
    assert not torch.allclose(
        output_means(model, *hidden_states(model, clips))[1],
        output_means(model, *hidden_states(model, clips[1:]))[0],
        atol=1e-3,
    )


def test_the_means_of_a_cut_encoder_are_those_of_its_output(model):
    clips = random_clips(9_000, 9_000)
    means = output_means(model, *hidden_states(model, clips))
    for num_layers in (3, 1):
        keep_layers(model, num_layers)
        with torch.inference_mode():
            expected = model.base_model(torch.stack(clips)).last_hidden_state.mean(dim=1)
        torch.testing.assert_close(means[:, num_layers - 1], expected, atol=1e-5, rtol=0)


def test_tuning_layers_on_stored_frames_equals_tuning_the_whole_model(model):
    check_tuned_layers(model, random_clips(16_000, 15_900, 9_000), 2)


def test_adapters_are_trained_and_merged(model):
    [clip] = random_clips(9_000)
    before = model(clip[None]).logits.detach()
    adapted = add_lora(model, rank=2)
    torch.testing.assert_close(model.eval()(clip[None]).logits, before, atol=1e-6, rtol=1e-6)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.01)
    model(clip[None]).logits.square().sum().backward()
    optimizer.step()
    tuned = model(clip[None]).logits.detach()
    assert np.abs((tuned - before).numpy()).max() > 1e-4
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(clip[None]).logits, tuned, atol=1e-5, rtol=1e-4)
