"""Training what is tuned on what the frozen part said once is training the whole model.

Run: python -m pytest tests/test_tuned.py
"""

import pytest
import torch
from test_encoder import build, every_encoder, random_clips

from utils.encoder import freeze_all_but_last
from utils.tuned import TunedLayers, frozen_part


@every_encoder
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_logits_and_gradients_are_those_of_the_whole_model(encoder, num_layers):
    model = build(encoder)
    torch.nn.init.normal_(model.layer_weights)
    freeze_all_but_last(model, num_layers)
    clips = random_clips(16_000, 9_000, 16_000)
    whole = torch.cat([model(clip[None]).logits for clip in clips])
    whole.square().sum().backward()
    expected = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()

    tuned = TunedLayers(model, num_layers)
    logits = tuned([frozen_part(model, clip, num_layers) for clip in clips])
    torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-4)
    logits.square().sum().backward()
    told = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert set(told) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(told[name], gradient, atol=1e-4, rtol=1e-3)


def test_it_has_the_weights_that_learn_and_no_others():
    model = build("wavlm")
    freeze_all_but_last(model, 1)
    tuned = dict(TunedLayers(model, 1).named_parameters())
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {id(each) for each in tuned.values()} == {
        id(dict(model.named_parameters())[name]) for name in learning
    }
