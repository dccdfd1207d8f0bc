"""Duration of training steps and utilization of a GPU: busy time, floating-point operations (FLOPs)."""

import time

import torch
from transformers import Trainer, TrainerCallback

from train_wav2vec2 import ModelOptions

PEAK_TFLOPS = {
    "T4": (65, 8.1),
    "L4": (121, 30.3),
    "V100": (125, 15.7),
    "A100": (312, 19.5),
    "H100": (989, 67),
    "H200": (989, 67),
}
"""Peak TFLOPS in 16-bit and in float32 arithmetic without sparsity, from the data sheets of NVIDIA."""


class StepTimer(TrainerCallback):
    """Measure the seconds from the end of the first step to the end of the last one."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.start = now()
        if state.global_step == state.max_steps:
            self.seconds = now() - self.start
            control.should_evaluate = False
        return control


def now() -> float:
    """Return the time in seconds, after all work of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_steps(trainer: Trainer, num_steps: int) -> float:
    """Return the seconds per training step, without the first, which waits for the first clips."""
    timer = StepTimer()
    trainer.add_callback(timer)
    trainer.args.max_steps = num_steps
    trainer.train()
    trainer.remove_callback(timer)
    return timer.seconds / max(1, num_steps - 1)


def busy_share(trainer: Trainer, num_steps: int) -> float:
    """Return the share of the duration of steps in which at least one kernel or copy runs on the GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        microseconds = 1e6 * (num_steps - 1) * time_steps(trainer, num_steps)
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy, end = 0.0, max(event.time_range.end for event in events) - microseconds  # without the first step
    for event in sorted(events, key=lambda event: event.time_range.start):
        busy += max(0.0, event.time_range.end - max(event.time_range.start, end))
        end = max(end, event.time_range.end)
    return busy / microseconds


def clip_flops(config, num_samples: int, recipe: str) -> float:
    """Return the FLOPs of the matrix products of a training step, per clip.

    A product with `p` weights needs 2p FLOPs per frame. The attention of a layer adds 4 * num_frames *
    hidden_size per frame. The backward pass needs the same number for the gradients of the activations, from
    the lowest trained layer on, and again for the gradients of the trained weights.

    Args:
        config: of a wav2vec2 encoder.
        num_samples: length of the clip.
        recipe: "usual" (all layers except the convolutions are trained), "augment", "lora", or "frozen" (only
            the tuned layers are run).
    """
    frames, channels, convolutions = num_samples, 1, 0
    for out, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        convolutions += 2 * channels * out * kernel * frames
        channels = out
    hidden = config.hidden_size
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    projection = 2 * frames * (channels * hidden + hidden * hidden // groups * kernel)
    weights = 2 * frames * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    layer = weights + 4 * frames**2 * hidden
    num_layers, num_tuned = config.num_hidden_layers, ModelOptions.unfreeze_layers
    if recipe == "usual":
        return convolutions + 3 * (projection + num_layers * layer)
    if recipe == "lora":  # the adapters are small; the gradient passes all layers except one attention
        return convolutions + projection + num_layers * 2 * layer
    tuned = 3 * num_tuned * layer
    return (
        tuned if recipe == "frozen" else convolutions + projection + (num_layers - num_tuned) * layer + tuned
    )


def peak_tflops(given: float | None, sixteen_bit: bool) -> float | None:
    """Return the peak of this GPU in TFLOPS, or None if it is unknown.

    Args:
        given: by the user.
        sixteen_bit: whether training uses 16-bit arithmetic.
    """
    if given:
        return given
    for name, peaks in PEAK_TFLOPS.items():
        if name in torch.cuda.get_device_name():
            return peaks[0 if sixteen_bit else 1]
    return None
