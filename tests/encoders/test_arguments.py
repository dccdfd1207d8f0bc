"""Each argument of transformers' TrainingArguments works in train_wav2vec2.py, or is refused before any work.

Run: python -m pytest tests/encoders/test_arguments.py
"""

import json

import pytest
from scripts import REPORTED, error_of, metrics_of, reported, train

import train_wav2vec2
from utils.encoders.arguments import REFUSED, training_arguments
from utils.options import training_argument_names

WORKING = {
    "adam_beta1": 0.8,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-7,
    "average_tokens_across_devices": False,
    "data_seed": 7,
    "dataloader_drop_last": True,
    "dataloader_in_order": True,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "eval_accumulation_steps": 1,
    "eval_delay": 0,
    "eval_on_start": True,
    "eval_steps": 2,
    "eval_strategy": "steps",
    "eval_use_gather_object": True,
    "greater_is_better": True,  # replaced: the direction is that of the metric
    "label_smoothing_factor": 0.1,
    "load_best_model_at_end": True,
    "log_level": "warning",
    "log_level_replica": "error",
    "log_on_each_node": False,
    "logging_first_step": True,
    "logging_nan_inf_filter": False,
    "logging_steps": 1,
    "logging_strategy": "steps",
    "lr_scheduler_kwargs": {"num_cycles": 0.5},
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 0.5,
    "max_steps": 2,
    "metric_for_best_model": "loss",
    "optim": "adamw_torch",
    "optim_args": None,
    "per_device_eval_batch_size": 4,
    "restore_callback_states_from_checkpoint": False,
    "save_on_each_node": False,
    "save_steps": 2,
    "save_strategy": "steps",
    "save_total_limit": 1,
    "skip_memory_metrics": False,
    "torch_empty_cache_steps": 1,
    "use_cpu": True,
    "warmup_steps": 1,
}
"""Argument -> a value of it, tried together in one run."""

OTHERS = {
    *("bf16", "fp16", "tf32", "full_determinism", "accelerator_config", "debug"),
    *("dataloader_multiprocessing_context", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"),
    *("ddp_static_graph", "ddp_timeout", "enable_jit_checkpoint", "local_rank", "optim_target_modules"),
}
"""Arguments for GPUs, several processes and further packages, which are not tried here."""


def chosen(*options: str):
    _, _, training, run, _, flags = train_wav2vec2.parse_arguments(["--demo", *options])
    return training_arguments(training, run, flags)


def test_each_argument_is_an_option_of_the_script_or_tried_or_refused():
    options = {name for each in train_wav2vec2.parse_arguments(["--demo"])[:-1] for name in vars(each)}
    refused = {name for names in REFUSED.values() for name in names}
    undecided = set(training_argument_names()) - options - refused - WORKING.keys() - OTHERS
    assert not undecided and not refused & (WORKING.keys() | OTHERS | options)


def test_the_working_ones_work_together(tmp_path):
    options = [
        f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in WORKING.items()
        if value is not None and name in training_argument_names()
    ]
    options += ["--demo", "--emotions", "sad", "angry", *REPORTED]
    train("train_wav2vec2.py", tmp_path / "run", tmp_path / "cache", *options)
    metrics = metrics_of(tmp_path / "run")
    assert (
        metrics["training"]["epochs"] > 0 and "the best validation loss" in metrics["training"]["description"]
    )
    found, history = reported(tmp_path / "run"), metrics["training"]["history"]
    assert found["eval/uar"] == pytest.approx([entry["eval_uar"] for entry in history if "eval_uar" in entry])
    assert found["train/loss"] == pytest.approx([entry["loss"] for entry in history if "loss" in entry])


@pytest.mark.parametrize("name", [name for names in REFUSED.values() for name in names])
def test_others_are_refused_with_the_reason(name, tmp_path):
    [reason] = [reason for reason, names in REFUSED.items() if name in names]
    if name not in training_argument_names():  # of another version of transformers
        reason = "there is no such option"
    message = error_of("train_wav2vec2.py", "--demo", f"--{name}=1", f"--output_dir={tmp_path / 'run'}")
    assert message.startswith(f"--{name}") and reason in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--metric_for_best_model=f1"], "expected one of uar, accuracy, macro_f1, loss"),
        (["--optim=adamw_bnb_8bit"], "bitsandbytes"),
        (["--parameter_efficient=lora", "--lora_rank=0"], "--lora_rank 0: expected at least 1"),
        (["--eval_strategy=no"], "--eval_strategy no"),
        (["--save_strategy=steps", "--save_steps=3"], "save"),
    ],
)
def test_values_that_would_fail_later_are_refused_before_any_work(options, expected, tmp_path):
    message = error_of("train_wav2vec2.py", "--demo", *options, f"--output_dir={tmp_path / 'run'}")
    assert expected in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("metric", "greater_is_better", "mode"), [("uar", True, "max"), ("eval_loss", False, "min")]
)
def test_the_direction_is_that_of_the_metric(metric, greater_is_better, mode):
    args = chosen(f"--metric_for_best_model={metric}", "--lr_scheduler_type=reduce_lr_on_plateau")
    assert args.greater_is_better is greater_is_better and args.lr_scheduler_kwargs["mode"] == mode


def test_own_settings_of_the_plateau_schedule_are_added_to_those_of_the_kit():
    options = ["--lr_scheduler_type=reduce_lr_on_plateau", '--lr_scheduler_kwargs={"patience": 0}']
    assert chosen(*options).lr_scheduler_kwargs == {"mode": "max", "factor": 0.5, "patience": 0}
