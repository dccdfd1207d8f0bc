"""Probe and fine-tune wav2vec2 (or XLS-R, HuBERT, WavLM) on RAVDESS and TESS, and write a model card.

First the encoder hears each clip once, and a linear head learns from what its layers say. Then its last
layers are fine-tuned from there. What validates better is kept.

Try it offline, with synthetic voices and a tiny random encoder (a few minutes on 2 CPU cores):

    python train_wav2vec2.py --demo

The real thing, on a Colab or Kaggle GPU; corpora that are not at hand are downloaded (430 MB):

    accelerate launch train_wav2vec2.py --output_dir runs/wav2vec2

On a laptop, with clips that you have, the linear head alone:

    python train_wav2vec2.py --corpora ravdess --data_dir ~/ravdess --num_train_epochs 0

All flags of transformers' TrainingArguments work too, and `python train_wav2vec2.py options.yaml` takes
the same options from a YAML or JSON file. The run folder then holds a model for
`pipeline("audio-classification")`, its card (README.md), metrics.json, predictions.csv and figures.
"""

import copy
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from accelerate import PartialState
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    EarlyStoppingCallback,
    HfArgumentParser,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

from utils.data.audio import MIN_SECONDS, SAMPLING_RATE
from utils.data.corpora import CORPORA, REAL_CORPORA
from utils.data.custom_corpus import find_training_corpora
from utils.data.dataset import build_dataset
from utils.data.decoding import Waveforms
from utils.data.demo import make_demo_corpus
from utils.data.download import find_corpora
from utils.data.labels import choose_emotions
from utils.data.splits import (
    PROTOCOL_WORDS,
    PROTOCOLS,
    SINGLE_MODEL,
    SPLITS,
    describe_split,
    folds_digest,
    select_emotions,
    split_models,
    training_parts,
)
from utils.data.table import check_table, read_table
from utils.encoders.batches import Clips
from utils.encoders.distributed import (
    broadcast_from_main,
    broadcast_weights,
    ensure_local,
    shares_disk_with_main,
)
from utils.encoders.embeddings import embed
from utils.encoders.frames import Frames
from utils.encoders.freezing import (
    add_lora,
    count_frames,
    exclude_last_state,
    freeze_all_but_last,
    is_head,
    num_used_layers,
    predict,
    unpadded_logits,
)
from utils.encoders.partial_model import FrozenClips, TunedLayers
from utils.encoders.probe import Probe, fit_probes, fold_into, scale_logits
from utils.encoders.trainer import EmotionTrainer, OnSaveCallback
from utils.evaluation.calibration import fit_temperature
from utils.evaluation.emotion_metric import EmotionMetric
from utils.evaluation.explanations import occlude
from utils.evaluation.latency import measure_latency
from utils.evaluation.robustness import measure_robustness, wants_robustness_test
from utils.hub.checkpoints import CheckpointUploader, fetch_checkpoints
from utils.hub.publication import check_hub_options, publish
from utils.hub.repository import Repository
from utils.onnx_export.comparison import compare_onnx
from utils.onnx_export.exporter import export_onnx, require_onnx
from utils.report import report
from utils.report.audit import audit, explain
from utils.report.card import write_card
from utils.report.run_folder import begin_run, check_run_folder, last_checkpoint, save_reference_predictions
from utils.runtime import (
    PROJECT_ROOT,
    InputError,
    cache_folder,
    check_gpu,
    describe_device,
    first_line,
    logger,
    read_options,
    refuse_arguments,
    run_script,
    write_json,
    write_text,
)
from utils.score import evaluate_on

# ---------------------------------------------------------------------------------------------------
# Arguments

DEMO = {
    "output_dir": "runs/demo",
    "from_config": "tiny",
    "num_train_epochs": 20,
    "early_stopping_patience": 20,
    "learning_rate": 1.0e-3,
    "head_learning_rate": 1.0e-2,
    "lr_scheduler_type": "linear",
}
"""What --demo stands for; each can still be given by itself."""


@dataclass
class DataArguments:
    """Which clips, which labels, which split."""

    corpora: list[str] = field(
        default_factory=lambda: ["ravdess", "tess"], metadata={"help": f"Any of: {' '.join(REAL_CORPORA)}."}
    )
    data_dir: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders or zips with the clips, searched recursively. Without it: zips in the "
                  "project folder or data/, Kaggle inputs, then the network."},
    )  # fmt: skip
    emotions: list[str] = field(
        default_factory=list, metadata={"help": "Labels; by default those that all chosen corpora have."}
    )
    protocol: str = field(
        default="holdout",
        metadata={"help": "holdout: test speakers unheard. folds, loso, cross-corpus: a model per fold. "
                  "random: clips at random, to show the leak.", "choices": PROTOCOLS},
    )  # fmt: skip
    train_on: list[str] = field(
        default_factory=list, metadata={"help": "Folders of own labelled clips, to train on too."}
    )
    evaluate_on: list[str] = field(
        default_factory=list, metadata={"help": "Folders of own labelled clips, to score the model on too."}
    )
    no_stress_test: bool = field(default=False, metadata={"help": "Leave out the test of robustness."})
    stress_test: bool = field(default=False, metadata={"help": "Make it in the demo, too."})
    allow_partial: bool = field(
        default=False, metadata={"help": "Run although clips are missing or unusable; the card says so."}
    )
    cache_dir: str = field(
        default="", metadata={"help": "Folder for decoded audio; default: in the Hugging Face cache."}
    )
    max_length_seconds: float = field(
        default=4.0,
        metadata={"help": "With --augment or lora training clips are cut to this; else all are heard whole."},
    )
    augment: bool = field(
        default=False, metadata={"help": "Change speed, gain, position and noise of the training clips."}
    )
    demo: bool = field(
        default=False, metadata={"help": "Synthetic voices and a tiny encoder, offline. No real results."}
    )


@dataclass
class ModelArguments:
    """Which encoder, how much of it is tuned, what the head learns from."""

    model_name_or_path: str = field(
        default="facebook/wav2vec2-base-960h",
        metadata={"help": "Hub id or folder of a wav2vec2, XLS-R, HuBERT or WavLM checkpoint."},
    )
    from_config: str | None = field(
        default=None,
        metadata={"help": "Random encoder of that size instead, without any download.",
                  "choices": ["tiny", "base", "large"]},
    )  # fmt: skip
    no_probe: bool = field(
        default=False, metadata={"help": "Fine-tune from a fresh head, not from that of the probe."}
    )
    unfreeze_layers: int = field(
        default=3, metadata={"help": "The last so many transformer layers are tuned; the rest is frozen."}
    )
    parameter_efficient: str = field(
        default="none",
        metadata={"help": "lora: low-rank adapters in all layers instead of --unfreeze_layers, for large "
                  "encoders; merged before saving.", "choices": ["none", "lora"]},
    )  # fmt: skip
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapters."})
    head_learning_rate: float = field(
        default=1.0e-4, metadata={"help": "Of the head; --learning_rate is that of the encoder's layers."}
    )
    class_weights: str = field(
        default="balanced",
        metadata={"help": "balanced: rare emotions count more in the loss.", "choices": ["balanced", "none"]},
    )
    early_stopping_patience: int = field(
        default=5, metadata={"help": "Stop after so many epochs without a better validation UAR."}
    )


@dataclass
class RunArguments(TrainingArguments):
    """transformers' TrainingArguments with this kit's defaults: a base encoder fits a T4's 15 GB."""

    output_dir: str = field(default="runs/wav2vec2", metadata={"help": "The run folder."})
    overwrite: bool = field(
        default=False, metadata={"help": "Replace the run that --output_dir already holds."}
    )
    precision: str = field(
        default="auto",
        metadata={"help": "auto: bf16 on GPUs that have it, else fp16 on a GPU, else fp32.",
                  "choices": ["auto", "bf16", "fp16", "fp32"]},
    )  # fmt: skip
    num_train_epochs: float = 20
    global_batch_size: int = field(
        default=8, metadata={"help": "Clips per optimiser step, over all GPUs and accumulation steps."}
    )
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={"help": "Clips per GPU and pass, by default such that they make --global_batch_size."},
    )
    per_device_eval_batch_size: int = 8
    dataloader_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that load clips, per GPU; by default 2 on a GPU, else 0."}
    )
    learning_rate: float = 1.0e-5
    weight_decay: float = 0.01
    lr_scheduler_type: str = "reduce_lr_on_plateau"
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    logging_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "uar"
    greater_is_better: bool | None = True
    ddp_find_unused_parameters: bool | None = False  # every trained parameter takes part in each step
    ddp_timeout: int = 6 * 3600  # seconds; the others wait while the first decodes a corpus or fits probes
    export: str = field(
        default="none",
        metadata={"help": "onnx: write ONNX files too, in float32 and in 8 bits, and compare them.",
                  "choices": ["none", "onnx"]},
    )  # fmt: skip
    hub_strategy: str = field(
        default="end",
        metadata={"help": "checkpoint: keep the unfinished run on the Hub too; --resume_from_checkpoint hub "
                  "goes on anywhere.", "choices": ["end", "checkpoint"]},
    )  # fmt: skip

    def __post_init__(self):
        if str(self.resume_from_checkpoint).lower() in ("", "false", "no", "0"):
            self.resume_from_checkpoint = None
        if self.eval_strategy == "no":
            raise InputError(
                "--eval_strategy no: expected epoch or steps; the best model is chosen on validation clips"
            )
        if self.precision == "auto" and not (self.bf16 or self.fp16 or self.use_cpu):
            if torch.cuda.is_available():
                self.bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
                self.fp16 = not self.bf16
        elif self.precision in ("bf16", "fp16"):
            setattr(self, self.precision, True)
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 2 if torch.cuda.is_available() and not self.use_cpu else 0
        if self.lr_scheduler_type == "reduce_lr_on_plateau" and not self.lr_scheduler_kwargs:
            # By itself it waits for a falling metric, whatever metric_for_best_model is.
            self.lr_scheduler_kwargs = {"mode": "max", "factor": 0.5, "patience": 1}
        self.dataloader_pin_memory &= torch.cuda.is_available()
        self._choose_batch_size()
        super().__post_init__()
        if self.n_gpu > 1:  # one process, several GPUs: the Trainer would turn to DataParallel
            logger.info(
                "One of %d GPUs is used; `accelerate launch --multi_gpu` starts a process on each", self.n_gpu
            )
            self._n_gpu = 1

    def _choose_batch_size(self) -> None:
        """Take the same steps on any number of GPUs, unless the user says how many clips each gets."""
        passes = int(os.environ.get("WORLD_SIZE", 1)) * self.gradient_accumulation_steps
        if self.per_device_train_batch_size:
            self.global_batch_size = self.per_device_train_batch_size * passes
        elif self.global_batch_size <= 0 or self.global_batch_size % passes:
            raise InputError(
                f"--global_batch_size {self.global_batch_size}: expected a multiple of {passes}, the number "
                "of processes times --gradient_accumulation_steps"
            )
        else:
            self.per_device_train_batch_size = self.global_batch_size // passes


def parse_arguments(argv: list[str]) -> tuple[DataArguments, ModelArguments, RunArguments]:
    """Read the options from the command line, or from the one YAML or JSON file that it names."""
    # Without abbreviations: an option by another name could not be told to hold a token.
    parser = HfArgumentParser((DataArguments, ModelArguments, RunArguments), allow_abbrev=False)
    parser.error = refuse_arguments
    if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")):
        argv = read_options(Path(argv[0]))
    if parser.parse_args(argv).demo:
        # The demo's own options first: what the user gives comes last and wins.
        argv = [f"--{name}={value}" for name, value in DEMO.items()] + argv
    try:
        data, model, run = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (ValueError, ImportError) as error:  # TrainingArguments checks how its options fit together
        raise InputError(str(error)) from None
    for name in data.corpora:
        if name not in REAL_CORPORA:
            raise InputError(f"--corpora: unknown corpus '{name}'; known: {' '.join(REAL_CORPORA)}")
    if model.no_probe and run.num_train_epochs <= 0:
        raise InputError(
            "--no_probe with --num_train_epochs 0: expected one of them; nothing would be trained"
        )
    if data.max_length_seconds < MIN_SECONDS:
        raise InputError(f"--max_length_seconds {data.max_length_seconds}: expected at least {MIN_SECONDS}")
    if run.hub_token:
        raise InputError(
            "--hub_token: a command line can be read by others on this machine; put the token into the "
            "environment as HF_TOKEN, or run `hf auth login`"
        )
    if run.export == "onnx":
        require_onnx()
    check_hub_options(vars(run))
    return data, model, run


# ---------------------------------------------------------------------------------------------------
# The model

# Small enough for a laptop and a demo; dropout and masking are for encoders that could overfit.
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (128,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 64,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "mask_time_prob": 0.0,
}
# As XLS-R-300M is.
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
SIZES = {"tiny": TINY, "base": {}, "large": LARGE}


def build_model(arguments: ModelArguments, emotions: tuple[str, ...]):
    """Return a stock classifier whose head sums all layers with learnt weights, and its extractor."""
    settings = {
        "num_labels": len(emotions),
        "id2label": dict(enumerate(emotions)),
        "label2id": {emotion: label for label, emotion in enumerate(emotions)},
        "use_weighted_layer_sum": True,
        "layerdrop": 0.0,  # a layer that is skipped would be missing from the sum
    }
    if arguments.from_config:
        config = Wav2Vec2Config(**SIZES[arguments.from_config], **settings)
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
        model = AutoModelForAudioClassification.from_config(config)
        exclude_last_state(model)
        return model, extractor
    name = arguments.model_name_or_path
    try:
        extractor = AutoFeatureExtractor.from_pretrained(name)
        config = AutoConfig.from_pretrained(name, **settings)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--model_name_or_path {name}: cannot be loaded ({first_line(error)}). Expected a Hub id that "
            "this machine can reach, or a folder with config.json, preprocessor_config.json and weights; "
            "--from_config tiny needs neither"
        ) from None
    if not isinstance(extractor, Wav2Vec2FeatureExtractor) or not hasattr(config, "use_weighted_layer_sum"):
        raise InputError(
            f"--model_name_or_path {name}: is a {config.model_type}; expected an encoder of raw waveforms "
            "(wav2vec2, XLS-R, HuBERT, WavLM)"
        )
    if extractor.sampling_rate != SAMPLING_RATE:
        raise InputError(
            f"--model_name_or_path {name}: wants {extractor.sampling_rate} Hz, expected {SAMPLING_RATE} Hz"
        )
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it would warn that the head is new, which it is to be
    # Another classifier's head, of another number of labels, is replaced like a missing one.
    model, loading = AutoModelForAudioClassification.from_pretrained(
        name, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    transformers.logging.set_verbosity(verbosity)
    missing = [key for key in loading["missing_keys"] if not is_head(key) and "masked_spec_embed" not in key]
    if missing:
        raise InputError(
            f"--model_name_or_path {name}: has no weights for {len(missing)} parts of its encoder "
            f"({missing[0]}, ...)"
        )
    exclude_last_state(model)
    return model, extractor


def validation_scores(prediction: transformers.EvalPrediction) -> dict[str, float]:
    """Return the scores that are shown and selected on after each epoch."""
    logits, labels = prediction
    scores = EmotionMetric(keep_in_memory=True).compute(
        predictions=logits.argmax(axis=-1), references=labels, num_labels=logits.shape[-1]
    )
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    return {"loss": loss} | {name: scores[name] for name in ("uar", "accuracy", "macro_f1")}


def caches_frozen_layers(data: DataArguments, arguments: ModelArguments) -> bool:
    """Whether the frozen layers need to hear each clip but once: it and they are the same in each epoch."""
    return not data.augment and arguments.parameter_efficient == "none"


def build_trainer(
    model,
    train: Clips | FrozenClips,
    validation: Clips | FrozenClips,
    data: DataArguments,
    arguments: ModelArguments,
    args: RunArguments,
    callbacks: Sequence[TrainerCallback] = (),
):
    """Choose what learns of a model: the last layers, or adapters in all of them, and the head.

    Args:
        model: a stock classifier; it is changed in place.
        train, validation: the clips, or what the frozen layers made of them.
        callbacks: beside early stopping.

    Returns:
        the Trainer, and the model with adapters, still to be merged, if it has any.
    """
    adapted, frozen = None, []
    if arguments.parameter_efficient == "lora":
        adapted = add_lora(model, arguments.lora_rank)
    else:
        frozen = freeze_all_but_last(model, arguments.unfreeze_layers)
    class_weights = torch.ones(model.config.num_labels)
    if arguments.class_weights == "balanced":
        counts = np.bincount(train.labels)
        class_weights = torch.tensor(counts.sum() / (len(counts) * counts))
    num_trained = sum(values.numel() for values in model.parameters() if values.requires_grad)
    logger.info("%s of %s parameters are trained", f"{num_trained:,}", f"{model.num_parameters():,}")
    if isinstance(train, FrozenClips):
        trained = TunedLayers(model, arguments.unfreeze_layers)
        logits, max_samples = (lambda model, clips: model(clips)), max(train.lengths)
    else:
        trained = model
        logits, max_samples = unpadded_logits, round(data.max_length_seconds * SAMPLING_RATE)
    trainer = EmotionTrainer(
        model=trained,
        args=args,
        logits=logits,
        frozen=frozen,
        head_learning_rate=arguments.head_learning_rate,
        class_weights=class_weights,
        max_samples=max_samples,
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=validation_scores,
        callbacks=[EarlyStoppingCallback(arguments.early_stopping_patience), *callbacks],
    )
    return trainer, adapted


def fine_tune(trainer: EmotionTrainer, checkpoint: str | None) -> None:
    """Train, or go on from a checkpoint."""
    if checkpoint:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        stopped = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        if stopped and state.global_step < state.max_steps:
            # By early stopping, which the Trainer forgets as it begins: it would train an epoch more.
            trainer.args = copy.copy(trainer.args)
            trainer.args.num_train_epochs, trainer.args.max_steps = int(state.epoch), -1
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        logger.info("\nThe same command with --resume_from_checkpoint true goes on from the last epoch.")
        raise
    broadcast_weights(trainer.model)


def describe_model(arguments: ModelArguments, model, kept: str, probe: Probe | None) -> str:
    """Return the saved model in words, for the card."""
    if arguments.from_config:
        source = f"a randomly initialised {arguments.from_config} wav2vec2 encoder"
    else:
        source = f"the {model.config.model_type} encoder `{Path(arguments.model_name_or_path).name}`"
    num_layers, last = model.config.num_hidden_layers, num_used_layers(model.config)
    if last < num_layers:
        source += " (without the state after its last layer, which transformers' versions define differently)"
    if kept == "probe":
        heard = (
            "the average of its layers" if probe.layer is None else f"its layer {probe.layer} of {num_layers}"
        )
        return f"{source}, left as it was, with a linear classifier on {heard}, averaged over time"
    which = f"the last {arguments.unfreeze_layers}"
    if last < num_layers:
        which = f"layers {last - arguments.unfreeze_layers + 1} to {last}"
    tuned = f"{which} of {num_layers} transformer layers were tuned, the rest stayed frozen"
    if arguments.parameter_efficient == "lora":
        tuned = f"low-rank adapters (LoRA, rank {arguments.lora_rank}) tuned its layers and are merged in"
    return (
        f"{source} with a linear classifier on the learnt weighted sum of its layers, averaged over time; "
        f"{tuned}"
    )


def describe_training(
    data: DataArguments, model: ModelArguments, args: RunArguments, probed: bool, facts: dict, state
) -> str:
    """Return the training in words, for the card; `facts` of each model, `state` of the last Trainer."""
    sentences = []
    if probed:
        sentences += [
            "First a probe: standardised time means of the frozen encoder's layers, "
            "logistic regression with balanced class weights; layer and C were chosen by "
            "cross-validation among the training speakers."
        ]
    if state:
        evaluations = [entry for entry in state.log_history if "eval_uar" in entry]
        best = state.best_global_step if args.load_best_model_at_end else evaluations[-1]["step"]
        entry = next(entry for entry in evaluations if entry["step"] == best)
        choice = (
            f"the best validation {args.metric_for_best_model}" if args.load_best_model_at_end else "the end"
        )
        clips = f"clips of like length cut to at most {data.max_length_seconds:g} s"
        if caches_frozen_layers(data, model):
            clips = "whole clips, which the frozen layers heard once"
        sentences += [
            f"{'Then fine-tuning from there' if probed else 'Trained'} with {args.optim.value}, weight decay "
            f"{args.weight_decay:g}, learning rate {args.learning_rate:g} for the tuned encoder layers and "
            f"{model.head_learning_rate:g} for the head, schedule {args.lr_scheduler_type.value}, in batches "
            f"of {args.global_batch_size} {clips}; class weights {model.class_weights}; augmentation "
            f"{'on' if data.augment else 'off'}. Of {len(evaluations)} evaluations the state at {choice} was "
            f"taken: epoch {entry['epoch']:g}, validation UAR {100 * entry['eval_uar']:.1f} %."
        ]
    *folds, last = facts.values()
    if len(last["validation_uar"]) > 1:
        told = " and ".join(f"{kind} {100 * uar:.1f} %" for kind, uar in last["validation_uar"].items())
        sentences += [f"Of the two stages the one that validated better was kept ({told}): {last['kept']}."]
        if folds:
            tuned = sum(fact["kept"] == "fine-tuned" for fact in folds)
            sentences += [f"Of the {len(folds)} models of the folds {tuned} were kept fine-tuned."]
    return " ".join(sentences)


def main() -> None:
    start = time.perf_counter()
    data_args, model_args, args = parse_arguments(sys.argv[1:])
    if not args.use_cpu:
        check_gpu()
    if args.tf32 is None:  # PyTorch rounds the inputs of float32 convolutions to 10 bits by default
        torch.backends.cudnn.allow_tf32 = False
    # Publication is the kit's: the Trainer would push a card of its own, and pickles.
    push_to_hub, args.push_to_hub = args.push_to_hub, False
    run_folder = Path(args.output_dir)
    cache_dir = Path(data_args.cache_dir or cache_folder())
    device = describe_device(args.device.type)
    logger.info("Run folder %s, %s, world size %d", run_folder, device, args.world_size)
    if data_args.demo:
        logger.info("DEMO: synthetic voices, a tiny random encoder. These are not real results.")

    # -----------------------------------------------------------------------------------------------
    # Labelled table

    # The demo's own folder may always be replaced.
    overwrite = args.overwrite or (data_args.demo and run_folder == Path(DEMO["output_dir"]))
    # The run is on the disk of the first process; machines without a share in it keep there what they need.
    unfinished = broadcast_from_main(
        check_run_folder(
            run_folder, overwrite, bool(args.resume_from_checkpoint), bool(data_args.evaluate_on)
        )
    )
    shared = shares_disk_with_main(run_folder)
    tidies = args.should_save or (args.local_process_index == 0 and not shared)
    # Of several processes the first of each machine does the work, and the others read what it cached.
    with args.main_process_first(desc="reading the corpora"):
        repository = None
        if push_to_hub and args.should_save:  # what is amiss there is known before the training
            repository = Repository(
                args.hub_model_id or run_folder.resolve().name, bool(args.hub_private_repo)
            )
        if not unfinished:
            logger.info("Nothing to train: the run is complete, see %s", run_folder / "README.md")
            if args.should_save:
                evaluate_on(run_folder, data_args.evaluate_on, cache_dir, data_args.allow_partial)
            if repository:
                publish(repository, run_folder)
            return
        if args.resume_from_checkpoint == "hub":
            if repository:
                fetch_checkpoints(repository, run_folder)
            args.resume_from_checkpoint = "true"
        if data_args.demo:
            files = find_corpora(["demo"], [make_demo_corpus(PROJECT_ROOT / "data" / "demo")])
        else:
            files = find_corpora(data_args.corpora, [Path(folder) for folder in data_args.data_dir])
        own_files, own_clips = find_training_corpora(data_args.train_on, data_args.evaluate_on)
        files |= own_files
        table, waveforms = read_table(files, cache_dir, own_clips)
        table, findings = check_table(table, data_args.allow_partial)
    emotions = choose_emotions({name: CORPORA[name].emotions for name in files}, data_args.emotions or None)

    # -----------------------------------------------------------------------------------------------
    # Speaker split

    table = select_emotions(table, emotions)
    # After a model per fold comes the one that is published.
    folds, models, final = split_models(table, data_args.protocol, emotions, args.seed)
    logger.info("Split %s: %s", data_args.protocol, PROTOCOL_WORDS[data_args.protocol])

    # What a resumed run must have in common with the one that was begun.
    identity = {"split_digest": folds_digest(list(folds.values())), "emotions": list(emotions)}
    identity |= {"seed": args.seed, "augment": data_args.augment} | asdict(model_args)
    if len(models) > 1 and str(args.resume_from_checkpoint).lower() not in ("none", "true"):
        raise InputError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint}: expected true, for --protocol "
            f"{data_args.protocol} trains {len(models)} models; each goes on from its own last checkpoint"
        )
    with args.main_process_first(desc="looking for checkpoints"):
        named = args.resume_from_checkpoint
        if not shared:  # a checkpoint that is named is on the first machine
            named = named and "true"
        chosen = begin_run(run_folder, named, identity, writes=tidies)

    # -----------------------------------------------------------------------------------------------
    # Features: the waveform itself, at zero mean and unit variance where the encoder wants it so; and for
    # the probes what the frozen encoder makes of it, which no split or seed changes

    transformers.set_seed(args.seed)
    model, extractor = build_model(model_args, emotions)
    if args.num_train_epochs > 0:  # a user's mistake is named before the long work
        freeze_all_but_last(model, model_args.unfreeze_layers)
    begun = time.perf_counter()
    frames = None
    if args.num_train_epochs > 0 and caches_frozen_layers(data_args, model_args):
        num_layers = num_used_layers(model.config) - model_args.unfreeze_layers
        num_frames = count_frames(model, table["num_samples"])
        with args.main_process_first(desc="making room for frames"):
            frames = Frames(
                run_folder / "checkpoints" / "frozen", num_layers, num_frames, model.config.hidden_size
            )
    probes = {}
    if frames or not model_args.no_probe:
        means = embed(
            model.to(args.device),
            extractor,
            waveforms.select(table.index),
            table["num_samples"].tolist(),
            table["digest"].tolist(),
            cache_dir,
            frames,
        )
    if not model_args.no_probe:
        labels = table["emotion"].map(emotions.index).to_numpy()
        parts = training_parts(models.values(), data_args.protocol)
        probes = dict(zip(models, fit_probes(means, labels, parts, len(emotions)), strict=True))
    first_seconds = time.perf_counter() - begun

    def begin_model(name: str) -> torch.nn.Module:
        """Return the encoder with the head of a probe, or with a fresh one."""
        transformers.set_seed(args.seed)
        model, _ = build_model(model_args, emotions)
        if probes:
            fold_into(model, probes[name])
        return model

    keep = []
    if repository and args.hub_strategy == "checkpoint":
        keep = [OnSaveCallback(CheckpointUploader(repository, run_folder))]

    heard, facts = [], {}
    for name, split in models.items():
        model_folder = run_folder / "checkpoints" / name.replace(" ", "_")
        finished = model_folder.with_suffix(".csv")
        if broadcast_from_main(args.resume_from_checkpoint and finished.exists()):
            logger.info("%s: was trained and tested before", name)
            if args.should_save:
                heard.append(report.read_predictions(finished))
                facts[name] = json.loads(model_folder.with_suffix(".json").read_text(encoding="utf-8"))
            continue
        logger.info("Model of %s", name)
        for part, rows in describe_split(split).items():
            logger.info("  %-10s %5d clips by %s", part, rows["clips"], ", ".join(rows["speakers"]))

        # -------------------------------------------------------------------------------------------
        # Dataset

        dataset = build_dataset(split, waveforms, emotions)
        rows_of = {part: np.flatnonzero(split["split"] == part) for part in SPLITS}
        if frames:
            train, validation = (
                FrozenClips(frames, means, rows_of[part], dataset[part]["label"])
                for part in ("train", "validation")
            )
        else:
            train = Clips(dataset["train"], extractor, augmented=data_args.augment, seed=args.seed)
            validation = Clips(dataset["validation"], extractor)

        # -------------------------------------------------------------------------------------------
        # Training: the last layers and the head, from the head of the probe

        candidates, trainer = {}, None
        if probes:
            candidates["probe"] = softmax(probes[name].logits(means, rows_of["validation"]), axis=1)
        if args.num_train_epochs > 0:
            model = begin_model(name)
            args.output_dir = str(model_folder)
            checkpoint = chosen
            if args.resume_from_checkpoint and not chosen and args.should_save:
                checkpoint = last_checkpoint(model_folder)
            if checkpoint := broadcast_from_main(checkpoint):
                place = Path(checkpoint)
                checkpoint = str(ensure_local(place, model_folder / place.name, shared))
            trainer, adapted = build_trainer(model, train, validation, data_args, model_args, args, keep)
            fine_tune(trainer, checkpoint)
            candidates["fine-tuned"] = softmax(trainer.predict(validation).predictions, axis=1)

        # What validates better is kept, and its probabilities are made to mean what they say.
        truth = np.asarray(dataset["validation"]["label"])
        uar = {kind: balanced_accuracy_score(truth, told.argmax(axis=1)) for kind, told in candidates.items()}
        kept = max(uar, key=uar.get)  # the probe, where they are equal
        temperature = fit_temperature(truth, candidates[kept])
        facts[name] = {"kept": kept, "temperature": temperature, "validation_uar": uar}
        told = ", ".join(f"{kind} {100 * each:.1f} %" for kind, each in uar.items())
        logger.info("Validation UAR: %s. Kept: %s", told, kept)

        # -------------------------------------------------------------------------------------------
        # Test metrics: of the saved model, loaded back, in float32, one whole clip at a time. Of a fold's
        # probe scikit-learn gives the same, to 1e-5 in float32, and nothing has to be encoded again.

        by_probe = split is not final and kept == "probe"
        if not by_probe:
            if kept == "probe":
                model = begin_model(name)
            elif adapted:
                adapted.merge_and_unload()
            scale_logits(model, 1 / temperature)
            weights = run_folder if split is final else model_folder
            if args.should_save:
                model.save_pretrained(weights)
                extractor.save_pretrained(weights)
            weights = ensure_local(weights, model_folder, shared)
            saved = AutoModelForAudioClassification.from_pretrained(weights).to(args.device)
        scored = {}
        for part in ("validation", "test") if split is final else ("test",):
            if not len(dataset[part]):
                continue  # nobody is left to test the final model beside the folds
            if by_probe:
                probabilities = softmax(probes[name].logits(means, rows_of[part]) / temperature, axis=1)
            else:
                probabilities = predict(
                    saved, Clips(dataset[part], extractor), f"Listening to the {part} clips"
                )
            about = dataset[part].remove_columns("waveform").to_pandas()
            scored[part] = report.prediction_table(about, probabilities, emotions, name)
        if "test" in scored:
            heard.append(scored["test"])
        if split is not final and args.should_save:
            write_json(model_folder.with_suffix(".json"), facts[name])
            write_text(finished, scored["test"].to_csv(index=False))
        if split is not final and tidies:  # a fold's model has done its part
            shutil.rmtree(model_folder, ignore_errors=True)
        PartialState().wait_for_everyone()

    if not args.should_save:  # one process writes
        if tidies:
            shutil.rmtree(run_folder / "checkpoints")
        return
    predictions = {"validation": scored["validation"], "test": pd.concat(heard, ignore_index=True)}

    def classify(waveform: np.ndarray) -> torch.Tensor:
        values = extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")["input_values"]
        with torch.inference_mode():
            return saved(values.to(args.device)).logits.cpu()

    last = list(folds.values())[-1]
    checked, timed, examples = report.pick_waveforms(last[last["split"] == "test"], waveforms, emotions)
    latency = measure_latency(classify, timed, SAMPLING_RATE)

    # -----------------------------------------------------------------------------------------------
    # Report and card

    base_model = None
    if not model_args.from_config and not Path(model_args.model_name_or_path).exists():
        base_model = model_args.model_name_or_path
    history = trainer.state.log_history if trainer else []
    tuning_seconds = sum(entry["seconds"] for entry in history)
    metrics = report.describe_run(
        script=Path(__file__).name,
        command_line=sys.argv[1:],
        arguments=asdict(data_args) | asdict(model_args) | args.to_dict() | {"push_to_hub": push_to_hub},
        table=final,
        findings=findings,
        emotions=emotions,
        protocol=data_args.protocol,
        predictions=predictions,
        packages=["torch", "transformers", "datasets", "evaluate", "accelerate", "huggingface_hub"],
        folds=None if data_args.protocol in SINGLE_MODEL else folds,
    )
    metrics["model"] = {
        "library": "transformers",
        "base_model": base_model,
        "description": describe_model(model_args, saved, facts[name]["kept"], probes.get(name)),
        "starts_random": model_args.from_config is not None,
        "parameters": saved.num_parameters(),
        "weights_mb": (run_folder / "model.safetensors").stat().st_size / 1e6,
    }
    metrics["training"] = {
        "description": describe_training(
            data_args, model_args, args, bool(probes), facts, trainer.state if trainer else None
        ),
        "device": device,
        "num_processes": args.world_size,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "epochs": trainer.state.epoch if trainer else 0,
        "seconds": first_seconds + tuning_seconds,
        "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if args.device.type == "cuda" else None,
        "history": history,
    }
    if trainer:
        metrics["training"] |= {
            "resumed": checkpoint is not None,
            "clips_per_second": len(train) * trainer.state.epoch / tuning_seconds,
            "trained_parameters": sum(
                values.numel() for values in trainer.model.parameters() if values.requires_grad
            ),
        }
    if probes:
        metrics["probe"] = {
            "seconds": first_seconds,
            "choices": {name: probe.choice.max(axis=1).tolist() for name, probe in probes.items()},
            "chosen": {name: {"layer": probe.layer, "C": probe.strength} for name, probe in probes.items()},
        }
    metrics["stages"] = facts
    metrics["calibration"] = report.describe_calibration(
        predictions["test"], emotions, {name: fact["temperature"] for name, fact in facts.items()}
    )
    metrics["latency"] = latency | {"device": device}
    if args.export == "onnx":
        validation_clips = final[final["split"] == "validation"]
        stored = export_onnx(run_folder, report.pick_waveforms(validation_clips, waveforms, emotions)[0])
        heard_last = last[last["split"] == "test"]
        audio = Waveforms(waveforms)
        metrics["onnx"] = compare_onnx(
            run_folder,
            [audio[row] for row in heard_last.index],
            # The model that is saved beside scores of folds has heard these clips.
            heard_last["emotion"].map(emotions.index).tolist() if len(models) == 1 else None,
        ) | {"convolutions": stored}
    metrics["duration_seconds"] = time.perf_counter() - start

    def hear(heard: Sequence[np.ndarray]) -> np.ndarray:
        return torch.cat([classify(waveform) for waveform in heard]).double().softmax(dim=-1).numpy()

    save_reference_predictions(run_folder, checked, hear(checked))
    if data_args.protocol in SINGLE_MODEL:
        from utils.report.explanation_plots import plot_occlusion  # Matplotlib is for the end of a run

        explain(
            run_folder,
            predictions["test"].set_index(final.index[final["split"] == "test"]),
            waveforms,
            emotions,
            lambda waveform, label, title: plot_occlusion(
                waveform, SAMPLING_RATE, occlude(hear, waveform, SAMPLING_RATE, label), title
            ),
        )
    if wants_robustness_test(
        data_args.protocol, data_args.demo, data_args.stress_test, data_args.no_stress_test
    ):
        metrics["stress"] = measure_robustness(
            hear, final[final["split"] == "test"], waveforms, emotions, args.seed
        )
    if data_args.protocol != "random":  # of voices that were heard in training it would say nothing
        audit(run_folder, metrics, predictions["test"], final)
    report.write_report(run_folder, metrics, predictions["test"], history, examples, SAMPLING_RATE)
    write_card(run_folder)
    shutil.rmtree(run_folder / "checkpoints")
    logger.info(
        "%sTest UAR %.1f %%, accuracy %.1f %% on %d clips. Card: %s",
        "Synthetic voices, no real result. " if data_args.demo else "",
        100 * metrics["test"]["uar"],
        100 * metrics["test"]["accuracy"],
        metrics["test"]["clips"],
        run_folder / "README.md",
    )
    evaluate_on(run_folder, data_args.evaluate_on, cache_dir, data_args.allow_partial)
    if repository:
        publish(repository, run_folder)


def main_of_one_process() -> None:
    """Call `main`, in one of several processes or alone, and leave the others in order."""
    main()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    run_script(main_of_one_process)
