"""A stock wav2vec2-like classifier comes in; it goes out frozen in part, or as logits per clip.

Serves every class that `AutoModelForAudioClassification` builds over raw waveforms: wav2vec2 and XLS-R,
HuBERT, WavLM, and their relatives.
"""

from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from utils.runtime import InputError

HEAD = ("projector", "classifier", "layer_weights")
"""The parts of a stock classifier that are not the encoder."""


EXCLUDED = -30.0
"""Layer weight of a hidden state that the head leaves out: a softmax makes 1e-13 of it."""


def is_head(parameter_name: str) -> bool:
    """True for the parameters of the classification head and of the layer-weighted sum."""
    return parameter_name.split(".")[0] in HEAD


def num_used_layers(config) -> int:
    """Return how many transformer layers of an encoder a head can rest on.

    All, unless a layer norm follows the last one (XLS-R, WavLM-large, HuBERT-large): the last hidden state is
    what that norm returns in transformers up to 5.15, and what it is given in later versions. A classifier
    that rests on it gives other logits in another version, so the state after the last layer is left out.

    Args:
        config: of a stock classifier over raw waveforms.
    """
    return config.num_hidden_layers - bool(getattr(config, "do_stable_layer_norm", False))


@torch.no_grad()
def exclude_last_state(model: torch.nn.Module) -> None:
    """Give no weight in a stock classifier's sum of layers to states after its `num_used_layers`."""
    model.layer_weights[num_used_layers(model.config) + 1 :] = EXCLUDED


def layer_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the hidden states that a transformer layer gave. It gives a tuple in transformers up to 5.15,
    and in WavLM in every version."""
    return output[0] if isinstance(output, tuple) else output


def freeze_all_but_last(model: torch.nn.Module, num_layers: int) -> list[torch.nn.Module]:
    """Leave the head and the last `num_layers` of the `num_used_layers` trainable.

    Returns:
        the frozen modules; they belong in eval mode during training too, for dropout in a part that
        cannot learn is only noise.

    Raises:
        InputError: the encoder has fewer layers.
    """
    base = model.base_model
    layers, num_used = base.encoder.layers, num_used_layers(model.config)
    if not 0 <= num_layers <= num_used:
        raise InputError(
            f"--unfreeze_layers {num_layers}: expected 0 to {num_used}, the number of layers that the head "
            "can rest on"
        )
    model.freeze_feature_encoder()  # also tells it not to ask for gradients of its input
    base.requires_grad_(False)
    kept = num_used - num_layers
    for layer in layers[kept:num_used]:
        layer.requires_grad_(True)
    frozen = [base.feature_extractor, base.feature_projection, base.encoder.pos_conv_embed]
    frozen += [*layers[:kept], *layers[num_used:]]
    if kept:
        frozen.append(base.encoder.dropout)  # it stands before the first layer
    return frozen


def count_frames(model: torch.nn.Module, num_samples: Sequence[int]) -> list[int]:
    """Return how many frames the convolutions of a stock classifier make of clips of these lengths."""
    return model.base_model._get_feat_extract_output_lengths(torch.tensor(list(num_samples))).tolist()


def add_lora(model: torch.nn.Module, rank: int):
    """Freeze the encoder and add low-rank adapters to the feed-forward parts of all its layers.

    Not to the attention: WavLM's reads the weights of its projections past them, so there an adapter would
    learn nothing and yet be merged.

    Args:
        model: a stock classifier; its head stays trainable, and its function is unchanged.
        rank: of the adapters.

    Returns:
        the peft model around it, whose `merge_and_unload()` makes a stock classifier of it again (Hu et al.
        2022, "LoRA: Low-Rank Adaptation of Large Language Models").
    """
    from peft import LoraConfig, LoraModel
    from peft.tuners.lora import Linear

    settings = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules=["intermediate_dense", "output_dense"]
    )
    # The class that peft chooses anyway. Named, it is taken without a look at torchao, of which Colab has a
    # version that peft refuses (its guide to custom models, "dynamic dispatch").
    settings._register_custom_module({torch.nn.Linear: Linear})
    model.freeze_feature_encoder()  # tells it not to ask for gradients of its input
    adapted = LoraModel(model, settings, "default")
    for name, parameter in model.named_parameters():
        if is_head(name):
            parameter.requires_grad_(True)
    return adapted


def unpadded_logits(model: torch.nn.Module, clips: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return float32 logits (num_clips, num_labels), the same for each clip as for that clip alone.

    Args:
        model: a stock classifier.
        clips: tensors (num_samples,) on the model's device. Equally long ones share a forward pass.
    """
    lengths = torch.tensor([len(clip) for clip in clips])
    logits = [None] * len(clips)
    for length in lengths.unique():
        rows = (lengths == length).nonzero().flatten().tolist()
        output = model(input_values=torch.stack([clips[row] for row in rows])).logits.float()
        for row, values in zip(rows, output, strict=True):
            logits[row] = values
    return torch.stack(logits)


@torch.inference_mode()
def predict(model: torch.nn.Module, clips: torch.utils.data.Dataset, description: str) -> torch.Tensor:
    """Return the probabilities (num_clips, num_labels) of whole clips in float32 on the CPU.

    With several processes each takes its share, and all get the whole result in the clips' order.
    """
    state = PartialState()
    model.eval()
    mine = range(state.process_index, len(clips), state.num_processes)
    logits = []
    for index in tqdm(mine, description, disable=None if state.is_main_process else True):
        values = clips[index]["input_values"].to(model.device)
        logits.append((index, unpadded_logits(model, [values])[0].cpu()))
    in_order = [values for _, values in sorted(gather_object(logits), key=lambda pair: pair[0])]
    return torch.stack(in_order).double().softmax(dim=-1)
