"""The name of a platform comes in; whether the kit runs on what it has installed goes out.

    python ci/platforms/check.py colab
    python ci/platforms/check.py floor   # every requirement at its lower bound

It builds the platform's environment, does the notebook's own `pip install` in it, which may change nothing
that was there, and runs the demos of all scripts, the page and the notebook. CONTRIBUTING says where the
lists of packages come from. Environments stay in the user's cache folder (7 GB each).
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
"""Steps that run at the same time."""

STEP_SECONDS = 1_200
"""A step that takes longer has failed."""


@dataclass(frozen=True)
class Platform:
    """Python's version, the file with its packages (None: the lower bounds), and its notebook."""

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
"""Name -> what Python runs, in a clone of the kit."""


def lower_bounds() -> list[str]:
    """Return every requirement at its lower bound, as `name==version`."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines += [line for line in (ROOT / "tests/requirements.txt").read_text().splitlines() if "gradio" in line]
    return [f"{match[1]}=={match[2]}" for line in lines if (match := re.match(r"([\w-]+)>=([\d.]+)", line))]


def find_python(version: str) -> str:
    """Return a Python of that version: from the PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    places = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for place in filter(None, places):
        # pyenv puts a python3.13 into the PATH that fails where another version is chosen.
        said = subprocess.run([place, "--version"], capture_output=True, text=True).stdout
        if said.startswith(f"Python {version}."):
            return str(place)
    sys.exit(f"error: no Python {version} found in the PATH or in {pyenv}; install one")


class Environment:
    """A virtual environment with exactly a platform's packages, built where it is missing."""

    def __init__(self, name: str, platform: Platform):
        self.packages = lower_bounds()
        if platform.packages:
            lines = (LISTS / platform.packages).read_text(encoding="utf-8").splitlines()
            self.packages = [line for line in lines if line and line[0] != "#"]
        digest = hashlib.sha256("\n".join([platform.python, *self.packages]).encode()).hexdigest()[:12]
        self.folder = CACHE / f"{name}-{digest}"
        self.python = self.folder / "bin" / "python"
        for other in CACHE.glob(f"{name}-*"):  # of an older list
            if other.name != self.folder.name:
                shutil.rmtree(other)
        self.constraints = CACHE / f"{name}.txt"
        CACHE.mkdir(parents=True, exist_ok=True)
        self.constraints.write_text("\n".join(self.packages) + "\n")
        if not self.python.exists():
            uv("venv", "--seed", "--python", find_python(platform.python), self.folder)
        # What an earlier check added goes; a floor has dependencies that its list does not name.
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
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # as a notebook's kernel hands it on
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, cuda)),  # torchcodec asks for it, on a CPU too
        }

    def versions(self) -> dict[str, str]:
        """Return name -> version of all installed packages."""
        listed = subprocess.check_output([self.python, "-m", "pip", "list", "--format=json"], text=True)
        return {package["name"]: package["version"] for package in json.loads(listed)}

    def conflicts(self) -> set[str]:
        """Return what `pip check` complains of."""
        done = subprocess.run([self.python, "-m", "pip", "check"], capture_output=True, text=True)
        return set(done.stdout.splitlines()) if done.returncode else set()


def uv(*arguments) -> None:
    """Run uv: it builds such an environment in one minute, pip in ten."""
    command = [sys.executable, "-m", "uv", "-q", "--system-certs", *map(str, arguments)]
    subprocess.run(command, check=True)


def notebook_install(notebook: str) -> list[str]:
    """Return the arguments of the `%pip install` in a notebook."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "".join(line for cell in cells for line in [*cell["source"], "\n"])
    return re.search(r"^%pip (install .*)$", source, re.MULTILINE)[1].split()


def install(environment: Environment, notebook: str) -> list[str]:
    """Do what the notebook does, then add what the steps need; return what that changed, in words."""
    versions, conflicts = environment.versions(), environment.conflicts()
    done = subprocess.run(
        [environment.python, "-m", "pip", *notebook_install(notebook)],
        cwd=ROOT, env=environment.variables, text=True, stderr=subprocess.STDOUT, stdout=subprocess.PIPE,
    )  # fmt: skip
    after = environment.versions()
    added = sorted(f"{name} {version}" for name, version in after.items() if name not in versions)
    print(f"pip {' '.join(notebook_install(notebook))} added: {', '.join(added) or 'nothing'}", flush=True)
    faults = [] if done.returncode == 0 else [f"pip failed:\n{done.stdout[-3000:]}"]
    faults += [
        f"pip changed {name} from {version} to {after.get(name, 'nothing')}"
        for name, version in versions.items()
        if after.get(name) != version
    ]
    faults += sorted(environment.conflicts() - conflicts)
    tools = ["pytest", "hypothesis", "nbformat", "nbclient", "ipykernel", "playwright"]
    uv("pip", "install", "--python", environment.python, "-c", environment.constraints, *tools)
    return faults


def clone(folder: Path) -> Path:
    """Return a clone of the kit as it is: what git tracks or would."""
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
    """Run the steps in a clone; print each with its seconds; return name -> output of those that failed."""
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
        run(first)  # makes the demo's clips, which the others find
        with ThreadPoolExecutor(NUM_TOGETHER) as threads:
            list(threads.map(run, others))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("platform", choices=PLATFORMS)
    parser.add_argument("--only", nargs="+", default=[], choices=STEPS, help="these steps alone")
    args = parser.parse_args()
    platform, start = PLATFORMS[args.platform], time.monotonic()
    environment = Environment(args.platform, platform)
    print(
        f"{args.platform}: Python {platform.python}, {len(environment.packages)} packages, "
        f"{time.monotonic() - start:.0f} s to build",
        flush=True,
    )
    faults = install(environment, platform.notebook)
    failed = run_steps(environment, platform.notebook, args.only)
    for name, output in failed.items():
        print(f"\n--- {name}\n{output[-4000:]}")
    for fault in faults:
        print(f"FAILED {fault}")
    print(f"{args.platform}: {'FAILED' if failed or faults else 'ok'}, {time.monotonic() - start:.0f} s")
    sys.exit(bool(failed or faults))


if __name__ == "__main__":
    main()
