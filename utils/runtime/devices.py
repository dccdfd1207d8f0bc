"""GPUs and CPU cores: their description, and whether the installed PyTorch supports the GPU."""

import os
import re
from collections.abc import Sequence

from utils.runtime.scripts import InputError


def describe_device(device_type: str) -> str:
    """Return the name of the GPU, the number of usable CPU cores, or else the type of the device.

    Args:
        device_type: of a `torch.device`, e.g. "cuda" or "cpu".
    """
    if device_type == "cuda":
        import torch

        return torch.cuda.get_device_name()
    if device_type != "cpu":
        return {"mps": "Apple GPU", "xpu": "Intel GPU"}.get(device_type, device_type)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores"


def check_gpu() -> None:
    """Check that the installed PyTorch supports the GPU; the error of CUDA itself comes late and is unclear.

    Raises:
        InputError: it does not.
    """
    import torch

    if not torch.cuda.is_available() or torch.version.hip:
        return
    capability = torch.cuda.get_device_capability()
    if not gpu_is_served(capability, torch.cuda.get_arch_list()):
        raise InputError(
            f"the GPU {torch.cuda.get_device_name()} (compute capability {capability[0]}.{capability[1]}) is "
            f"not supported by PyTorch {torch.__version__}, which was built for "
            f"{' '.join(torch.cuda.get_arch_list())}. On Kaggle choose the accelerator 'GPU T4 x2' instead "
            "of P100; elsewhere install a PyTorch built for this GPU, or run on the CPU with --use_cpu true"
        )


def gpu_is_served(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether a CUDA build supports a GPU.

    Machine code `sm_XY` runs on GPUs of the same major version and at least that minor version; `compute_XY`
    is compiled for any newer GPU when it is loaded (CUDA C++ Programming Guide, "Application Compatibility").

    Args:
        capability: (major, minor) of the GPU.
        architectures: of the build, from `torch.cuda.get_arch_list()`, e.g. `["sm_75", "compute_90"]`.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", architecture)
        if not match:
            continue
        kind, built_for = match[1], (int(match[2]), int(match[3]))
        if kind == "sm" and built_for[0] == capability[0] and built_for[1] <= capability[1]:
            return True
        if kind == "compute" and built_for <= capability:
            return True
    return False
