"""Check that the kit runs with the packages that a platform has installed.

    python ci/platforms/check.py colab
    python ci/platforms/check.py floor   # every requirement at its lower bound

The check builds the environment of the platform and runs the `pip install` of its notebook, which must not
change any installed package. Then it runs the demos of all scripts, the page and the notebook. CONTRIBUTING
explains where the lists of packages come from. Environments are kept in the user's cache folder (7 GB each).
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LISTS = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speech-emotion-kit" / "platforms"

NUM_TOGETHER = 2
"""Number of steps that run in parallel."""

STEP_SECONDS = 1_200
"""Time limit of a step."""


@dataclass(frozen=True)
class Platform:
    """Python version, file with the packages (None: the lower bounds), and notebook of a platform."""

    python: str
    packages: str | None
    notebook: str


PLATFORMS = {
    "colab": Platform("3.13", "colab-2026-08-19.txt", "colab"),
    "kaggle": Platform("3.12", "kaggle-v170.txt", "kaggle"),
    "floor": Platform("3.11", None, "colab"),
}

DEMO = ["--demo", "--emotions", "sad", "angry"]  # a quarter of its clips
WAV2VEC2 = ["train_wav2vec2.py", *DEMO, "--num_train_epochs=2"]
PYTEST = ["-m", "pytest", "-q", "-m", ""]  # slow tests too
STEPS = {
    "explore": ["-m", "utils.explore", "--demo", "--output_dir=runs/explored"],
    "wav2vec2 --export onnx": [*WAV2VEC2, "--export=onnx", "--output_dir=runs/wav2vec2"],
    "wav2vec2 --augment": [*WAV2VEC2, "--augment", "--output_dir=runs/augmented"],
    "wav2vec2, LoRA": [*WAV2VEC2, "--parameter_efficient=lora", "--output_dir=runs/lora"],
    "cnn": ["train_cnn.py", *DEMO, "--num_train_epochs=2", "--output_dir=runs/cnn"],
    "baselines": ["train_baselines.py", *DEMO, "--output_dir=runs/baselines"],
    "page": [*PYTEST, "tests/app/test_space.py", "-k", "shows_the_clip"],
    "notebook": [*PYTEST, "tests/test_notebooks.py", "-k", "all_cells_run[{notebook}]"],
    "encoders": [
        *PYTEST,
        "tests/encoders/test_freezing.py",
        "-k",
        "version_of_transformers or norm_after or adapters",
    ],
    "figures": [*PYTEST, "tests/report/test_report_and_card.py", "-k", "predictions_alone"],
}
"""Name -> arguments of the Python command, which runs in a clone of the kit."""


def lower_bounds() -> list[str]:
    """Return each requirement with its lower bound, as `name==version`."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines += [line for line in (ROOT / "tests/requirements.txt").read_text().splitlines() if "gradio" in line]
    return [f"{match[1]}=={match[2]}" for line in lines if (match := re.match(r"([\w-]+)>=([\d.]+)", line))]


def find_python(version: str) -> str:
    """Return the path of a Python of this version, from the PATH or from pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for candidate in filter(None, candidates):
        # The python3.13 that pyenv puts into the PATH fails if pyenv is set to another version.
        output = subprocess.run([candidate, "--version"], capture_output=True, text=True).stdout
        if output.startswith(f"Python {version}."):
            return str(candidate)
    sys.exit(f"error: no Python {version} found in the PATH or in {pyenv}; install one")


class Environment:
    """A virtual environment with exactly the packages of a platform; it is built if it does not exist."""

    def __init__(self, name: str, platform: Platform):
        self.packages = lower_bounds()
        if platform.packages:
            lines = (LISTS / platform.packages).read_text(encoding="utf-8").splitlines()
            self.packages = [line for line in lines if line and line[0] != "#"]
        digest = hashlib.sha256("\n".join([platform.python, *self.packages]).encode()).hexdigest()[:12]
        self.folder = CACHE / f"{name}-{digest}"
        self.python = self.folder / "bin" / "python"
        for folder in CACHE.glob(f"{name}-*"):
            if folder.name != self.folder.name:  # built from an older list
                shutil.rmtree(folder)
        self.constraints = CACHE / f"{name}.txt"
        CACHE.mkdir(parents=True, exist_ok=True)
        self.constraints.write_text("\n".join(self.packages) + "\n")
        if not self.python.exists():
            uv("venv", "--seed", "--python", find_python(platform.python), self.folder)
        # `sync` removes packages that an earlier check added. It is not used for the lower bounds: their list
        # omits dependencies.
        if platform.packages:
            uv("pip", "sync", "--python", self.python, self.constraints)
        else:
            uv("pip", "install", "--python", self.python, "-r", self.constraints)
        cuda = self.folder.glob("lib/*/site-packages/nvidia/*/lib")
        self.variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.folder),
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "passive",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # as the kernel of a notebook sets it
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, cuda)),  # torchcodec loads them on a CPU, too
        }

    def versions(self) -> dict[str, str]:
        """Return name -> version of all installed packages."""
        listed = subprocess.check_output([self.python, "-m", "pip", "list", "--format=json"], text=True)
        return {package["name"]: package["version"] for package in json.loads(listed)}

    def conflicts(self) -> set[str]:
        """Return the conflicts that `pip check` reports."""
        done = subprocess.run([self.python, "-m", "pip", "check"], capture_output=True, text=True)
        return set(done.stdout.splitlines()) if done.returncode else set()


def uv(*arguments) -> None:
    """Run uv, which builds such an environment in one minute (pip: ten minutes)."""
    command = [sys.executable, "-m", "uv", "-q", "--system-certs", *map(str, arguments)]
    subprocess.run(command, check=True)


def notebook_install(notebook: str) -> list[str]:
    """Return the arguments of the `%pip install` in a notebook."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "".join(line for cell in cells for line in [*cell["source"], "\n"])
    return re.search(r"^%pip (install .*)$", source, re.MULTILINE)[1].split()


def install(environment: Environment, notebook: str) -> list[str]:
    """Run the installation of a notebook, then install the packages that the steps need.

    Returns:
        one message per problem: pip failed, it changed an installed package, or it caused a conflict.
    """
    versions, conflicts = environment.versions(), environment.conflicts()
    done = subprocess.run(
        [environment.python, "-m", "pip", *notebook_install(notebook)],
        cwd=ROOT, env=environment.variables, text=True, stderr=subprocess.STDOUT, stdout=subprocess.PIPE,
    )  # fmt: skip
    after = environment.versions()
    added = sorted(f"{name} {version}" for name, version in after.items() if name not in versions)
    print(f"pip {' '.join(notebook_install(notebook))} added: {', '.join(added) or 'nothing'}", flush=True)
    problems = [] if done.returncode == 0 else [f"pip failed:\n{done.stdout[-3000:]}"]
    problems += [
        f"pip changed {name} from {version} to {after.get(name, 'nothing')}"
        for name, version in versions.items()
        if after.get(name) != version
    ]
    problems += sorted(environment.conflicts() - conflicts)
    tools = ["pytest", "hypothesis", "nbformat", "nbclient", "ipykernel", "playwright"]
    uv("pip", "install", "--python", environment.python, "-c", environment.constraints, *tools)
    return problems


def clone(folder: Path) -> Path:
    """Copy the files that git tracks or would add to a new repository, and return its folder."""
    target = folder / "speech-emotion-kit"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    return target


def run_steps(environment: Environment, notebook: str, only: list[str]) -> dict[str, str]:
    """Run steps in a clone and print the duration of each; return name -> output of the failed steps."""
    failed = {}
    with tempfile.TemporaryDirectory(prefix="platform-") as scratch:
        folder = clone(Path(scratch))
        variables = environment.variables | {"HF_HOME": str(Path(scratch) / "cache")}

        def run(name: str) -> None:
            command = [part.format(notebook=notebook) for part in STEPS[name]]
            start = time.monotonic()
            try:
                done = subprocess.run(
                    [environment.python, *command], cwd=folder, env=variables, text=True, errors="replace",
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=STEP_SECONDS,
                )  # fmt: skip
                output, code = done.stdout, done.returncode
            except subprocess.TimeoutExpired as error:
                output, code = f"{error.stdout}\n{error}", 1
            if code:
                failed[name] = output
            print(f"{'FAILED' if code else 'ok':6} {time.monotonic() - start:5.0f} s  {name}", flush=True)

        first, *others = [name for name in STEPS if not only or name in only]
        run(first)  # creates the clips of the demo, which the other steps use
        with ThreadPoolExecutor(NUM_TOGETHER) as threads:
            list(threads.map(run, others))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("platform", choices=PLATFORMS)
    parser.add_argument("--only", nargs="+", default=[], choices=STEPS, help="run only these steps")
    args = parser.parse_args()
    platform, start = PLATFORMS[args.platform], time.monotonic()
    environment = Environment(args.platform, platform)
    print(
        f"{args.platform}: Python {platform.python}, {len(environment.packages)} packages, "
        f"built in {time.monotonic() - start:.0f} s",
        flush=True,
    )
    problems = install(environment, platform.notebook)
    failed = run_steps(environment, platform.notebook, args.only)
    for name, output in failed.items():
        print(f"\n--- {name}\n{output[-4000:]}")
    for problem in problems:
        print(f"FAILED {problem}")
    print(f"{args.platform}: {'FAILED' if failed or problems else 'ok'}, {time.monotonic() - start:.0f} s")
    sys.exit(bool(failed or problems))


if __name__ == "__main__":
    main()
