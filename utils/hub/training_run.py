"""One training run: begin or resume it, keep what each of its models predicts, report it, publish it."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from utils.app.recordings import score_recordings
from utils.data.loading import LoadedClips
from utils.data.options import DataOptions
from utils.data.splits import Plan, describe_split
from utils.hub.checkpoints import CheckpointUploader, fetch_checkpoints
from utils.hub.publication import check_hub_options, publish
from utils.hub.repository import Repository
from utils.options import DEMO_FOLDERS, HubOptions, RunOptions
from utils.report.finish import TrainedModel, report_run, wants_robustness
from utils.report.predictions import prediction_table, read_predictions
from utils.report.run_folder import LOGS, begin_run, check_run_folder
from utils.report.trackers import Trackers
from utils.runtime import InputError, logger, without_secrets_and_paths, write_json, write_text


class TrainingRun:
    """A run and its folder. What would stop its publication is found at once, before any training.

    Args:
        script: path of the script.
        folder: of the run.
        data, options, hub: the options.
        others: further options, an instance of a dataclass each; they are noted in the report.
        repository: its name on the Hub, if there is no --hub_model_id; by default that of the folder.
        writes: whether this process writes the run's files. Of several processes one does.
        agree: returns in all processes the value that the writing one has.

    Attributes:
        is_complete: the run is finished and to be resumed or evaluated: there is nothing to train.
        uploader: keeps the checkpoints on the Hub whenever it is called; None: they are not kept.
        facts: model name -> plain data about it.

    Raises:
        InputError: the folder holds something else, or the run cannot be published.
    """

    def __init__(
        self,
        script: str,
        folder: Path,
        data: DataOptions,
        options: RunOptions,
        hub: HubOptions,
        *others,
        repository: str | None = None,
        writes: bool = True,
        agree: Callable[[bool], bool] = bool,
    ):
        check_hub_options(asdict(hub) | asdict(options))
        if options.robustness and data.protocol != "holdout":
            raise InputError(f"--robustness true: expected --protocol holdout, got {data.protocol}")
        self.script, self.folder, self.writes = Path(script).name, folder, writes
        self.data, self.options = data, options
        self.arguments = {}
        for each in (data, *others, options, hub):
            self.arguments |= asdict(each)
        self.facts: dict[str, dict] = {}
        self._tested: list[pd.DataFrame] = []
        self._validated: pd.DataFrame | None = None
        self.started, self.earlier_seconds = time.perf_counter(), 0.0
        overwrite = options.overwrite or (data.demo and options.output_dir in DEMO_FOLDERS)
        resumes = options.resume_from_checkpoint is not None
        unfinished = check_run_folder(folder, overwrite, resumes, bool(options.evaluate_on))
        self.is_complete, self._agree = not agree(unfinished), agree
        name = repository or hub.hub_model_id or folder.resolve().name
        reported = without_secrets_and_paths(self.arguments)
        self.trackers = Trackers(options.report_to if writes else (), folder / LOGS, name, reported)
        self.repository = self.uploader = None
        if hub.push_to_hub and writes:
            self.repository = Repository(name, hub.hub_private_repo)
            if hub.hub_strategy == "checkpoint":
                self.uploader = CheckpointUploader(self.repository, folder)
            if options.resume_from_checkpoint == "hub" and not self.is_complete:
                fetch_checkpoints(self.repository, folder)

    def begin(
        self,
        clips: LoadedClips,
        plan: Plan,
        settings: Mapping[str, object],
        tidies: bool = True,
        shared: bool = True,
    ) -> str | None:
        """Make the folder ready for training; return the checkpoint that the user named, if any.

        Args:
            settings: options that a resumed run must have in common with the one that was begun.
            tidies: whether this process may remove what is left of an older run.
            shared: whether this process sees the folder of the writing one, and a named checkpoint in it.

        Raises:
            InputError: the run that was begun had other settings or another split.
        """
        self.clips, self.plan = clips, plan
        identity = {"split_digest": plan.digest(), "emotions": list(clips.emotions)}
        identity |= {"seed": self.options.seed, **settings}
        resume = self.options.resume_from_checkpoint
        is_named = resume not in (None, "true", "hub")
        if is_named and len(plan.models) > 1:
            raise InputError(
                f"--resume_from_checkpoint {resume}: expected true, because --protocol {self.data.protocol} "
                f"trains {len(plan.models)} models; each resumes from its own last checkpoint"
            )
        if resume == "hub" or (is_named and not shared):
            resume = "true"
        return begin_run(self.folder, resume, identity, writes=tidies)

    def checkpoints_of(self, name: str) -> Path:
        """Return the folder for the checkpoints of a model."""
        return self.folder / "checkpoints" / name.replace(" ", "_")

    def restore(self, name: str) -> bool:
        """Say whether this model was trained and tested before an interruption; take over its results."""
        file = self.checkpoints_of(name).with_suffix(".csv")
        if not self._agree(self.options.resume_from_checkpoint is not None and file.exists()):
            return False
        logger.info("%s, %s: was trained and tested before", self.folder.name, name)
        if not self.writes:
            return True
        self._tested.append(read_predictions(file))
        self.facts[name] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        self.earlier_seconds += self.facts[name].get("seconds", 0.0)
        return True

    def unfinished(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield name and split of each model that is still to be trained, and log its clips."""
        self.trackers.open()
        for name, split in self.plan.models.items():
            if not self.restore(name):
                self.log_split(name)
                yield name, split

    def log_split(self, name: str) -> None:
        """Log the clips and speakers of each part of a model's split."""
        logger.info("Model of %s", name)
        for part, rows in describe_split(self.plan.models[name]).items():
            logger.info("  %-10s %5d clips by %s", part, rows["clips"], ", ".join(rows["speakers"]))

    def report(self, name: str, scores: Mapping[str, float], step: int) -> None:
        """Report scores of a model, while it is trained, to the tools of --report_to."""
        self.trackers.log(scores, step, prefix=f"{name}/" if len(self.plan.models) > 1 else "")

    def score(self, name: str, predict: Callable[[str, pd.DataFrame], np.ndarray], facts: dict) -> None:
        """Predict what is scored of a model: its test clips, and of the published one the validation clips.

        Args:
            predict: (part, its rows of the split) -> probabilities (num_clips, num_emotions).
            facts: plain data about the model, with the `temperature` that calibrates it. Those of a fold are
                written with its predictions, so that a resumed run does not train it again.
        """
        split, is_final = self.plan.models[name], self.plan.models[name] is self.plan.final
        self.facts[name] = facts
        for part in ("validation", "test") if is_final else ("test",):
            rows = split[split["split"] == part]
            if not len(rows):
                continue  # the final model beside the folds has no test clips
            table = prediction_table(rows, predict(part, rows), self.clips.emotions, name)
            if part == "validation":
                self._validated = table
            else:
                self._tested.append(table)
        if not is_final and self.writes:
            file = self.checkpoints_of(name).with_suffix(".csv")
            write_json(file.with_suffix(".json"), self.facts[name])
            write_text(file, table.to_csv(index=False))
            if self.uploader:
                self.uploader()

    def finish(self, model: TrainedModel) -> None:
        """Report the run with its saved model, score the user's recordings, and publish."""
        predictions = {"test": pd.concat(self._tested, ignore_index=True)}
        if self._validated is not None:
            predictions["validation"] = self._validated
        metrics = report_run(
            self.folder, self.script, sys.argv[1:], self.arguments, self.clips, self.plan, predictions, model,
            {name: facts["temperature"] for name, facts in self.facts.items()},
            self.started - self.earlier_seconds, wants_robustness(self.data, self.options),
        )  # fmt: skip
        scores = {f"test_{name}": metrics["test"][name] for name in ("uar", "accuracy", "macro_f1", "loss")}
        self.trackers.log(scores, step=0)
        self.trackers.close()
        shutil.rmtree(self.folder / "checkpoints")
        logger.info(
            "%sTest UAR %.1f %%, accuracy %.1f %% on %d clips. Card: %s",
            "Synthetic voices, no real result. " if self.data.demo else "",
            100 * metrics["test"]["uar"],
            100 * metrics["test"]["accuracy"],
            metrics["test"]["clips"],
            self.folder / "README.md",
        )
        self._close()

    def close_complete(self) -> None:
        """Score the user's recordings with a run that was complete already, and publish it."""
        logger.info("%s: the run is complete, see %s", self.folder.name, self.folder / "README.md")
        self._close()

    def _close(self) -> None:
        if self.writes:
            cache_dir = self.data.cache_folder()
            score_recordings(self.folder, self.options.evaluate_on, cache_dir, self.data.allow_partial)
        if self.repository:
            publish(self.repository, self.folder)
