"""Fine-tune wav2vec2 (or XLS-R, HuBERT, WavLM) on RAVDESS and TESS, and write a model card.

First a linear probe is fitted on the layers of the frozen encoder. Then the last layers are fine-tuned from
there. The run keeps the stage with the better validation UAR (unweighted average recall).

Try it offline, with synthetic voices and a tiny random encoder (a few minutes on 2 CPU cores):

    python train_wav2vec2.py --demo

The full run, on a Colab or Kaggle GPU; corpora that are not found are downloaded (430 MB):

    accelerate launch train_wav2vec2.py --output_dir runs/wav2vec2

On a laptop, with clips that you have, the probe alone:

    python train_wav2vec2.py --corpora ravdess --data_dir ~/ravdess --num_train_epochs 0

`python train_wav2vec2.py options.yaml` takes the options from a YAML or JSON file; --help_all lists those of
transformers' TrainingArguments, which work too. The run folder then holds a model for
`pipeline("audio-classification")`, its card (README.md), metrics.json, predictions.csv and figures.
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
        metadata={"help": "Hub id or folder of a wav2vec2, XLS-R, HuBERT or WavLM checkpoint."},
    )
    from_config: str | None = field(
        default=None,
        metadata={"help": "Random encoder of that size instead, without a download.",
                  "choices": ["tiny", "base", "large"]},
    )  # fmt: skip
    no_probe: bool = field(
        default=False, metadata={"help": "Fine-tune from a fresh head, not from that of the probe."}
    )
    unfreeze_layers: int = field(
        default=3, metadata={"help": "Fine-tune this many of the last transformer layers."}
    )
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

    num_train_epochs: float = field(default=20, metadata={"help": "Epochs of fine-tuning; 0: probe alone."})
    global_batch_size: int = field(
        default=8, metadata={"help": "Clips per optimiser step, over all GPUs and accumulation steps."}
    )
    per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "Clips per GPU and forward pass; default: from --global_batch_size."}
    )
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Passes per optimiser step."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Of the encoder layers."})
    head_learning_rate: float = field(default=1e-4, metadata={"help": "Of the head."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    lr_scheduler_type: str = field(
        default="reduce_lr_on_plateau", metadata={"help": "Any schedule of transformers."}
    )
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
    "learning_rate": 1e-3,
    "head_learning_rate": 1e-2,
    "lr_scheduler_type": "linear",
}
"""What --demo stands for; each can still be given."""


def parse_arguments(argv: list[str]) -> tuple:
    """Parse the command line; last come further arguments of transformers' TrainingArguments, as text."""
    types = (DataOptions, ModelOptions, TrainingOptions, RunOptions, HubOptions)
    options = parse_options(
        argv, types, __doc__, {"output_dir": "runs/wav2vec2"}, DEMO, more=training_argument_names()
    )
    _, model, training, *_ = options
    if model.no_probe and training.num_train_epochs <= 0:
        raise InputError(
            "--no_probe with --num_train_epochs 0: expected one of them; nothing would be trained"
        )
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
import transformers
from accelerate import PartialState
from datasets import DatasetDict
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score
from transformers import AutoModelForAudioClassification, Trainer, TrainingArguments

from utils.data import SAMPLING_RATE, build_dataset, load_clips, plan_models
from utils.encoders import (
    Clips,
    DeployedClassifier,
    EncodedClips,
    FineTuning,
    FrozenClips,
    OnSaveCallback,
    broadcast_from_main,
    build_classifier,
    build_trainer,
    describe_classifier,
    describe_probes,
    describe_training,
    encode_clips,
    ensure_local,
    find_checkpoint,
    fine_tune,
    fold_into,
    freeze_all_but_last,
    predict,
    scale_logits,
    shares_disk_with_main,
    training_arguments,
)
from utils.evaluation import fit_temperature, occlude
from utils.hub import TrainingRun
from utils.onnx_export import export_and_compare, require_onnx
from utils.report import TrainedModel
from utils.runtime import check_gpu, describe_device, logger


@dataclass
class Job:
    """What the steps of a run share."""

    run: TrainingRun
    model: ModelOptions
    training: TrainingOptions
    args: TrainingArguments
    shared: bool  # this machine sees the run folder of the main process
    checkpoint: str | None = None  # that the user named
    extractor: object = None  # of the encoder
    encoded: EncodedClips | None = None
    caches_frozen_layers: bool = False
    resumed: bool = False

    @property
    def tuning(self) -> FineTuning:
        """How the classifier is fine-tuned."""
        return FineTuning(
            unfreeze_layers=self.model.unfreeze_layers,
            lora_rank=self.model.lora_rank if self.model.parameter_efficient == "lora" else None,
            head_learning_rate=self.training.head_learning_rate,
            class_weights=self.training.class_weights,
            max_length_seconds=self.training.max_length_seconds,
            early_stopping_patience=self.training.early_stopping_patience,
        )

    def new_classifier(self, probe=None) -> torch.nn.Module:
        """Return the pretrained encoder with the head of a probe, or with a fresh one."""
        transformers.set_seed(self.run.options.seed)
        name, size = self.model.model_name_or_path, self.model.from_config
        classifier, self.extractor = build_classifier(name, size, self.run.clips.emotions)
        if probe:
            fold_into(classifier, probe)
        return classifier


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
    if not args.use_cpu:
        check_gpu()
    if training.export == "onnx":
        require_onnx()
    folder = Path(options.output_dir)
    logger.info(
        "Run folder %s, %s, world size %d", folder, describe_device(args.device.type), args.world_size
    )
    run = TrainingRun(
        __file__,
        folder,
        data,
        options,
        hub,
        model,
        training,
        writes=args.should_save,
        agree=broadcast_from_main,
    )
    if run.is_complete:
        run.close_complete()
        return
    job = Job(run, model, training, args, shared=shares_disk_with_main(folder))
    tidies = args.should_save or (args.local_process_index == 0 and not job.shared)
    with args.main_process_first():  # the other processes read what it cached
        clips = load_clips(data, options.evaluate_on)
    plan = plan_models(clips, data.protocol, options.seed)
    with args.main_process_first():
        settings = asdict(model) | {"augment": training.augment}
        job.checkpoint = run.begin(clips, plan, settings, tidies, job.shared)
    encode(job)
    for name, split in run.unfinished():
        dataset = build_dataset(split, clips.waveforms, clips.emotions)
        candidates, classifier, trainer = train(job, name, split, dataset)
        facts = select(dataset["validation"]["label"], candidates)
        saved = None
        if split is plan.final or facts["kept"] == "fine-tuned":
            saved = save(job, name, classifier, facts)
        run.score(name, partial(predict_part, job, name, dataset, saved, facts), facts)
        if split is not plan.final and tidies:
            shutil.rmtree(run.checkpoints_of(name), ignore_errors=True)
        PartialState().wait_for_everyone()
    if args.should_save:
        run.finish(describe(job, saved, trainer))
    elif tidies:
        shutil.rmtree(folder / "checkpoints")


def encode(job: Job) -> None:
    """Run the frozen encoder over all clips, and fit the probes."""
    tunes, run = job.training.num_train_epochs > 0, job.run
    # Without augmentation or adapters the frozen layers compute the same in each epoch: they run once.
    job.caches_frozen_layers = tunes and not job.training.augment and not job.tuning.lora_rank
    classifier = job.new_classifier()
    if tunes:  # fails before the long work if the encoder has fewer layers
        freeze_all_but_last(classifier, job.model.unfreeze_layers)
    job.encoded = encode_clips(
        classifier.to(job.args.device),
        job.extractor,
        run.clips,
        run.plan,
        run.data.protocol,
        run.data.cache_folder(),
        with_probes=not job.model.no_probe,
        frames_folder=run.folder / "checkpoints" / "frozen" if job.caches_frozen_layers else None,
        unfreeze_layers=job.model.unfreeze_layers if tunes else 0,
    )


def train(job: Job, name: str, split: pd.DataFrame, dataset: DatasetDict):
    """Fine-tune a classifier from the head of its probe.

    Returns:
        probabilities of the validation clips by "probe" and "fine-tuned", as far as there are both; the
        fine-tuned classifier and its Trainer, or None.
    """
    probe, classifier, trainer, candidates = job.encoded.probes.get(name), None, None, {}
    rows = {part: np.flatnonzero(split["split"] == part) for part in ("train", "validation")}
    if probe:
        candidates["probe"] = softmax(probe.logits(job.encoded.means, rows["validation"]), axis=1)
    if job.training.num_train_epochs > 0:
        classifier = job.new_classifier(probe)
        if job.caches_frozen_layers:
            train, validation = (
                FrozenClips(job.encoded.frames, job.encoded.means, rows[part], dataset[part]["label"])
                for part in ("train", "validation")
            )
        else:
            augment, seed = job.training.augment, job.run.options.seed
            train = Clips(dataset["train"], job.extractor, augmented=augment, seed=seed)
            validation = Clips(dataset["validation"], job.extractor)
        folder = job.run.checkpoints_of(name)
        job.args.output_dir = str(folder)
        resumes = job.run.options.resume_from_checkpoint is not None
        checkpoint = find_checkpoint(folder, job.checkpoint, resumes, job.shared)
        callbacks = [OnSaveCallback(job.run.uploader)] if job.run.uploader else []
        trainer, adapted = build_trainer(classifier, train, validation, job.tuning, job.args, callbacks)
        job.resumed = checkpoint is not None
        fine_tune(trainer, checkpoint)
        candidates["fine-tuned"] = softmax(trainer.predict(validation).predictions, axis=1)
        if adapted:
            adapted.merge_and_unload()
    return candidates, classifier, trainer


def select(truth: list[int], candidates: dict[str, np.ndarray]) -> dict:
    """Return which stage has the better validation UAR, and the temperature that calibrates it."""
    uar = {
        kind: balanced_accuracy_score(truth, probabilities.argmax(axis=1))
        for kind, probabilities in candidates.items()
    }
    kept = max(uar, key=uar.get)  # the probe, if they are equal
    scores = ", ".join(f"{kind} {100 * each:.1f} %" for kind, each in uar.items())
    logger.info("Validation UAR: %s. Kept: %s", scores, kept)
    temperature = fit_temperature(np.asarray(truth), candidates[kept])
    return {"kept": kept, "temperature": temperature, "validation_uar": uar}


def save(job: Job, name: str, classifier: torch.nn.Module | None, facts: dict) -> torch.nn.Module:
    """Save the classifier of the better stage, calibrated; return it, loaded back."""
    run = job.run
    if facts["kept"] == "probe":
        classifier = job.new_classifier(job.encoded.probes[name])
    scale_logits(classifier, 1 / facts["temperature"])
    folder = run.folder if run.plan.models[name] is run.plan.final else run.checkpoints_of(name)
    if job.args.should_save:
        classifier.save_pretrained(folder)
        job.extractor.save_pretrained(folder)
    folder = ensure_local(folder, run.checkpoints_of(name), job.shared)
    return AutoModelForAudioClassification.from_pretrained(folder).to(job.args.device)


def predict_part(job: Job, name: str, dataset, saved, facts: dict, part: str, rows: pd.DataFrame):
    """Return the probabilities (num_clips, num_emotions) of a part of a split.

    They are those of the saved classifier, in float32, one whole clip at a time. The probe of a fold is not
    saved: scikit-learn gives the same probabilities to 1e-5, and no clip is encoded again.
    """
    if saved is None:
        positions = job.run.clips.table.index.get_indexer(rows.index)
        logits = job.encoded.probes[name].logits(job.encoded.means, positions)
        return softmax(logits / facts["temperature"], axis=1)
    return predict(saved, Clips(dataset[part], job.extractor), f"Predicting the {part} clips")


def describe(job: Job, saved: torch.nn.Module, trainer: Trainer | None) -> TrainedModel:
    """Return the saved model with what the report says of it."""
    run, deployed = job.run, DeployedClassifier(saved, job.extractor)
    sections = {"stages": run.facts} | describe_probes(job.encoded)
    if job.training.export == "onnx":
        sections["onnx"] = export_and_compare(run.folder, run.clips, run.plan)
    return TrainedModel(
        predict_proba=deployed.predict_proba,
        classify=deployed.classify,
        about=describe_classifier(saved, run.folder, job.model, run.facts, job.encoded),
        training=describe_training(job.training, job.args, trainer, run.facts, job.encoded)
        | {"resumed": job.resumed, "num_processes": job.args.world_size},
        packages=("torch", "transformers", "datasets", "evaluate", "accelerate", "huggingface_hub"),
        device=describe_device(job.args.device.type),
        temperatures={name: facts["temperature"] for name, facts in run.facts.items()},
        explain=lambda waveform, label: occlude(deployed.predict_proba, waveform, SAMPLING_RATE, label),
        sections=sections,
    )


if __name__ == "__main__":
    run_script(main, *OPTIONS)
    PartialState().destroy_process_group()
