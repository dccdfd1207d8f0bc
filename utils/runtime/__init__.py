"""What everything needs: errors for users, logging, folders, atomic writes, devices, versions. A leaf."""

from utils.runtime.devices import check_gpu, describe_device, gpu_is_served
from utils.runtime.files import write_bytes, write_json, write_text
from utils.runtime.folders import KAGGLE, PROJECT_ROOT, cache_folder, hub_token, unpublished_folder
from utils.runtime.provenance import (
    git_commit,
    package_versions,
    published_command,
    without_secrets_and_paths,
)
from utils.runtime.scripts import (
    DISK_TROUBLES,
    InputError,
    first_line,
    interruptible,
    is_main_process,
    logger,
    refuse_arguments,
    run_script,
    shorten,
)

__all__ = [
    "DISK_TROUBLES",
    "KAGGLE",
    "PROJECT_ROOT",
    "InputError",
    "cache_folder",
    "check_gpu",
    "describe_device",
    "first_line",
    "git_commit",
    "gpu_is_served",
    "hub_token",
    "interruptible",
    "is_main_process",
    "logger",
    "package_versions",
    "published_command",
    "refuse_arguments",
    "run_script",
    "shorten",
    "unpublished_folder",
    "without_secrets_and_paths",
    "write_bytes",
    "write_json",
    "write_text",
]
