"""What surrounds a run: errors that users see, places, versions, the commit.

A leaf: it imports no other room, and any room may use it.
"""

import errno
import json
import logging
import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent

KAGGLE = Path("/kaggle")
"""On Kaggle: `input` has what is attached, `working` is published with the notebook, `temp` is not kept."""

logger = logging.getLogger("speech-emotion")


DISK_TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""What a user can mend: a full disk, or one that may not be written to."""


class InputError(ValueError):
    """Something that the user can mend: an option, a file, the data. Scripts print it as one line."""


def is_main_process() -> bool:
    """True in the only process, or in the one of several that writes and prints."""
    return int(os.environ.get("RANK", 0)) == 0


def run_script(main: Callable[[], None]) -> None:
    """Call `main`; a user's mistake or a full disk ends in one line and exit code 2, Ctrl-C in 130."""
    # A notebook's kernel hands on its own, which draws into the notebook and may not be there for a script.
    os.environ["MPLBACKEND"] = "agg"
    ours, others = (logging.INFO, logging.WARNING) if is_main_process() else (logging.ERROR, logging.ERROR)
    # Of what libraries report, such as each request to the Hub, only what is amiss.
    logging.basicConfig(level=others, format="%(message)s", stream=sys.stdout)
    logger.setLevel(ours)
    try:
        main()
    except InputError as error:
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # the first on its machine; others say the same
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK_TROUBLES:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"error: {what}; make room, or name another folder", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if is_main_process():
            print("\nInterrupted. Nothing that was finished is lost.", file=sys.stderr)
        sys.exit(130)


def refuse_arguments(message: str) -> None:
    """Stand in for `ArgumentParser.error`, which would print hundreds of lines of usage before it."""
    raise InputError(f"{message}; --help lists the options")


def read_options(path: Path) -> list[str]:
    """Return the options of a YAML or JSON file as command-line arguments, to be checked as such."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        options = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as options ({first_line(error)})") from None
    if not isinstance(options, dict):
        raise InputError(f"{path}: expected option names with values, got {type(options).__name__}")
    arguments = []
    for name, value in options.items():
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, (dict, bool)) else value}")
    return arguments


def hub_token() -> str | None:
    """Return the token for the Hub: from HF_TOKEN, the Hub's own login, Colab's or Kaggle's secrets."""
    from huggingface_hub import get_token

    token = get_token()  # Colab's secrets too, but in the notebook's own process alone
    if token is None and "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        from kaggle_secrets import UserSecretsClient

        try:
            token = UserSecretsClient().get_secret("HF_TOKEN")
        except Exception as error:  # its classes are private: no such secret, not attached, no network
            logger.info("Kaggle's secret HF_TOKEN cannot be read (%s)", first_line(error))
    return token


def first_line(error: Exception) -> str:
    """Return what an exception says first; libraries add paragraphs."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unpublished_folder(folder: Path, kaggle: Path = KAGGLE) -> Path:
    """Return where recordings are kept that belong into `folder`: there, if nobody publishes it.

    What is below /kaggle/working is published with a Kaggle notebook, which the licences of the corpora do
    not allow (TESS: no derivatives), so theirs is a folder of the same name below /kaggle/temp.
    """
    real, working = folder.resolve(), (kaggle / "working").resolve()
    return kaggle / "temp" / real.relative_to(working) if real.is_relative_to(working) else folder


def cache_folder() -> Path:
    """The folder for decoded audio: beside what Hugging Face Datasets caches (moved by HF_HOME)."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "speech-emotion"


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Return `{"python": ..., name: version}` of those packages."""
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in names}


def git_commit() -> str | None:
    """Return the commit of the working tree, with "-dirty" after it if tracked files changed."""
    git = ["git", "-C", str(PROJECT_ROOT)]
    try:
        top = subprocess.run(
            [*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None  # a download without .git, or no git at all
    if Path(top[0]).resolve() != PROJECT_ROOT:
        return None  # unpacked inside somebody else's repository
    return top[1] + ("-dirty" if changed else "")


def without_secrets_and_paths(value):
    """Return a copy of plain JSON data that can be published.

    Absolute paths become `/path/to/<last part>`, and the values of keys that hold tokens `<hidden>`.
    """
    if isinstance(value, dict):
        return {
            key: "<hidden>" if _is_secret(key) and item else without_secrets_and_paths(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets_and_paths(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return f"/path/to/{Path(value).name}"
    return value


def published_command(launcher: str, arguments: Sequence[str]) -> str:
    """Return the command line that was run, fit to be published: no token, no path of this machine."""
    shown = []
    hide_next = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if hide_next:
            shown.append("<hidden>")
        elif equals and option.startswith("-"):
            shown.append(f"{option}={'<hidden>' if _is_secret(option) else without_secrets_and_paths(value)}")
        else:
            shown.append(without_secrets_and_paths(argument))
        hide_next = _is_secret(argument) and not equals and argument.startswith("-")
    return f"{launcher} {shlex.join(shown)}".strip()


def _is_secret(name: str) -> bool:
    return str(name).lower().endswith("token")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, a whole file or none."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or none: a reader never meets half of one.

    The random name keeps writers of the same file apart, threads of one process too.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, for JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def describe_device(device_type: str) -> str:
    """Return the name of a GPU, the number of CPU cores that this process may use, or else the type."""
    if device_type == "cuda":
        import torch

        return torch.cuda.get_device_name()
    if device_type != "cpu":
        return {"mps": "Apple GPU", "xpu": "Intel GPU"}.get(device_type, device_type)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores"


def check_gpu() -> None:
    """Refuse a GPU that the installed PyTorch has no kernels for, before the first cryptic CUDA error."""
    import torch

    if not torch.cuda.is_available() or torch.version.hip:
        return
    capability = torch.cuda.get_device_capability()
    if not gpu_is_served(capability, torch.cuda.get_arch_list()):
        raise InputError(
            f"the GPU {torch.cuda.get_device_name()} (compute capability {capability[0]}.{capability[1]}) is "
            f"not served by PyTorch {torch.__version__}, which was built for "
            f"{' '.join(torch.cuda.get_arch_list())}. On Kaggle choose the accelerator 'GPU T4 x2' instead "
            "of P100; elsewhere install a PyTorch built for this GPU, or run on the CPU with --use_cpu true"
        )


def gpu_is_served(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Say whether a CUDA build serves a GPU.

    Machine code `sm_XY` runs on GPUs of the same major version and at least that minor one; `compute_XY`
    is compiled for any newer GPU at load time (CUDA C++ Programming Guide, "Application Compatibility").

    Args:
        capability: (major, minor) of the GPU.
        architectures: as `torch.cuda.get_arch_list()` gives them, e.g. `["sm_75", "compute_90"]`.
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
