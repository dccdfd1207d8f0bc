"""--report_to: TensorBoard's files of finished runs hold what was measured, and they are not published.

Run: python -m pytest tests/report/test_trackers.py
"""

import pytest
from scripts import error_of, metrics_of, reported

from utils.hub.publication import published_files
from utils.report.run_folder import begin_run

RUNS = ("baselines/lda", "cnn", "wav2vec2")
SCRIPTS = ("train_baselines.py", "train_cnn.py", "train_wav2vec2.py")


@pytest.mark.parametrize("name", RUNS)
def test_tensorboard_shows_options_epochs_and_test_scores(name, finished_runs):
    """The epochs of train_wav2vec2.py are compared in encoders/test_arguments.py."""
    found, metrics = reported(finished_runs / name), metrics_of(finished_runs / name)
    options = found.pop("options")[0].decode()
    assert options.startswith(f"| {name.split('/')[0]} |") and "| protocol | holdout |" in options
    assert str(finished_runs.folder) not in options, "a path of this machine"
    expected = {f"test/{key}": [metrics["test"][key]] for key in ("uar", "accuracy", "macro_f1", "loss")}
    for epoch in metrics["training"]["history"]:
        for key, shown in (("eval_uar", "eval/uar"), ("eval_loss", "eval/loss"), ("loss", "train/loss")):
            expected.setdefault(shown, []).append(epoch[key])
    assert (len(expected) > 4) == (name == "cnn")
    assert {key: found[key] for key in expected} == {
        key: pytest.approx(values) for key, values in expected.items()
    }


@pytest.mark.parametrize("name", RUNS)
def test_what_was_reported_is_not_published(name, finished_runs):
    assert list((finished_runs / name / "logs").iterdir())
    names = published_files(finished_runs / name, "me/mine").keys()
    assert "metrics.json" in names and not [file for file in names if "logs" in file or "events" in file]


def test_a_new_run_does_not_show_the_curves_of_the_one_before_and_a_resumed_one_does(tmp_path):
    begin_run(tmp_path, None, {"seed": 1})
    (tmp_path / "logs").mkdir()
    begin_run(tmp_path, "true", {"seed": 1})
    assert (tmp_path / "logs").exists()
    begin_run(tmp_path, None, {"seed": 1})
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_tool_that_is_not_installed_or_unknown_is_refused_before_any_work(script, tmp_path):
    for tool, expected in (
        ("wandb", "--report_to wandb: the package is not installed; pip install wandb"),
        ("excel", "--report_to/--report-to: invalid choice: 'excel'"),
    ):
        message = error_of(script, "--demo", "--report_to", tool, f"--output_dir={tmp_path / 'run'}")
        assert expected in message and "\n" not in message and not (tmp_path / "run").exists()
