"""transformers' TrainingArguments from the kit's options."""

import os
from collections.abc import Sequence
from dataclasses import asdict, fields

import torch
from transformers import HfArgumentParser, TrainingArguments

from utils.options import RunOptions
from utils.runtime import InputError, logger, refuse_arguments

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
    on_gpu = torch.cuda.is_available() and not chosen.use_cpu
    if precision == "auto" and on_gpu and not (chosen.bf16 or chosen.fp16):
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision in ("bf16", "fp16"):
        argv.append(f"--{precision}=true")
    if training.dataloader_num_workers is None:
        argv.append(f"--dataloader_num_workers={2 if on_gpu else 0}")
    if chosen.lr_scheduler_type == "reduce_lr_on_plateau" and not chosen.lr_scheduler_kwargs:
        # By default it waits for a metric to fall, whatever metric_for_best_model is.
        argv.append('--lr_scheduler_kwargs={"mode": "max", "factor": 0.5, "patience": 1}')
    if not torch.cuda.is_available():
        argv.append("--dataloader_pin_memory=false")
    if training.per_device_train_batch_size is not None:
        training.global_batch_size = training.per_device_train_batch_size * _passes(chosen)
    else:
        argv.append(f"--per_device_train_batch_size={_batch_size(training.global_batch_size, chosen)}")
    try:
        [args] = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (ValueError, ImportError) as error:  # TrainingArguments checks how its values fit together
        raise InputError(str(error)) from None
    if args.tf32 is None:  # by default PyTorch rounds the inputs of float32 convolutions to 10 bits
        torch.backends.cudnn.allow_tf32 = False
    if args.n_gpu > 1:  # with one process and several GPUs the Trainer would use DataParallel
        logger.info("Using one of %d GPUs; `accelerate launch --multi_gpu` uses all", args.n_gpu)
        args._n_gpu = 1
    return args


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
