"""Only complete runs are published, errors are one line, and an unfinished run is resumed on another machine.

Run: python -m pytest tests/hub/test_publication.py

The Hub is `hub_server.py` on this machine. The scripts run in separate processes and use the real client.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import yaml
from conftest import PROJECT
from hub_server import HubServer, environment
from scripts import SCRIPTS as ALL_SCRIPTS
from scripts import error_of

TOKEN, READ_TOKEN, OTHERS_TOKEN = "hf_write", "hf_read", "hf_somebody"

TWO_EMOTIONS = ["--demo", "--emotions", "sad", "angry"]
SCRIPTS = {name: ALL_SCRIPTS[name] for name in ("wav2vec2", "cnn", "baselines")}
WEIGHTS = {
    "wav2vec2": {"config.json", "model.safetensors", "preprocessor_config.json"},
    "cnn": {"config.json", "metadata.json", "model.keras", "model.weights.h5"},
    "baselines": {"config.json", "model.skops"},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def start(
    hub: HubServer, home: Path, *command: str | Path, token=TOKEN, **variables: str
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=PROJECT,
        env=environment(hub, token, home) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def call(hub: HubServer, home: Path, *command: str | Path, expect=0, token=TOKEN, **variables: str) -> str:
    """Run a command of the kit and return its output, which must not contain a token."""
    process = start(hub, home, *command, token=token, **variables)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == expect, output[-3000:]
    assert "hf_" not in output and "Traceback" not in output
    assert not hub.errors
    return output


def run_of(folder: Path, name: str) -> Path:
    return folder / name / "lda" if name == "baselines" else folder / name


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def last_line(output: str) -> str:
    return output.strip().splitlines()[-1]


# ---------------------------------------------------------------------------------------------------
# Publication of a run


def snippet_of(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_publishes_in_one_commit_a_model_that_others_can_use_as_the_card_shows(
    name, hub, cache, tmp_path
):
    command = [*SCRIPTS[name], f"--output_dir={tmp_path / 'runs' / name}", f"--cache_dir={cache}"]
    outputs = []
    process = start(hub, tmp_path / "home", *command, "--push_to_hub", f"--hub_model_id=me/my-{name}")
    reader = threading.Thread(target=lambda: outputs.append(process.stdout.read()))
    reader.start()
    command_lines = set()
    while process.poll() is None:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # the process has just ended
                command_lines.add(file.read_bytes())
        time.sleep(0.2)
    reader.join()
    assert process.returncode == 0, outputs[0][-3000:]
    assert last_line(outputs[0]) == f"Published: {hub.endpoint}/me/my-{name}"
    assert not any(TOKEN.encode() in line for line in command_lines) and TOKEN not in outputs[0]

    run = run_of(tmp_path / "runs", name)
    (message, _), *commits = hub.commits(f"me/my-{name}")
    assert message == "initial commit" and len(commits) == 1
    files = hub.files(f"me/my-{name}")
    card = files["README.md"].decode()
    assert WEIGHTS[name] <= files.keys()
    assert {
        "metrics.json",
        "predictions.csv",
        "figures/confusion_matrix.png",
        "requirements.txt",
    } <= files.keys()
    assert {SCRIPTS[name][0], "utils/data/audio.py"} <= files.keys()
    assert (run / "logs").exists() and not [file for file in files if "logs" in file or "events" in file]
    suffixes = {Path(file).suffix for file in files}
    assert not suffixes & {".wav", ".flac", ".npz", ".npy", ".arrow", ".bin", ".pt", ".pkl", ".pyc"}
    for file, data in files.items():
        for private in (TOKEN, str(tmp_path), str(PROJECT), str(Path.home()) + "/"):
            assert private.encode() not in data, file
    for file in ("metrics.json", "predictions.csv"):
        assert files[file] == (run / file).read_bytes()

    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "audio-classification"
    assert front["library_name"] == {"wav2vec2": "transformers", "cnn": "keras", "baselines": "sklearn"}[name]
    assert front["model-index"][0]["name"] == f"my-{name}"
    if name == "baselines":
        assert "skops" in front["tags"]
        assert json.loads(files["config.json"])["sklearn"]["model"]["file"] == "model.skops"

    # Another user on another machine runs the example of the card on a clip.
    row = pd.read_csv(run / "predictions.csv").iloc[7]
    clip = PROJECT / "data" / "demo" / f"Actor_{row['clip'][-2:]}" / f"{row['clip']}.wav"
    folder = tmp_path / "another machine"
    folder.mkdir()
    shutil.copy(clip, folder / "speech.wav")
    done = subprocess.run(
        [sys.executable, "-c", snippet_of(card)],
        cwd=folder,
        env=environment(hub, OTHERS_TOKEN, tmp_path / "another home"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    probabilities = dict(line.split() for line in done.stdout.splitlines())
    assert {f"p_{emotion}" for emotion in probabilities} == {key for key in row.index if key[:2] == "p_"}
    for emotion, probability in probabilities.items():
        assert float(probability) == pytest.approx(row[f"p_{emotion}"], abs=2e-3)


@pytest.mark.slow
def test_publishing_a_run_replaces_the_files_of_an_earlier_run_in_the_repository(
    finished_runs, hub, tmp_path
):
    old = {"model.keras": b"old", "figures/old.png": b"old", "notes.md": b"mine"}
    hub.add_repo("me/mine", files=old)
    before = content(finished_runs / "baselines")
    call(hub, tmp_path, "-m", "utils.publish", finished_runs / "baselines" / "lda", "--hub_model_id=me/mine")
    files = hub.files("me/mine")
    assert "model.skops" in files and files["notes.md"] == b"mine"
    assert not {"model.keras", "figures/old.png"} & files.keys()
    assert content(finished_runs / "baselines") == before


@pytest.mark.slow
def test_the_training_command_publishes_a_finished_run_in_a_private_repository_if_requested(
    finished_runs, hub, cache, tmp_path
):
    shutil.copytree(finished_runs / "baselines", tmp_path / "run")
    incomplete = tmp_path / "run" / "lda" / "checkpoints.partial" / "rest"  # left by a killed download
    incomplete.parent.mkdir()
    incomplete.write_text("half")
    options = [f"--output_dir={tmp_path / 'run'}", f"--cache_dir={cache}", "--resume_from_checkpoint"]
    output = call(hub, tmp_path, *SCRIPTS["baselines"], *options, "--push_to_hub", "--hub_private_repo")
    assert "files from" not in output, "clips were read, although the run is finished"
    assert "model.skops" in hub.files("me/run") and hub.is_private("me/run")
    assert not [name for name in hub.files("me/run") if ".partial" in name]


# ---------------------------------------------------------------------------------------------------
# Errors before the training


@pytest.mark.parametrize(
    ("options", "token", "expected"),
    [
        ([], None, "no token for the Hub"),
        ([], "hf_unknown", "the token is invalid"),
        ([], READ_TOKEN, "the token of me may only read"),
        (["--hub_model_id=somebody/taken"], TOKEN, "the token of me may not write there; expected me/<name>"),
        (["--hub_model_id=somebody/new"], TOKEN, "the token of me may not write there; expected me/<name>"),
        (["--hub_model_id=me/a b"], TOKEN, "--hub_model_id me/a b: "),
        (["--hub_model_id=me/public", "--hub_private_repo"], TOKEN, "exists and is public"),
    ],
)
def test_a_wrong_token_or_repository_gives_a_one_line_error_and_changes_nothing_on_the_hub(
    options, token, expected, finished_runs, hub, tmp_path
):
    hub.add_repo("somebody/taken", files={"README.md": b"theirs"})
    hub.add_repo("me/public")
    run = finished_runs / "baselines" / "lda"
    output = call(hub, tmp_path, "-m", "utils.publish", run, *options, token=token, expect=2)
    assert len(output.strip().splitlines()) == 1 and expected in output
    assert hub.files("somebody/taken").keys() == {".gitattributes", "README.md"}
    assert hub.files("somebody/taken")["README.md"] == b"theirs"
    assert ("model", "somebody/new") not in hub.repos


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_checks_the_token_before_it_reads_clips(name, hub, tmp_path):
    command = [*SCRIPTS[name], f"--output_dir={tmp_path / 'run'}", "--push_to_hub", "--hub_model_id=me/name"]
    output = call(hub, tmp_path, *command, token=READ_TOKEN, expect=2)
    assert "the token of me may only read" in last_line(output) and "files from" not in output
    assert not (tmp_path / "run").exists()


def test_an_unreachable_hub_is_an_error_before_the_training(tmp_path):
    with HubServer() as stopped:
        pass
    command = [*SCRIPTS["baselines"], f"--output_dir={tmp_path / 'run'}", "--push_to_hub"]
    output = call(stopped, tmp_path, *command, expect=2)
    assert "cannot be reached" in last_line(output) and not (tmp_path / "run").exists()
    output = call(stopped, tmp_path, *command, expect=2, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in last_line(output)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--hub_model_id=me/name"], "--hub_model_id: nothing is uploaded without --push_to_hub"),
        (["--hub_strategy=checkpoint"], "--hub_strategy checkpoint: nothing"),
        (["--resume_from_checkpoint=hub"], "--resume_from_checkpoint hub: nothing"),
    ],
)
def test_options_of_the_publication_are_refused_without_push_to_hub(options, expected, tmp_path):
    for command in (SCRIPTS["baselines"], SCRIPTS["wav2vec2"]):
        assert expected in error_of(*command, f"--output_dir={tmp_path / 'run'}", *options)


def test_a_token_on_the_command_line_is_refused_and_not_printed(hub, tmp_path):
    output = call(hub, tmp_path, *SCRIPTS["wav2vec2"], "--push_to_hub", f"--hub_token={TOKEN}", expect=2)
    assert "HF_TOKEN" in output and not hub.requests


def test_the_token_is_read_from_the_login_of_the_hub_or_from_the_secrets_of_kaggle(
    finished_runs, hub, tmp_path
):
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(TOKEN)
    run = finished_runs / "baselines" / "lda"
    call(hub, home, "-m", "utils.publish", run, "--hub_model_id=me/by-login", token=None)
    # Stands in for the module of Kaggle notebooks.
    (tmp_path / "kaggle_secrets.py").write_text(
        "import json, pathlib\n"
        "class UserSecretsClient:\n"
        "    def get_secret(self, label):\n"
        "        return json.loads(pathlib.Path(__file__).with_name('secrets.json').read_text())[label]\n"
    )
    kaggle = {"PYTHONPATH": str(tmp_path), "KAGGLE_KERNEL_RUN_TYPE": "Interactive", "token": None}
    (tmp_path / "secrets.json").write_text(json.dumps({"HF_TOKEN": TOKEN}))
    call(hub, tmp_path / "a", "-m", "utils.publish", run, "--hub_model_id=me/by-kaggle", **kaggle)
    assert "model.skops" in hub.files("me/by-login") and "model.skops" in hub.files("me/by-kaggle")
    (tmp_path / "secrets.json").write_text("{}")
    output = call(hub, tmp_path / "a", "-m", "utils.publish", run, **kaggle, expect=2)
    assert "no token for the Hub" in last_line(output)


# ---------------------------------------------------------------------------------------------------
# Failed uploads


def add_faults(hub: HubServer, kind: str) -> None:
    if kind == "500":
        hub.fail("POST", "/commit/main", status=500)
    elif kind == "429":
        hub.fail("POST", "/commit/main", status=429, headers={"Retry-After": "3"})
    elif kind == "503 twice":
        hub.fail("GET", "/tree/main", status=503, times=2)
    elif kind == "upload interrupted":
        hub.cut("PUT", "/lfs/", after_bytes=20_000)
    elif kind == "commit interrupted":
        hub.cut("POST", "/commit/main", after_bytes=100_000)
    elif kind == "response interrupted":
        hub.cut("POST", "/commit/main", of="response")
    elif kind == "error page of a proxy":
        hub.fail("POST", "/api/validate-yaml", status=502, body="<html>Bad gateway</html>")
    elif kind == "slow":
        hub.delay("POST", "/preupload/main", seconds=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "500",
        "429",
        "503 twice",
        "upload interrupted",
        "commit interrupted",
        "response interrupted",
        "error page of a proxy",
        "slow",
    ],
)
def test_a_run_is_published_despite_temporary_faults_of_the_hub(kind, finished_runs, hub, tmp_path):
    add_faults(hub, kind)
    output = call(
        hub, tmp_path, "-m", "utils.publish", finished_runs / "baselines" / "lda", "--hub_model_id=me/name"
    )
    assert hub.faults_left == 0
    assert ("trying again in 3 s" in output) == (kind == "429")
    files = hub.files("me/name")
    assert {"model.skops", "README.md", "predictions.csv"} <= files.keys()
    assert files["model.skops"] == (finished_runs / "baselines" / "lda" / "model.skops").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (("POST", "/commit/", 503), "the server answers 503"),
        (("POST", "/preupload/", 401), "the token is invalid"),
        (("POST", "/commit/", 403), "the token has no permission"),
        (("POST", "/commit/", 409), "it answers 409"),
    ],
)
def test_a_permanent_fault_of_the_hub_leaves_the_run_unchanged_and_the_error_gives_the_command_to_retry(
    fault, expected, finished_runs, hub, tmp_path
):
    run = finished_runs / "baselines" / "lda"
    before = content(run)
    hub.fail(*fault, times=99)
    output = call(
        hub, tmp_path, "-m", "utils.publish", run, "--hub_model_id=me/name", "--hub_private_repo", expect=2
    )
    assert expected in last_line(output)
    assert hub.files("me/name").keys() == {".gitattributes"}
    assert content(run) == before
    hub.faults.clear()
    command = re.search(r"python (-m utils\.publish .*)$", last_line(output)).group(1).split()
    call(hub, tmp_path, *command)
    assert "model.skops" in hub.files("me/name") and hub.is_private("me/name")


# ---------------------------------------------------------------------------------------------------
# Checks before the publication


def break_model(run: Path, how: str) -> None:
    weights = safetensors.torch.load_file(run / "model.safetensors")
    config = json.loads((run / "config.json").read_text())
    if how == "a weight is missing":
        del weights["classifier.weight"]
    elif how == "labels are not names":
        config["id2label"] = {str(number): f"LABEL_{number}" for number in range(3)}
        config["label2id"] = {f"LABEL_{number}": number for number in range(3)}
    elif how == "labels are swapped":
        config["id2label"]["0"], config["id2label"]["1"] = config["id2label"]["1"], config["id2label"]["0"]
    elif how == "other weights":
        weights["classifier.weight"] = 0.5 * weights["classifier.weight"]
    elif how == "another activation":
        config["feat_extract_activation"] = "relu"
    safetensors.torch.save_file(weights, run / "model.safetensors", metadata={"format": "pt"})
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("a weight is missing", "classifier.weight"),
        ("labels are not names", "LABEL_0"),
        ("labels are swapped", "its labels are"),
        ("other weights", "its probabilities differ from those of the run by up to"),
        ("another activation", "its probabilities differ from those of the run by up to"),
    ],
)
def test_a_model_that_cannot_be_loaded_or_gives_other_probabilities_is_not_published(
    how, expected, finished_runs, hub, tmp_path
):
    shutil.copytree(finished_runs / "wav2vec2", tmp_path / "run")
    break_model(tmp_path / "run", how)
    output = call(hub, tmp_path, "-m", "utils.publish", tmp_path / "run", expect=2)
    assert expected in last_line(output)
    assert hub.files("me/run").keys() == {".gitattributes"}


def test_a_run_whose_requirements_exclude_an_installed_version_is_not_published(finished_runs, hub, tmp_path):
    shutil.copytree(finished_runs / "baselines" / "lda", tmp_path / "run")
    requirements = (tmp_path / "run" / "requirements.txt").read_text()
    changed = re.sub(r"\nscikit-learn>=[\d.]+", "\nscikit-learn>=1.99", requirements)
    (tmp_path / "run" / "requirements.txt").write_text(changed)
    output = call(hub, tmp_path, "-m", "utils.publish", tmp_path / "run", expect=2)
    expected = rf"scikit-learn {metadata.version('scikit-learn')} is installed, .*scikit-learn.*>=1.99"
    assert re.search(expected, last_line(output)) and hub.files("me/run").keys() == {".gitattributes"}


def test_a_run_that_contains_a_local_path_or_the_token_is_not_published(finished_runs, hub, tmp_path):
    shutil.copytree(finished_runs / "baselines" / "lda", tmp_path / "run")
    for secret, description in ((f"{PROJECT}/data", "a path of this machine"), (TOKEN, "the token")):
        (tmp_path / "run" / "notes.txt").write_text(f"see {secret}")
        output = call(hub, tmp_path, "-m", "utils.publish", tmp_path / "run", expect=2)
        assert f"notes.txt holds {description}" in last_line(output)
    assert hub.files("me/run").keys() == {".gitattributes"}


def test_a_folder_without_a_finished_run_is_refused_before_any_request_to_the_hub(hub, tmp_path):
    output = call(hub, tmp_path, "-m", "utils.publish", tmp_path / "nothing", expect=2)
    assert "expected the folder of a finished run" in output and not hub.requests


# ---------------------------------------------------------------------------------------------------
# Resuming on another machine

LONGER_SCRIPTS = {
    "wav2vec2": ["train_wav2vec2.py", *TWO_EMOTIONS, "--no_probe", "--num_train_epochs=8"],
    "cnn": ["train_cnn.py", *TWO_EMOTIONS, "--num_train_epochs=8", "--width=4"],
    "baselines": ["train_baselines.py", *TWO_EMOTIONS, "--models=svm_rbf", "--protocol=folds"],
}


def num_checkpoint_commits(hub: HubServer, repo_id: str) -> int:
    """Return the number of commits of checkpoints."""
    repo = hub.repos.get(("model", repo_id))
    return (
        len(hub.commits(repo_id, revision="checkpoint")) - 1 if repo and "checkpoint" in repo.branches else 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LONGER_SCRIPTS)
def test_a_killed_run_is_resumed_from_the_hub_on_another_machine_with_the_same_predictions(
    name, hub, cache, tmp_path
):
    options = [f"--cache_dir={cache}", "--push_to_hub", "--hub_model_id=me/name", "--hub_strategy=checkpoint"]
    if name == "wav2vec2":  # a local path, which no file on the Hub may contain; the demo does not use it
        options += [f"--model_name_or_path={tmp_path / 'encoder'}"]
    hub.fail("POST", "/branch/checkpoint", status=500)  # must not end the training
    process = start(
        hub, tmp_path / "home", *LONGER_SCRIPTS[name], *options, f"--output_dir={tmp_path / 'old' / 'run'}"
    )
    deadline = time.monotonic() + 300
    while not num_checkpoint_commits(hub, "me/name"):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()[-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    shutil.rmtree(tmp_path / "old")  # only the files on the Hub are left
    files = hub.files("me/name", revision="checkpoint")
    assert not [file for file in files if file.endswith(("training_args.bin", "frames.f32", ".wav"))]
    assert not any(str(tmp_path).encode() in data or TOKEN.encode() in data for data in files.values())
    assert hub.files("me/name").keys() == {".gitattributes"}, "an unfinished run is on the main branch"

    new = [f"--output_dir={tmp_path / 'new' / 'run'}", "--resume_from_checkpoint=hub"]
    output = call(hub, tmp_path / "another home", *LONGER_SCRIPTS[name], *options, *new)
    assert "Resuming from the checkpoints in" in output
    assert {"baselines": "svm_rbf, fold 1: was trained"}.get(name, "Resuming from") in output
    assert "Epoch 1/" not in output
    uninterrupted = tmp_path / "uninterrupted"
    options_of_uninterrupted = [f"--cache_dir={cache}", f"--output_dir={uninterrupted}"]
    call(hub, tmp_path / "home", *LONGER_SCRIPTS[name], *options_of_uninterrupted)
    resumed = tmp_path / "new" / "run"
    if name == "baselines":
        uninterrupted, resumed = uninterrupted / "svm_rbf", resumed / "svm_rbf"
    expected = (uninterrupted / "predictions.csv").read_text()
    assert (resumed / "predictions.csv").read_text() == expected
    assert hub.files("me/name")["predictions.csv"].decode() == expected
    assert "checkpoint" not in hub.repos["model", "me/name"].branches

    # The run is finished, so that the same command on a third machine is refused.
    third = [f"--output_dir={tmp_path / 'third'}", "--resume_from_checkpoint=hub"]
    output = call(hub, tmp_path / "another home", *LONGER_SCRIPTS[name], *options, *third, expect=2)
    assert "holds a finished run" in last_line(output)


@pytest.mark.slow
def test_newer_local_checkpoints_are_preferred_to_those_on_the_hub(hub, cache, tmp_path):
    """Training also continues if checkpoints can no longer be uploaded."""
    options = [f"--cache_dir={cache}", "--push_to_hub", "--hub_model_id=me/name", "--hub_strategy=checkpoint"]
    run = tmp_path / "run"
    process = start(hub, tmp_path / "home", *LONGER_SCRIPTS["cnn"], *options, f"--output_dir={run}")
    history = run / "checkpoints" / "holdout" / "history.jsonl"
    while not num_checkpoint_commits(hub, "me/name"):
        assert process.poll() is None
        time.sleep(0.05)
    hub.fail("POST", "/commit/checkpoint", status=403, times=99)
    while len(history.read_text().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    resume = [f"--output_dir={run}", "--resume_from_checkpoint=hub"]
    output = call(hub, tmp_path / "home", *LONGER_SCRIPTS["cnn"], *options, *resume)
    assert "are at least as advanced as those on the Hub" in output and "Epoch 2/" not in output
    assert "Checkpoints not uploaded: the Hub refuses me/name" in output
    assert "model.keras" in hub.files("me/name")


@pytest.mark.slow
def test_checkpoints_are_uploaded_less_often_if_the_hub_is_slow(hub, cache, tmp_path):
    hub.delay("POST", "/branch/checkpoint", seconds=5, times=99)
    options = [f"--cache_dir={cache}", f"--output_dir={tmp_path / 'run'}", "--hub_strategy=checkpoint"]
    command = [*SCRIPTS["baselines"], "--protocol=folds", *options]
    call(hub, tmp_path, *command, "--push_to_hub", "--hub_model_id=me/name")
    uploads = [
        path for method, path, _ in hub.requests if method == "POST" and path.endswith("/branch/checkpoint")
    ]
    assert len(uploads) == 1  # for four folds of one or two seconds each


@pytest.mark.slow
def test_without_checkpoints_on_the_hub_the_training_starts_from_the_beginning(hub, cache, tmp_path):
    options = [f"--cache_dir={cache}", f"--output_dir={tmp_path / 'run'}", "--resume_from_checkpoint=hub"]
    output = call(hub, tmp_path, *SCRIPTS["baselines"], *options, "--push_to_hub", "--hub_model_id=me/name")
    assert "has no checkpoints yet" in output and "model.skops" in hub.files("me/name")
