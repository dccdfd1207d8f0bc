"""Clips of one batch do not influence each other, and training changes only the trainable parameters.

Run: python -m pytest tests/encoders/test_freezing.py
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForAudioClassification,
    HubertConfig,
    UniSpeechConfig,
    UniSpeechSatConfig,
    Wav2Vec2Config,
    WavLMConfig,
)

from utils.encoders.freezing import (
    add_lora,
    freeze_all_but_last,
    is_head,
    predict,
    unpadded_logits,
)
from utils.runtime import PROJECT_ROOT

NUM_LAYERS = 3
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "initializer_range": 0.3,  # large, so that random weights give clips different logits
    "num_labels": 4,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}
CONFIGS = {
    "wav2vec2-base": Wav2Vec2Config(**TINY),
    "wav2vec2-large": Wav2Vec2Config(**TINY, feat_extract_norm="layer", do_stable_layer_norm=True),
    "hubert": HubertConfig(**TINY),
    "wavlm": WavLMConfig(**TINY),
    "wavlm-large": WavLMConfig(**TINY, feat_extract_norm="layer", do_stable_layer_norm=True),
    "unispeech": UniSpeechConfig(**TINY),
    "unispeech-sat": UniSpeechSatConfig(**TINY),
}
GROUP_NORM = [name for name, config in CONFIGS.items() if config.feat_extract_norm == "group"]
every_encoder = pytest.mark.parametrize("encoder", CONFIGS)


def build(encoder: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForAudioClassification.from_config(copy.deepcopy(CONFIGS[encoder])).eval()


def random_clips(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, generator=generator) for length in lengths]


def one_by_one(model, clips) -> torch.Tensor:
    return torch.cat([model(clip[None]).logits for clip in clips])


# ---------------------------------------------------------------------------------------------------
# Logits without padding


@every_encoder
def test_logits_do_not_depend_on_the_other_clips_of_the_batch(encoder):
    model, clips = build(encoder), random_clips(8_000, 12_000, 8_000, 16_000, 12_000)
    with torch.no_grad():
        alone = one_by_one(model, clips)
        batched = unpadded_logits(model, clips)
    assert alone.std(dim=0).min() > 0.01  # the logits differ between clips
    torch.testing.assert_close(batched, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", GROUP_NORM)
@pytest.mark.parametrize("masked", [False, True])
def test_zero_padding_changes_the_logits_of_group_norm_encoders(encoder, masked):
    """The reason for batches without padding: an attention mask does not help."""
    model, clips = build(encoder), random_clips(8_000, 16_000)
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    mask = torch.ones_like(padded, dtype=torch.long)
    mask[0, 8_000:] = 0
    with torch.no_grad():
        alone = one_by_one(model, clips)
        logits = model(padded, attention_mask=mask if masked else None).logits
    torch.testing.assert_close(logits[1], alone[1], atol=1e-5, rtol=0)
    assert (logits[0] - alone[0]).abs().max() > 0.01


def test_unpadded_logits_are_differentiable():
    model, clips = build("wav2vec2-base"), random_clips(8_000, 12_000)
    unpadded_logits(model, clips).sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0


# ---------------------------------------------------------------------------------------------------
# Freezing


@every_encoder
@pytest.mark.parametrize("num_layers", [0, 1, NUM_LAYERS])
def test_a_training_step_changes_only_the_last_layers_and_the_head(encoder, num_layers):
    model = build(encoder).train()
    freeze_all_but_last(model, num_layers)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    batch = torch.stack(random_clips(8_000, 8_000, 8_000))
    torch.nn.functional.cross_entropy(model(batch).logits, torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    changed = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    trainable = tuple(
        f"{model.base_model_prefix}.encoder.layers.{layer}."
        for layer in range(NUM_LAYERS - num_layers, NUM_LAYERS)
    )
    assert changed == {name for name in before if is_head(name) or name.startswith(trainable)}
    assert {"classifier.weight", "projector.weight"} <= changed


@every_encoder
@pytest.mark.parametrize("num_layers", [0, 1])
def test_frozen_modules_in_eval_mode_have_no_dropout_in_training(encoder, num_layers):
    """The hidden states up to the input of the first trainable layer are those of inference."""
    model, clip = build(encoder), random_clips(8_000)[0][None]
    num_frozen = NUM_LAYERS - num_layers
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5

    def layer_inputs_and_output() -> list[torch.Tensor]:
        with torch.no_grad():
            output = model.base_model(clip, output_hidden_states=True)
        return [*output.hidden_states[:-1], output.last_hidden_state]

    in_inference = layer_inputs_and_output()
    frozen = freeze_all_but_last(model, num_layers)
    model.train()
    for module in frozen:
        module.eval()
    in_training = layer_inputs_and_output()
    for layer in range(num_frozen + 1):
        torch.testing.assert_close(in_training[layer], in_inference[layer], msg=f"input of layer {layer}")
    if num_layers:
        # The trainable layers do have dropout.
        assert not torch.allclose(in_training[num_frozen + 1], in_inference[num_frozen + 1])


# ---------------------------------------------------------------------------------------------------
# Logits in different versions of transformers

LOGITS = {
    "wav2vec2-base": [-0.4788, 2.1102, 4.8698, 1.5040],
    "wav2vec2-large": [1.0081, -1.0772, 4.7731, 0.0259],
    "hubert": [1.9321, 0.4937, -2.4084, 0.4691],
    "wavlm": [-3.0492, -0.0949, 1.4064, 3.1836],
    "wavlm-large": [-0.8151, 0.1579, -1.2918, 0.1218],
    "unispeech": [1.5147, -0.5039, -1.6834, -0.6045],
    "unispeech-sat": [1.0778, -0.4448, 0.0587, -2.5333],
}
"""Logits for the weights and the clip below, the same in transformers 5.0, 5.15 and 5.23."""


def set_weights(model: torch.nn.Module) -> None:
    """Set weights that depend only on the names of the parameters, not on the initialisation."""
    for name, values in model.named_parameters():
        generator = np.random.default_rng(list(name.encode()))
        spread = 0.3 if values.dim() > 1 else 0.1
        drawn = spread * generator.standard_normal(tuple(values.shape)) + ("norm.weight" in name)
        values.data = torch.as_tensor(drawn, dtype=torch.float32)


@every_encoder
def test_the_logits_do_not_depend_on_the_version_of_transformers(encoder):
    """Otherwise a published model would not reproduce the scores on its card."""
    model = AutoModelForAudioClassification.from_config(CONFIGS[encoder]).eval()
    set_weights(model)
    clip = torch.as_tensor(np.random.default_rng(0).standard_normal((1, 16_000)), dtype=torch.float32)
    with torch.no_grad():
        logits = model(clip).logits[0]
    torch.testing.assert_close(logits, torch.tensor(LOGITS[encoder]), atol=2e-4, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------
# Predictions

LENGTHS = (16_000, 8_000, 12_000, 8_000, 9_999)


@every_encoder
def test_probabilities_are_in_the_order_of_the_clips(encoder):
    model, clips = build(encoder), random_clips(*LENGTHS)
    with torch.no_grad():
        expected = one_by_one(model, clips).softmax(dim=-1)
    probabilities = predict(model.train(), [{"input_values": clip} for clip in clips], "test")
    assert probabilities.shape == (5, 4) and probabilities.device.type == "cpu"
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(probabilities.float(), expected, atol=1e-5, rtol=0)


SHARED_PREDICTION = """
import sys
import torch
from accelerate import PartialState, debug_launcher
from test_freezing import LENGTHS, build, random_clips
from utils.encoders.freezing import predict

class Clips(list):
    def __getitem__(self, index):
        indices.append(index)
        return {"input_values": super().__getitem__(index)}

def work():
    rank = PartialState(cpu=True).process_index  # the Trainer does this with --use_cpu true
    probabilities = predict(build("wav2vec2-base"), Clips(random_clips(*LENGTHS)), "test")
    torch.save((indices, probabilities), f"{sys.argv[1]}/{rank}.pt")

indices = []
debug_launcher(work, num_processes=2)
"""


def run_python(code: str, folder: Path) -> None:
    """Run code that imports the modules of these tests; its first argument is the folder."""
    environment = os.environ | {
        "PYTHONPATH": f"{PROJECT_ROOT}:{Path(__file__).parent}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code, str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=120)


def test_two_processes_share_the_clips_and_both_return_all_probabilities(tmp_path):
    run_python(SHARED_PREDICTION, tmp_path)
    clips = [{"input_values": clip} for clip in random_clips(*LENGTHS)]
    expected = predict(build("wav2vec2-base"), clips, "test")
    for process, share in enumerate(([0, 2, 4], [1, 3])):
        indices, probabilities = torch.load(tmp_path / f"{process}.pt")
        assert indices == share
        torch.testing.assert_close(probabilities, expected, atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------
# Low-rank adapters


@every_encoder
def test_adapters_leave_the_logits_unchanged_are_trained_and_are_merged_into_a_stock_model(encoder):
    model = build(encoder)
    keys = set(model.state_dict())
    clips = random_clips(16_000, 9_000)
    untouched = one_by_one(model, clips)
    adapted = add_lora(model, rank=2)
    model.eval()
    # Not exactly equal: PyTorch may use other kernels where gradients are required.
    torch.testing.assert_close(one_by_one(model, clips), untouched, atol=1e-6, rtol=1e-6)
    # No parameter below the adapters is trainable: nothing is stored there for the backward pass.
    assert not model.train().base_model.feature_extractor(clips[0][None]).requires_grad
    model.eval()

    trainable = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        one_by_one(model, clips).square().sum().backward()
        assert all(each.grad is not None for each in trainable)
        optimizer.step()
    trained = one_by_one(model, clips)
    assert (trained - untouched).abs().max() > 1e-3

    merged = adapted.merge_and_unload()
    assert merged is model and set(model.state_dict()) == keys
    torch.testing.assert_close(one_by_one(model, clips), trained, atol=1e-5, rtol=1e-4)
