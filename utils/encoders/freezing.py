"""Freeze parts of a stock classifier, add adapters to it, and compute its predictions (PyTorch).

Works with the classifiers of all `families`.
"""

from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from utils.encoders.families import family_of

HEAD = ("projector", "classifier")
"""The modules of a stock classifier that do not belong to the encoder."""


def is_head(parameter_name: str) -> bool:
    """Return whether a parameter belongs to the classification head."""
    return parameter_name.split(".")[0] in HEAD


def layer_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the hidden states from the output of a transformer layer.

    The output is a tuple in transformers up to 5.15, and for WavLM in every version.
    """
    return output[0] if isinstance(output, tuple) else output


def count_frozen_layers(model: torch.nn.Module, num_tuned: int) -> int:
    """Return the number of layers of a stock classifier before the last `num_tuned`."""
    return max(0, len(model.base_model.encoder.layers) - num_tuned)


def freeze_all_but_last(model: torch.nn.Module, num_layers: int) -> list[torch.nn.Module]:
    """Freeze all parameters except the head and the last layers.

    Args:
        model: a stock classifier; changed in place.
        num_layers: number of transformer layers that stay trainable; more than there are means all.

    Returns:
        the frozen modules. Keep them in eval mode during training: dropout would only add noise.
    """
    base, layers = model.base_model, model.base_model.encoder.layers
    num_frozen = count_frozen_layers(model, num_layers)
    freeze_encoder(model)
    layers[num_frozen:].requires_grad_(True)
    frozen = [base.get_submodule(name) for name in family_of(model.config).before_layers]
    frozen += layers[:num_frozen]
    if num_frozen and isinstance(getattr(base.encoder, "dropout", None), torch.nn.Module):
        frozen.append(base.encoder.dropout)  # applied before the first layer
    return frozen


def freeze_encoder(model: torch.nn.Module) -> None:
    """Train nothing but the head."""
    if hasattr(model, "freeze_feature_encoder"):
        model.freeze_feature_encoder()  # stops it from requiring gradients of its input
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_head(name))


def count_frames(model: torch.nn.Module, num_samples: Sequence[int]) -> list[int]:
    """Return the number of frames that the encoder computes from clips of these numbers of samples."""
    family = family_of(model.config)
    if family.has_window:
        return [model.config.max_source_positions] * len(num_samples)
    if family.input_name == "input_features":  # of w2v-BERT: pairs of frames of 25 ms, 10 ms apart
        return [(1 + (samples - 400) // 160) // 2 for samples in num_samples]
    return model.base_model._get_feat_extract_output_lengths(torch.tensor(list(num_samples))).tolist()


def add_lora(model: torch.nn.Module, rank: int):
    """Freeze the encoder and add low-rank adapters to the feed-forward parts of all its layers.

    The attention gets no adapters: WavLM reads the weights of its projections directly and bypasses their
    forward pass, so an adapter there would not be trained, and would still be merged.

    Args:
        model: a stock classifier; its head stays trainable, and its output is unchanged.
        rank: of the adapters.

    Returns:
        the peft model around it. Its `merge_and_unload()` returns a stock classifier again (Hu et al. 2022,
        "LoRA: Low-Rank Adaptation of Large Language Models").
    """
    from peft import LoraConfig, LoraModel
    from peft.tuners.lora import Linear

    targets = list(family_of(model.config).adapted)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules=targets)
    # peft would choose the same class, but it would import torchao first, and it rejects the version on Colab
    # (peft's guide to custom models, "dynamic dispatch").
    config._register_custom_module({torch.nn.Linear: Linear})
    freeze_encoder(model)
    adapted = LoraModel(model, config, "default")
    for name, parameter in model.named_parameters():
        if is_head(name):
            parameter.requires_grad_(True)
    return adapted


def unpadded_logits(model: torch.nn.Module, clips: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return float32 logits (num_clips, num_labels), for each clip the same as for that clip alone.

    Args:
        model: a stock classifier.
        clips: its input for each clip, from `families.extract_input`, on the device of the model. Clips of
            equal length share a forward pass.
    """
    name = "input_values" if clips[0].ndim == 1 else "input_features"
    logits = [None] * len(clips)
    for shape in dict.fromkeys(clip.shape for clip in clips):
        rows = [row for row, clip in enumerate(clips) if clip.shape == shape]
        output = model(**{name: torch.stack([clips[row] for row in rows])}).logits.float()
        for row, values in zip(rows, output, strict=True):
            logits[row] = values
    return torch.stack(logits)


@torch.inference_mode()
def predict(model: torch.nn.Module, clips: torch.utils.data.Dataset, description: str) -> torch.Tensor:
    """Return the probabilities of whole clips. With several processes each predicts a share of the clips.

    Args:
        model: a stock classifier; it is set to eval mode.
        clips: `batches.Clips`, whole.
        description: of the progress bar.

    Returns:
        float64 (num_clips, num_labels) on the CPU, in all processes. The logits are computed in float32.
    """
    state = PartialState()
    model.eval()
    own_clips = range(state.process_index, len(clips), state.num_processes)
    logits = []
    for index in tqdm(own_clips, description, disable=None if state.is_main_process else True):
        values = clips[index]["input_values"].to(model.device)
        logits.append((index, unpadded_logits(model, [values])[0].cpu()))
    in_order = [values for _, values in sorted(gather_object(logits), key=lambda pair: pair[0])]
    return torch.stack(in_order).double().softmax(dim=-1)
