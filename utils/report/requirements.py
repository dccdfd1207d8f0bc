"""The requirements of a run: those of the kit, narrowed to the versions that can load its model."""

import re

from utils.runtime import PROJECT_ROOT

LOADED_BY = {
    "transformers": ("torch", "transformers"),
    "keras": ("tensorflow", "keras"),
    "sklearn": ("scikit-learn", "skops"),
}
"""Library of a model -> the packages that load it."""

_WRITTEN_BY = {"keras": "keras", "sklearn": "scikit-learn"}
"""Library of a model -> the package whose older versions may not load what a newer one wrote.

Every version of transformers that the kit supports loads a checkpoint of every other.
"""


def oldest_reader(run: dict) -> tuple[str, str] | None:
    """Return a package and its oldest version that is known to load the model of a run; None: any version.

    Args:
        run: its metrics.json. Without `readable_from` in `model`, it is the version that wrote the model.
    """
    package = _WRITTEN_BY.get(run["model"]["library"])
    if package is None:
        return None
    written_with = ".".join(run["versions"][package].split(".")[:2])
    return package, run["model"].get("readable_from", written_with)


def run_requirements(run: dict) -> str:
    """Return requirements.txt for the folder of a run."""
    text = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8")
    if reader := oldest_reader(run):
        package, version = reader
        text = re.sub(rf"^{package}>=[\d.]+", f"{package}>={version}", text, flags=re.MULTILINE)
    return text
