"""The saved classifier and its training, for metrics.json and in words for the model card."""

from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from utils.encoders.encoding import EncodedClips
from utils.encoders.families import POSITIONS_PER_SECOND, family_of
from utils.encoders.partial_model import FrozenClips

PRETRAINING = {
    "openai/whisper-": ("680,000 hours of transcribed speech from the web (Radford et al. 2022)", "MIT"),
    "facebook/wav2vec2-base": ("960 hours of LibriSpeech (Baevski et al. 2020)", "Apache-2.0"),
    "facebook/wav2vec2-xls-r-": ("436,000 hours of speech in 128 languages (Babu et al. 2021)", "Apache-2.0"),
    "facebook/hubert-base-ls960": ("960 hours of LibriSpeech (Hsu et al. 2021)", "Apache-2.0"),
    "facebook/hubert-large-ll60k": ("60,000 hours of Libri-Light (Hsu et al. 2021)", "Apache-2.0"),
    "facebook/w2v-bert-2.0": ("4.5 million hours of speech in 143 languages (Barrault et al. 2023)", "MIT"),
    "microsoft/wavlm-base-plus": ("94,000 hours of English speech (Chen et al. 2022)", "CC BY-SA 3.0"),
    "microsoft/wavlm-large": ("94,000 hours of English speech (Chen et al. 2022)", "CC BY-SA 3.0"),
}
"""Beginning of a Hub id -> what the encoder was pretrained on, and the licence of its weights."""


def describe_classifier(model: torch.nn.Module, folder: Path, options, facts: dict[str, dict]) -> dict:
    """Return the section `model` of metrics.json.

    Args:
        model: the saved classifier.
        folder: where its weights are.
        options: model options of the script.
        facts: model name -> `kept` and more, the published model last.
    """
    kept = list(facts.values())[-1]["kept"]
    name = options.model_name_or_path
    is_on_hub = not options.from_config and not Path(name).exists()
    known = [facts for beginning, facts in PRETRAINING.items() if is_on_hub and name.startswith(beginning)]
    return {
        "library": "transformers",
        "base_model": name if is_on_hub else None,
        "pretraining": dict(zip(("data", "license"), known[0], strict=True)) if known else None,
        "description": _describe_layers(model, options, kept),
        "starts_random": options.from_config is not None,
        "parameters": model.num_parameters(),
        "window_seconds": _window_seconds(model),
        "weights_mb": (folder / "model.safetensors").stat().st_size / 1e6,
    }


def _window_seconds(model: torch.nn.Module) -> int | None:
    has_window = family_of(model.config).has_window
    return model.config.max_source_positions // POSITIONS_PER_SECOND if has_window else None


def _describe_layers(model: torch.nn.Module, options, kept: str) -> str:
    if options.from_config:
        encoder = f"a randomly initialised {options.from_config} wav2vec2 encoder"
    else:
        encoder = f"the {model.config.model_type} encoder `{Path(options.model_name_or_path).name}`"
    if window := _window_seconds(model):
        encoder += f" with a window of {window} s, to which clips are cut or padded"
    num_layers = model.config.num_hidden_layers
    encoder += f", cut after its first {num_layers} layers"
    if kept == "probe":
        return f"{encoder}, frozen, with a linear classifier on its output, averaged over time"
    if options.parameter_efficient == "lora":
        tuned = (
            f"low-rank adapters (LoRA, rank {options.lora_rank}) were trained in its layers and are merged"
        )
    else:
        num_tuned = min(options.unfreeze_layers, num_layers)
        tuned = f"the last {num_tuned} of these layers were fine-tuned, the others stayed frozen"
    return f"{encoder}, with a linear classifier on its output, averaged over time; {tuned}"


def describe_probes(encoded: EncodedClips) -> dict:
    """Return the section `probe` of metrics.json; nothing without probes."""
    if not encoded.probes:
        return {}
    probes = encoded.probes.items()
    return {
        "probe": {
            "seconds": encoded.seconds,
            "choices": {
                name: {num_layers: float(uars.max()) for num_layers, uars in probe.choice.items()}
                for name, probe in probes
            },
            "chosen": {
                name: {
                    "num_layers": probe.num_layers,
                    "C": probe.strength,
                    "window_seconds": probe.window_seconds,
                }
                for name, probe in probes
            },
        }
    }


def describe_training(
    options, args: TrainingArguments, trainer: Trainer | None, facts: dict[str, dict], encoded: EncodedClips
) -> dict:
    """Return the section `training` of metrics.json.

    Args:
        options: training options of the script.
        trainer: of the published model; None: nothing was fine-tuned.
        facts: model name -> `kept` and `validation_uar`, the published model last.
    """
    history = trainer.state.log_history if trainer else []
    seconds = sum(entry["seconds"] for entry in history)
    on_gpu = args.device.type == "cuda"
    section = {
        "description": _describe_stages(options, args, trainer, facts, bool(encoded.probes)),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "epochs": trainer.state.epoch if trainer else 0,
        "seconds": encoded.seconds + seconds,
        "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None,
        "history": history,
    }
    if trainer:
        trained = (values for values in trainer.model.parameters() if values.requires_grad)
        section["clips_per_second"] = len(trainer.train_dataset) * trainer.state.epoch / seconds
        section["trained_parameters"] = sum(values.numel() for values in trained)
    return section


def _describe_stages(options, args, trainer, facts: dict[str, dict], probed: bool) -> str:
    sentences = []
    if probed:
        sentences.append(
            "First a probe: standardised time means of the frozen encoder's output, logistic regression with "
            "balanced class weights; the number of layers and C were chosen by cross-validation among the "
            "training speakers."
        )
    if trainer:
        sentences.append(_describe_fine_tuning(options, args, trainer, probed))
    *folds, last = facts.values()
    if len(last["validation_uar"]) > 1:
        scores = " and ".join(f"{kind} {100 * uar:.1f} %" for kind, uar in last["validation_uar"].items())
        sentences.append(f"The stage with the better validation UAR was kept ({scores}): {last['kept']}.")
    elif trainer and last["kept"] == "probe":
        sentences.append("The fine-tuning diverged: its logits were not finite. The probe was kept.")
    if folds and trainer and probed:
        tuned = sum(fact["kept"] == "fine-tuned" for fact in folds)
        sentences.append(f"Of the {len(folds)} models of the folds, {tuned} were kept fine-tuned.")
    return " ".join(sentences)


def _describe_fine_tuning(options, args, trainer, probed: bool) -> str:
    evaluations = [entry for entry in trainer.state.log_history if "eval_uar" in entry]
    best, choice = evaluations[-1]["step"], "the end"
    if args.load_best_model_at_end:
        best, choice = trainer.state.best_global_step, f"the best validation {args.metric_for_best_model}"
    entry = next(entry for entry in evaluations if entry["step"] == best)
    clips = f"clips of similar length cut to at most {options.max_length_seconds:g} s"
    config = getattr(trainer.model, "config", None)
    masks = config is not None and config.apply_spec_augment and config.mask_time_prob > 0
    # `Clips` masks the spectrograms that it augments.
    masks |= options.augment and config is not None and family_of(config).input_name == "input_features"
    if isinstance(trainer.train_dataset, FrozenClips):
        clips = "whole clips, which the frozen layers processed once"
    return (
        f"{'Then fine-tuning from there' if probed else 'Trained'} with {args.optim.value}, weight decay "
        f"{args.weight_decay:g}, learning rate {args.learning_rate:g} for the encoder layers and "
        f"{options.head_learning_rate:g} for the head, schedule {args.lr_scheduler_type.value}, in "
        f"batches of {options.global_batch_size} {clips}; class weights {options.class_weights}; "
        f"augmentation {'on' if options.augment else 'off'}, SpecAugment {'on' if masks else 'off'}. Of "
        f"{len(evaluations)} evaluations the state at {choice} was kept: epoch {entry['epoch']:g}, "
        f"validation UAR {100 * entry['eval_uar']:.1f} %."
    )
