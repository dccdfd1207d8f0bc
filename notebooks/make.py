"""Write notebooks/colab.ipynb, notebooks/kaggle.ipynb and the badges in README.md.

    python -m notebooks.make

Both notebooks are generated from `cells`, so that they stay consistent; do not edit them by hand. The address
of the repository is read from CITATION.cff.
"""

import re
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from notebooks.cells import make_cells
from notebooks.places import PLACES

PROJECT_ROOT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT_ROOT / "notebooks"

METADATA = {
    "colab": {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}},
    "kaggle": {
        "kaggle": {"accelerator": "nvidiaTeslaT4", "isGpuEnabled": True, "isInternetEnabled": True},
    },
}


def make_notebook(place: str, repository: str) -> NotebookNode:
    """Return the notebook for one of `PLACES`, without outputs and with fixed cell ids.

    Args:
        place: key of `PLACES`.
        repository: address from which the notebook clones the kit.
    """
    constructors = {"markdown": new_markdown_cell, "code": new_code_cell}
    notebook = new_notebook(
        cells=[constructors[kind](text) for kind, text in make_cells(place, repository)],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
        | METADATA[place],
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    return notebook


def badges(repository: str) -> str:
    """Return the badges of the README, which open the notebooks."""
    name = repository.removeprefix("https://github.com/")
    colab, kaggle = (f"{name}/blob/main/notebooks/{place}.ipynb" for place in PLACES)
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{colab})\n"
        "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"(https://kaggle.com/kernels/welcome?src=https://github.com/{kaggle})"
    )


def make_all() -> dict[Path, str]:
    """Return path -> content of the notebooks, and of the README with its badges."""
    citation = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    repository = citation["repository-code"]
    contents = {
        FOLDER / f"{place}.ipynb": nbformat.writes(make_notebook(place, repository)) + "\n"
        for place in PLACES
    }
    readme = PROJECT_ROOT / "README.md"
    contents[readme] = re.sub(
        r"(<!-- badges -->\n).*?(\n<!-- /badges -->)",
        lambda match: match[1] + badges(repository) + match[2],
        readme.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    return contents


if __name__ == "__main__":
    for path, content in make_all().items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
