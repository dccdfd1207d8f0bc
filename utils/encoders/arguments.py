"""transformers' TrainingArguments from the kit's options."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields

import torch
from transformers import HfArgumentParser, Trainer, TrainingArguments

from utils.options import RunOptions
from utils.runtime import InputError, check_gpu, logger, refuse_arguments

DEFAULTS = {
    "per_device_eval_batch_size": 8,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "uar",
    "greater_is_better": True,
    "ddp_find_unused_parameters": False,  # every trained parameter takes part in each step
    "ddp_timeout": 6 * 3600,  # seconds; the others wait while the first decodes a corpus or fits probes
}
"""Of the arguments that are not among the options of the script."""

METRICS = ("uar", "accuracy", "macro_f1", "loss")
"""What --metric_for_best_model may name, see `fine_tuning.validation_scores`."""

REFUSED = {
    "the batch size is part of the recipe; set --global_batch_size": ["auto_find_batch_size"],
    "the scores need all validation clips together": [
        *("batch_eval_metrics", "eval_do_concat_batches", "include_for_metrics", "prediction_loss_only"),
    ],
    "what is selected and scored is computed in float32": ["bf16_full_eval", "fp16_full_eval"],
    "each GPU has a whole copy of the model; use `accelerate launch --multi_gpu`": [
        *("deepspeed", "fsdp", "fsdp_config", "parallelism_config"),
    ],
    "batches have clips of about equal length already": [
        *("group_by_length", "length_column_name", "train_sampling_strategy"),
    ],
    "it is made for text": ["include_num_input_tokens_seen", "neftune_noise_alpha", "use_cache"],
    "it does not fit the batches of unpadded clips": [
        *("label_names", "liger_kernel_config", "remove_unused_columns", "torch_compile"),
        *("torch_compile_backend", "torch_compile_mode", "use_liger_kernel"),
    ],
    "it is not implemented for partly frozen encoders": [
        *("activation_checkpointing", "activation_checkpointing_kwargs"),
        *("gradient_checkpointing", "gradient_checkpointing_kwargs"),
    ],
    "an interrupted run could not be resumed": ["ignore_data_skip", "save_only_model"],
    "the script trains, evaluates and predicts in every run": ["do_train", "do_eval", "do_predict"],
    "--report_to names a run after its folder; set WANDB_PROJECT, TRACKIO_PROJECT or TRACKIO_SPACE_ID": [
        *("project", "run_name", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id"),
    ],
    "a run is published once, when it is finished; see --hub_strategy": ["hub_always_push", "hub_revision"],
}
"""Reason -> arguments of TrainingArguments that the script refuses, in any version of transformers."""


def training_arguments(training, run: RunOptions, flags: Sequence[str]) -> TrainingArguments:
    """Return transformers' TrainingArguments, which choose the device.

    Args:
        training: a dataclass of options. Those that TrainingArguments has by the same name are passed on;
            None means its default. It also has `precision` (auto, bf16, fp16, fp32) and
            `global_batch_size` (clips per optimiser step, over all processes and accumulation steps).
        run: for --output_dir and --seed.
        flags: further arguments of the command line, as text.

    Raises:
        InputError: a value is wrong, or values do not fit together.
    """
    _refuse(flags)
    known = {each.name for each in fields(TrainingArguments)}
    options, precision = asdict(training), training.precision
    given = DEFAULTS | {name: value for name, value in options.items() if name in known and value is not None}
    given |= {"output_dir": run.output_dir, "seed": run.seed}
    parser = HfArgumentParser(TrainingArguments, allow_abbrev=False)
    parser.error = refuse_arguments
    argv = [*(f"--{name}={value}" for name, value in given.items()), *flags]
    chosen = parser.parse_args(argv)
    if chosen.eval_strategy == "no":
        raise InputError(
            "--eval_strategy no: expected epoch or steps; the best model is selected on validation clips"
        )
    metric = _check_metric(chosen.metric_for_best_model)
    argv.append(f"--greater_is_better={metric != 'loss'}")
    on_gpu = torch.cuda.is_available() and not chosen.use_cpu
    if precision == "auto" and on_gpu and not (chosen.bf16 or chosen.fp16):
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision in ("bf16", "fp16"):
        argv.append(f"--{precision}=true")
    if training.dataloader_num_workers is None:
        argv.append(f"--dataloader_num_workers={2 if on_gpu else 0}")
        argv.append(f"--dataloader_persistent_workers={on_gpu}")  # starting them takes seconds in each epoch
    if chosen.lr_scheduler_type == "reduce_lr_on_plateau":
        argv.append(f"--lr_scheduler_kwargs={json.dumps(_plateau(chosen.lr_scheduler_kwargs, metric))}")
    if not torch.cuda.is_available():
        argv.append("--dataloader_pin_memory=false")
    if training.per_device_train_batch_size is not None:
        training.global_batch_size = training.per_device_train_batch_size * _passes(chosen)
    else:
        argv.append(f"--per_device_train_batch_size={_batch_size(training.global_batch_size, chosen)}")
    try:
        [args] = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
        Trainer.get_optimizer_cls_and_kwargs(args)  # fails if --optim needs a package that is not installed
    except (ValueError, ImportError, RuntimeError) as error:  # TrainingArguments checks its values
        raise InputError(str(error)) from None
    if args.tf32 is None:  # by default PyTorch rounds the inputs of float32 convolutions to 10 bits
        torch.backends.cudnn.allow_tf32 = False
    if args.n_gpu > 1:  # with one process and several GPUs the Trainer would use DataParallel
        logger.info("Using one of %d GPUs; `accelerate launch --multi_gpu` uses all", args.n_gpu)
        args._n_gpu = 1
    if not args.use_cpu:
        check_gpu()
    return args


def _refuse(flags: Sequence[str]) -> None:
    given = {flag.partition("=")[0].removeprefix("--").replace("-", "_") for flag in flags}
    for reason, names in REFUSED.items():
        for name in names:
            if name in given:
                raise InputError(f"--{name}: is not supported by this script: {reason}")


def _check_metric(name: str) -> str:
    """Return the metric without its prefix."""
    metric = name.removeprefix("eval_")
    if metric not in METRICS:
        raise InputError(f"--metric_for_best_model {name}: expected one of {', '.join(METRICS)}")
    return metric


def _plateau(own: str | dict | None, metric: str) -> dict:
    """Return the settings of reduce_lr_on_plateau, which by default waits for any metric to fall."""
    own = json.loads(own) if isinstance(own, str) else own or {}
    return {"mode": "min" if metric == "loss" else "max", "factor": 0.5, "patience": 1} | own


def _batch_size(global_batch_size: int, chosen) -> int:
    """Return the clips per process and forward pass: any number of GPUs takes the same steps."""
    passes = _passes(chosen)
    if global_batch_size <= 0 or global_batch_size % passes:
        raise InputError(
            f"--global_batch_size {global_batch_size}: expected a multiple of {passes}, the number of "
            "processes times --gradient_accumulation_steps"
        )
    return global_batch_size // passes


def _passes(chosen) -> int:
    """Return how many forward passes make an optimiser step, over all processes."""
    return int(os.environ.get("WORLD_SIZE", 1)) * chosen.gradient_accumulation_steps
