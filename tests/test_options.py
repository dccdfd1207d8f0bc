"""Options: the same in all scripts, checked before any slow import, from a command line or a file.

Run: python -m pytest tests/test_options.py
"""

import subprocess
import sys
from dataclasses import fields

import pytest
from conftest import PROJECT
from transformers import TrainingArguments

from utils.data.options import DataOptions
from utils.options import HubOptions, RunOptions, parse_options, read_options, training_argument_names
from utils.runtime import InputError

TYPES = (DataOptions, RunOptions, HubOptions)
SCRIPTS = ("train_baselines.py", "train_cnn.py", "train_wav2vec2.py")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--corpra", "tess"], "--corpra: there is no such option; did you mean --corpora?"),
        (["--corpora", "ravdes"], "unknown corpus 'ravdes'; did you mean 'ravdess'?"),
        (["--emotions", "joy", "sad"], "unknown emotion 'joy'"),
        (["--emotions", "sad"], "at least two emotions"),
        (["--protocol", "lucky"], "--protocol"),
        (["--hub_token=hf_secret"], "HF_TOKEN"),
        (["--seed", "-1"], "--seed -1"),
        (["tess"], "tess: expected an option"),
    ],
)
def test_a_wrong_option_is_named_with_a_remedy(options, expected):
    with pytest.raises(InputError) as error:
        parse_options(options, TYPES, "")
    assert expected in str(error.value) and "hf_secret" not in str(error.value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_option_ends_a_script_before_its_slow_imports(script):
    program = (
        f"import runpy, sys\nsys.argv = [{script!r}, '--learning_rat=1', '--corpora=ravdess']\n"
        f"try:\n    runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    code = end.code\n"
        "print(code, sorted({'torch', 'tensorflow', 'sklearn', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.strip() == "2 []", done.stdout + done.stderr
    assert "--learning_rat: there is no such option" in done.stderr


def test_defaults_are_those_of_the_script_and_of_its_demo_and_what_is_given_wins():
    defaults, demo = {"output_dir": "runs/a"}, {"output_dir": "runs/demo", "seed": 7}
    _, run, _ = parse_options([], TYPES, "", defaults, demo)
    assert (run.output_dir, run.seed) == ("runs/a", 42)
    _, run, _ = parse_options(["--demo"], TYPES, "", defaults, demo)
    assert (run.output_dir, run.seed) == ("runs/demo", 7)
    _, run, _ = parse_options(["--demo", "--seed", "3", "--robustness", "false"], TYPES, "", defaults, demo)
    assert (run.output_dir, run.seed, run.robustness) == ("runs/demo", 3, False)


def test_further_options_are_those_of_training_arguments():
    names = training_argument_names()
    assert set(names) == {
        each.name for each in fields(TrainingArguments) if each.init and not each.name.endswith("_token")
    }
    *_, flags = parse_options(["--max_steps", "2", "--seed", "1"], TYPES, "", more=names)
    assert flags == ["--max_steps", "2"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_begins_with_what_the_script_does_and_shows_defaults(script):
    done = subprocess.run([sys.executable, script, "--help"], cwd=PROJECT, capture_output=True, text=True)
    description, _, options = done.stdout.partition("options:")
    assert done.returncode == 0 and f"python {script} --demo" in description
    assert "--output_dir" in options and "(default: runs/" in options and "--max_steps" not in options


# ---------------------------------------------------------------------------------------------------
# Options in a file

AS_YAML = """
corpora: [ravdess, tess]
augment: true
overwrite: no
from_config: null
learning_rate: 1e-5
weight_decay: 1.0e-2
seed: 7
output_dir: runs/my run
lr_scheduler_kwargs: {mode: max}
"""
AS_JSON = """{"corpora": ["ravdess", "tess"], "augment": true, "overwrite": false, "from_config": null,
"learning_rate": 1e-5, "weight_decay": 1.0e-2, "seed": 7, "output_dir": "runs/my run",
"lr_scheduler_kwargs": {"mode": "max"}}"""


@pytest.mark.parametrize(("name", "text"), [("options.yaml", AS_YAML), ("options.json", AS_JSON)])
def test_options_in_a_file_become_command_line_arguments(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    *arguments, learning_rate, weight_decay, seed, output_dir, kwargs = read_options(tmp_path / name)
    assert arguments == ["--corpora", "ravdess", "tess", "--augment=true", "--overwrite=false"]
    assert learning_rate.startswith("--learning_rate=") and float(learning_rate.split("=")[1]) == 1e-5
    assert float(weight_decay.removeprefix("--weight_decay=")) == 0.01
    assert (seed, output_dir) == ("--seed=7", "--output_dir=runs/my run")
    assert kwargs == '--lr_scheduler_kwargs={"mode": "max"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2\nb: 3", "cannot be read as options"),
        (b"\x00\x01\x02", "cannot be read as options"),
        (b"RIFF\x00\x80\xff\xfeWAVE", "cannot be read as options"),
        (b"- ravdess\n- tess\n", "expected option names with values, got list"),
        (b"ravdess", "expected option names with values, got str"),
        (b"", "expected option names with values, got NoneType"),
        (None, "cannot be read as options"),
    ],
)
def test_a_file_without_options_is_a_one_line_error(tmp_path, content, message):
    path = tmp_path / "options.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_options(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
