"""The options that all scripts and commands share, and how a command line or a YAML/JSON file is parsed.

Each script adds dataclasses of its own. A wrong option ends in one line, before any slow import.
"""

import argparse
import ast
import dataclasses
import difflib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.runtime import InputError, first_line, refuse_arguments

PROTOCOLS = ("holdout", "folds", "loso", "cross-corpus", "random")

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Tools that runs can be reported to; a package of that name each."""

DEMO_FOLDERS = ("runs/demo", "runs/demo_cnn", "runs/demo_baselines")
"""Run folders of --demo, by script; a new demo may replace an older one there."""


@dataclass
class RunOptions:
    """Where the run goes, and what is evaluated beside the test split."""

    _argument_group_name = "run"

    output_dir: str = field(default="runs/run", metadata={"help": "The run folder."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the run that --output_dir holds."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "true: continue the unfinished run in --output_dir. hub: continue from the "
                  "checkpoints on the Hub.", "nargs": "?", "const": "true"},
    )  # fmt: skip
    seed: int = field(default=42, metadata={"help": "Seed of everything random."})
    evaluate_on: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of your labelled recordings: score the model on them too."},
    )
    robustness: bool | None = field(
        default=None,
        metadata={"help": "Test robustness to 27 perturbations of the test clips; by default under "
                  "--protocol holdout, and not in the demo."},
    )  # fmt: skip
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Report options, epochs and test scores there too.",
                  "choices": ["none", *TRACKERS]},
    )  # fmt: skip

    def __post_init__(self):
        self.report_to = [name for name in self.report_to if name != "none"]
        for name in self.report_to:
            if not importlib.util.find_spec(name):
                raise InputError(f"--report_to {name}: the package is not installed; pip install {name}")
        if str(self.resume_from_checkpoint).lower() in ("", "none", "false", "no", "0"):
            self.resume_from_checkpoint = None
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: expected a number from 0 to {2**32 - 1}")


@dataclass
class HubOptions:
    """Whether and where the run is published."""

    _argument_group_name = "publication on the Hugging Face Hub"

    push_to_hub: bool = field(default=False, metadata={"help": "Publish the finished run (needs HF_TOKEN)."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "user/name; by default the run folder's name under your account."}
    )
    hub_private_repo: bool = field(default=False, metadata={"help": "Make the repository private."})
    hub_strategy: str = field(
        default="end",
        metadata={"help": "checkpoint: upload checkpoints during training too; --resume_from_checkpoint hub "
                  "continues from them on any machine.", "choices": ["end", "checkpoint"]},
    )  # fmt: skip


def parse_options(
    argv: Sequence[str],
    types: Sequence[type],
    description: str,
    defaults: Mapping[str, object] | None = None,
    demo: Mapping[str, object] | None = None,
    more: Sequence[str] = (),
) -> tuple:
    """Parse the command line of a script, or the one YAML or JSON file that it names.

    Args:
        argv: the arguments.
        types: dataclasses of options. An option has the name of its field.
        description: shown first by --help.
        defaults: option -> default, where it differs from that of the dataclass.
        demo: option -> default under --demo.
        more: names of further options, which are passed on unparsed.

    Returns:
        An instance of each type, in their order; with `more` also the list of further arguments.

    Raises:
        InputError: an option does not exist or has a wrong value.
    """
    if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")):
        argv = read_options(Path(argv[0]))
    if more and "--help_all" in argv:
        print_help_all()
    _refuse_unknown([each.name for one in types for each in dataclasses.fields(one)], argv, more)

    from transformers.hf_argparser import HfArgumentParser  # some versions import PyTorch with it

    parser = HfArgumentParser(
        types,
        usage="%(prog)s [OPTIONS]\n       %(prog)s options.yaml",
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.error = refuse_arguments
    parser.set_defaults(**(defaults or {}))
    if demo and parser.parse_known_args(argv)[0].demo:
        parser.set_defaults(**demo)
    namespace, rest = parser.parse_known_args(argv)
    if stray := [argument for argument in rest if not more or not rest[0].startswith("--")]:
        raise InputError(f"{stray[0]}: expected an option before this value; --help lists the options")
    values = vars(namespace)
    parsed = tuple(
        each(**{one.name: values[one.name] for one in dataclasses.fields(each) if one.init}) for each in types
    )
    return (*parsed, rest) if more else parsed


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description; shows each option once, with its default."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings = action.option_strings
        action.option_strings = [
            name for name in spellings if name.lstrip("-").replace("-", "_") in name
        ] or spellings
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = spellings


def _refuse_unknown(known: Sequence[str], argv: Sequence[str], more: Sequence[str]) -> None:
    """Raise an `InputError` for the first option that does not exist, with the nearest one that does."""
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if not argument.startswith("--") or name in ("", "help", *more):
            continue
        if name.endswith("_token"):
            raise InputError(
                f"--{name}: other users of this machine can read a command line; put the token into the "
                "environment as HF_TOKEN, or run `hf auth login`"
            )
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *more], n=1)
            hint = f"did you mean --{near[0]}? " if near else ""
            raise InputError(f"--{name}: there is no such option; {hint}--help lists the options")


def training_argument_names() -> list[str]:
    """Return the names of the fields of transformers' `TrainingArguments`.

    They are read from its source: to import it would import PyTorch, which takes seconds.
    """
    package = importlib.util.find_spec("transformers").submodule_search_locations[0]
    tree = ast.parse((Path(package) / "training_args.py").read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if getattr(node, "name", None) == "TrainingArguments"]
    names = [node.target.id for node in body if isinstance(node, ast.AnnAssign)]
    return [name for name in names if not name.endswith("_token")]


def read_options(path: Path) -> list[str]:
    """Return the options of a YAML or JSON file as command-line arguments.

    Raises:
        InputError: the file cannot be read, or does not hold names with values.
    """
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


def print_help_all() -> None:
    """Print the options of transformers' `TrainingArguments`, and exit."""
    from transformers import HfArgumentParser, TrainingArguments

    HfArgumentParser(TrainingArguments, usage="further options", add_help=False).print_help()
    sys.exit(0)
