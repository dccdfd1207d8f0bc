"""Imports run one way, frameworks stay in their packages, scripts and functions are short.

Run: python -m pytest tests/test_structure.py
"""

import ast
import itertools
import re
from pathlib import Path

import pytest
from conftest import PROJECT

UTILS = PROJECT / "utils"
ORDER = (
    *(
        "devices",
        "provenance",
        "runtime",
        "options",
        "data",
        "evaluation",
        "features",
        "encoders",
        "cnn",
        "report",
    ),
    *("onnx_export", "app", "exploration", "hub"),
)
"""Leaves and packages; each imports only those before it. Commands and scripts come last."""

FRAMEWORKS = {
    "torch": {"encoders", "onnx_export"},
    "transformers": {"encoders", "onnx_export"},
    "accelerate": {"encoders"},
    "peft": {"encoders"},
    "tensorflow": {"cnn"},
    "keras": {"cnn"},
}
"""Framework -> the packages that may import it when they are imported."""

SCRIPTS = {"train_baselines.py": 265, "train_cnn.py": 335, "train_wav2vec2.py": 300}
"""Script -> most lines."""

MAX_FUNCTION_LINES = 62


def modules() -> list[Path]:
    return sorted(UTILS.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(UTILS).parts[0].removesuffix(".py")


def imports_of(nodes) -> list[tuple[str, str]]:
    """Return (module, name) of each import among some nodes; the name is "" for `import module`."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module, alias.name) for alias in node.names]
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(UTILS).as_posix())
def test_imports_run_one_way_and_take_nothing_private(path):
    package = package_of(path)
    allowed = ORDER[: ORDER.index(package) + 1] if package in ORDER else ORDER
    for module, name in imports_of(ast.walk(parsed(path))):
        parts = module.split(".")
        if parts[0] != "utils":
            continue
        other = parts[1] if len(parts) > 1 else name
        assert other in allowed, f"{path.name} imports {module}, which does not come before {package}"
        assert not name.startswith("_"), f"{path.name} imports {name} of {module}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(UTILS).as_posix())
def test_a_framework_is_imported_by_its_own_packages_alone(path):
    for module, _ in imports_of(parsed(path).body):
        packages = FRAMEWORKS.get(module.split(".")[0])
        # The parser of options needs neither PyTorch nor TensorFlow.
        assert packages is None or package_of(path) in packages, f"{path.name} imports {module}"


def test_files_directly_in_utils_are_commands_or_leaves():
    leaves = {"__init__.py", "options.py"}
    for path in UTILS.glob("*.py"):
        if path.name not in leaves:
            assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize(("name", "most"), SCRIPTS.items())
def test_a_script_is_short_and_so_are_its_functions(name, most):
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= most


def test_no_function_needs_scrolling():
    paths = [*modules(), *(PROJECT / name for name in SCRIPTS), *PROJECT.glob("benchmarks/*.py")]
    paths += [PROJECT / "space" / "app.py", PROJECT / "notebooks" / "make.py"]
    for path in paths:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {lines} lines"


@pytest.mark.parametrize(("first", "second"), itertools.combinations(SCRIPTS, 2))
def test_no_six_lines_stand_in_two_scripts_but_imports(first, second):
    def passages(name: str) -> set[str]:
        text = (PROJECT / name).read_text(encoding="utf-8")
        body = re.sub(r"^(from [^\n]* import \([^)]*\)|(from|import) [^\n]*)\n", "", text, flags=re.MULTILINE)
        lines = [line.strip() for line in body.splitlines() if line.strip()]
        return {"\n".join(lines[start : start + 6]) for start in range(len(lines) - 5)}

    assert not passages(first) & passages(second)
