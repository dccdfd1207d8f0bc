"""Fine-tune wav2vec2 (or XLS-R, HuBERT, WavLM, Whisper) on RAVDESS and TESS, and write a model card.

First a linear probe is fitted on the layers of the frozen encoder. Then the last layers are fine-tuned from
there. The run keeps the stage with the better validation UAR (unweighted average recall).

Try it offline, with synthetic voices and a tiny random encoder (a few minutes on 2 CPU cores):

    python train_wav2vec2.py --demo

The full run, on a Colab or Kaggle GPU; corpora that are not found are downloaded (430 MB):

    accelerate launch train_wav2vec2.py --output_dir runs/wav2vec2

On a laptop, with clips that you have, the probe alone:

    python train_wav2vec2.py --corpora ravdess --data_dir ~/ravdess --num_train_epochs 0

Without options: RAVDESS speech and TESS, the emotions that both have, tested on fixed unseen speakers
(--protocol holdout). The flags of transformers' TrainingArguments work too (--help_all). The run folder then
holds a model for `pipeline("audio-classification")`, its card, metrics.json, predictions.csv and figures.
"""

import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils.data.audio import MIN_SECONDS
from utils.data.options import DataOptions
from utils.options import HubOptions, RunOptions, parse_options, training_argument_names
from utils.runtime import InputError, run_script


@dataclass
class ModelOptions:
    """Which encoder, and how much of it is trained."""

    _argument_group_name = "model"

    model_name_or_path: str = field(
        default="facebook/wav2vec2-base-960h",
        metadata={"help": "Hub id or folder of a wav2vec2, XLS-R, HuBERT, WavLM or Whisper checkpoint."},
    )
    from_config: str | None = field(
        default=None,
        metadata={"help": "Random encoder of that size instead, without a download.",
                  "choices": ["tiny", "base", "large"]},
    )  # fmt: skip
    no_probe: bool = field(default=False, metadata={"help": "Fine-tune from a fresh head, not a probe."})
    window_seconds: int | None = field(default=None, metadata={"help": "Of Whisper; default: chosen."})
    keep_layers: int | None = field(default=None, metadata={"help": "Layers to keep; default: chosen."})
    unfreeze_layers: int = field(default=3, metadata={"help": "Fine-tune this many of the last layers."})
    parameter_efficient: str = field(
        default="none",
        metadata={"help": "lora: low-rank adapters in all layers instead of --unfreeze_layers, for large "
                  "encoders; merged before saving.", "choices": ["none", "lora"]},
    )  # fmt: skip
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapters."})


@dataclass
class TrainingOptions:
    """How it is fine-tuned. These defaults fit a base encoder into the 15 GB of a T4."""

    _argument_group_name = "training"

    num_train_epochs: float = field(default=15, metadata={"help": "Epochs of fine-tuning; 0: probe alone."})
    global_batch_size: int = field(
        default=16, metadata={"help": "Clips per optimiser step, over all GPUs and accumulation steps."}
    )
    per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "Clips per GPU and forward pass; default: from --global_batch_size."}
    )
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Passes per optimiser step."})
    learning_rate: float = field(default=3e-5, metadata={"help": "Of the encoder layers."})
    head_learning_rate: float = field(default=1e-4, metadata={"help": "Of the head."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "Any schedule of transformers."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Share, if below 1, or number of the steps."})
    early_stopping_patience: int = field(
        default=5, metadata={"help": "Stop after so many epochs without a better validation UAR."}
    )
    class_weights: str = field(
        default="balanced",
        metadata={"help": "balanced: rare emotions count more in the loss.", "choices": ["balanced", "none"]},
    )
    augment: bool = field(
        default=False, metadata={"help": "Change speed, gain, position and noise of the training clips."}
    )
    max_length_seconds: float = field(
        default=4.0, metadata={"help": "With --augment or lora, training clips are cut to this."}
    )
    precision: str = field(
        default="auto",
        metadata={"help": "auto: bf16 on GPUs that have it, else fp16 on a GPU, else fp32.",
                  "choices": ["auto", "bf16", "fp16", "fp32"]},
    )  # fmt: skip
    dataloader_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that load clips, per GPU; default: 2 on a GPU, else 0."}
    )
    export: str = field(
        default="none",
        metadata={"help": "onnx: write ONNX files in float32 and in 8 bits too, and compare them.",
                  "choices": ["none", "onnx"]},
    )  # fmt: skip


DEMO = {
    "output_dir": "runs/demo",
    "from_config": "tiny",
    "num_train_epochs": 20,
    "early_stopping_patience": 20,
    "global_batch_size": 8,
    "learning_rate": 3e-4,
    "head_learning_rate": 3e-3,
}
"""Defaults under --demo; options on the command line override them."""


def parse_arguments(argv: list[str]) -> tuple:
    """Parse the command line; last come further arguments of transformers' TrainingArguments, as text."""
    types = (DataOptions, ModelOptions, TrainingOptions, RunOptions, HubOptions)
    options = parse_options(
        argv, types, __doc__, {"output_dir": "runs/wav2vec2"}, DEMO, more=training_argument_names()
    )
    _, model, training, *_ = options
    if model.no_probe and training.num_train_epochs <= 0:
        raise InputError(
            "--no_probe with --num_train_epochs 0: give only one of them; nothing would be trained"
        )
    if model.lora_rank < 1:
        raise InputError(f"--lora_rank {model.lora_rank}: expected at least 1")
    if training.max_length_seconds < MIN_SECONDS:
        raise InputError(
            f"--max_length_seconds {training.max_length_seconds}: expected at least {MIN_SECONDS}"
        )
    return options


if __name__ == "__main__":  # a wrong option ends here, before the slow imports
    OPTIONS = run_script(parse_arguments, sys.argv[1:])

from functools import partial

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from datasets import DatasetDict
from scipy.special import softmax
from transformers import Trainer

from utils.data import SAMPLING_RATE, build_dataset, load_clips, plan_models
from utils.encoders import (
    DeployedClassifier,
    EncoderJob,
    RunCallback,
    broadcast_from_main,
    build_trainer,
    describe_classifier,
    describe_probes,
    describe_training,
    find_checkpoint,
    fine_tune,
    shares_disk_with_main,
    training_arguments,
)
from utils.evaluation import fit_temperature, mean_uar, occlude
from utils.hub import TrainingRun
from utils.onnx_export import export_and_compare, require_onnx
from utils.report import TrainedModel
from utils.runtime import describe_device, logger

# ---------------------------------------------------------------------------------------------------
# Run


def main(
    data: DataOptions,
    model: ModelOptions,
    training: TrainingOptions,
    options: RunOptions,
    hub: HubOptions,
    flags: list[str],
) -> None:
    args = training_arguments(training, options, flags)
    if training.export == "onnx":
        require_onnx()
    folder = Path(options.output_dir)
    logger.info(
        "Run folder %s, %s, world size %d", folder, describe_device(args.device.type), args.world_size
    )
    processes = {"writes": args.should_save, "agree": broadcast_from_main}  # of several, one writes
    run = TrainingRun(__file__, folder, data, options, hub, model, training, **processes)
    if run.is_complete:
        run.close_complete()
        return
    job = EncoderJob(run, model, training, args, shared=shares_disk_with_main(folder))
    tidies = args.should_save or (args.local_process_index == 0 and not job.shared)
    with args.main_process_first():  # the other processes read what it cached
        clips = load_clips(data, options.evaluate_on)
    plan = plan_models(clips, data.protocol, options.seed, validates=training.num_train_epochs > 0)
    with args.main_process_first():
        settings = asdict(model) | {"augment": training.augment}
        job.checkpoint = run.begin(clips, plan, settings, tidies, job.shared)
    job.encode()  # the frozen encoder over all clips, and a probe for each model of the plan
    for name, split in run.unfinished():
        classifier = trainer = saved = None  # frees those of the previous fold
        dataset = build_dataset(split, clips.waveforms, clips.emotions)
        candidates, classifier, trainer = train(job, name, split, dataset)
        facts = select(split, candidates, job.encoded.probes.get(name))
        if split is plan.final or facts["kept"] == "fine-tuned":
            saved = job.save(name, classifier, facts)
        run.score(name, partial(job.predict_part, name, dataset, saved, facts), facts)
        if split is not plan.final and tidies:
            shutil.rmtree(run.checkpoints_of(name), ignore_errors=True)
        PartialState().wait_for_everyone()
    if args.should_save:
        run.finish(describe(job, saved, trainer))
    elif tidies:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def train(job: EncoderJob, name: str, split: pd.DataFrame, dataset: DatasetDict):
    """Predict the validation clips with the probe; fine-tune from its head, and predict them again.

    Returns:
        probabilities of the validation clips by "probe" and "fine-tuned", as far as there are both; the
        fine-tuned classifier and its Trainer, or None.
    """
    run, probe = job.run, job.encoded.probes.get(name)
    classifier, trainer, candidates = None, None, {}
    if probe:
        candidates["probe"] = job.predict_probe(name, split[split["split"] == "validation"])
    if job.training.num_train_epochs > 0:
        classifier = job.new_classifier(probe, calibrated=True)
        train, validation = job.training_sets(split, dataset, classifier)
        folder = run.checkpoints_of(name)
        job.args.output_dir = str(folder)
        resumes = run.options.resume_from_checkpoint is not None
        checkpoint = find_checkpoint(folder, job.checkpoint, resumes, job.shared)
        job.resumed = checkpoint is not None
        callbacks = [RunCallback(partial(run.report, name), run.uploader)]
        trainer, adapted = build_trainer(
            classifier, train, validation, job.tuning, job.args, callbacks, dataset["validation"]["corpus"]
        )
        fine_tune(trainer, checkpoint)  # ends with the weights of the best epoch
        logits = trainer.predict(validation).predictions
        if np.isfinite(logits).all():
            candidates["fine-tuned"] = softmax(logits, axis=1)
        elif probe:
            logger.warning("Fine-tuning diverged and is left out: lower --learning_rate to use it")
        else:
            raise InputError("the training diverged: its logits are not finite; lower --learning_rate")
        if adapted:
            adapted.merge_and_unload()  # into the classifier
    return candidates, classifier, trainer


def select(split: pd.DataFrame, candidates: dict[str, np.ndarray], probe) -> dict:
    """Return which stage has the better validation UAR, and the temperature that calibrates it."""
    rows = split[split["split"] == "validation"]
    if not len(rows):  # the probe alone, which was cross-validated among the training speakers
        return probe.facts
    uar = {
        stage: mean_uar(rows["label"], probabilities.argmax(axis=1), rows["corpus"])
        for stage, probabilities in candidates.items()
    }
    kept = max(uar, key=uar.get)  # the probe, if they are equal
    scores = ", ".join(f"{stage} {100 * each:.1f} %" for stage, each in uar.items())
    logger.info("Validation UAR: %s. Kept: %s", scores, kept)
    temperature = fit_temperature(split, candidates[kept])
    return {"kept": kept, "temperature": temperature, "validation_uar": uar}


def describe(job: EncoderJob, saved: torch.nn.Module, trainer: Trainer | None) -> TrainedModel:
    """Return the saved model with what the report says of it."""
    run, deployed = job.run, DeployedClassifier(saved, job.extractor)
    sections = {"stages": run.facts} | describe_probes(job.encoded)
    if job.training.export == "onnx":
        sections["onnx"] = export_and_compare(run.folder, run.clips, run.plan)
    return TrainedModel(
        predict_proba=deployed.predict_proba,
        classify=deployed.classify,
        about=describe_classifier(saved, run.folder, job.model, run.facts),
        training=describe_training(job.training, job.args, trainer, run.facts, job.encoded)
        | {"resumed": job.resumed, "num_processes": job.args.world_size},
        packages=("torch", "transformers", "datasets", "evaluate", "accelerate", "huggingface_hub"),
        device=describe_device(job.args.device.type),
        explain=lambda waveform, label: occlude(deployed.predict_proba, waveform, SAMPLING_RATE, label),
        sections=sections,
    )


if __name__ == "__main__":
    run_script(main, *OPTIONS)
    PartialState().destroy_process_group()
