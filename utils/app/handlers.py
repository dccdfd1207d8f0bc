"""Event handlers of the page in `space/`: classify what a visitor sends, then delete it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.app import html
from utils.app.descriptions import read_test_confidences
from utils.app.predictor import load_predictor, predict_over_time, read_run
from utils.data.audio import SAMPLING_RATE, AudioError, read_waveform

MAX_FILES = 100
"""Maximum number of files that are classified at once."""


class PageModel:
    """The model of a run, with the event handlers of the page.

    Thresholds are in percent, as on the slider.

    Attributes:
        run: its metrics.json.
        emotions: label names.
        predict_proba: list of waveforms -> probabilities (num_clips, num_emotions).
        test: as returned by `descriptions.read_test_confidences`.
    """

    def __init__(self, folder: Path):
        self.run = read_run(folder)
        self.emotions = self.run["emotions"]
        self.predict_proba = load_predictor(folder, self.run)
        self.test = read_test_confidences(folder, self.run)

    def predict_clip(
        self, path: str | None, threshold: float
    ) -> tuple[None, None, np.ndarray | None, str, str]:
        """Classify a recording or file.

        Returns:
            None for both inputs, which empties them; the probabilities; HTML of the prediction and of the
            timeline.
        """
        if path is None:
            return None, None, None, "", ""
        file = Path(path)
        try:
            waveform = read_and_delete(file)
        except AudioError as error:
            return None, None, None, html.problem(f"{file.name}: {error}"), ""
        probabilities, times, window_probabilities = predict_over_time(self.predict_proba, waveform)
        timeline = html.timeline(waveform, times, window_probabilities, self.emotions)
        window = self.run["model"].get("window_seconds")
        note = html.cut_note(window) if window and len(waveform) > window * SAMPLING_RATE else ""
        return (
            None,
            None,
            probabilities,
            self.prediction(probabilities, threshold),
            note + html.player(waveform) + timeline,
        )

    def predict_files(
        self, paths: Sequence[str] | None, threshold: float
    ) -> tuple[None, list[html.FileResult], str]:
        """Classify several files.

        Returns:
            None for the input, which empties it; a result per file; HTML of the table.
        """
        results = []
        for number, path in enumerate(paths or []):
            file = Path(path)
            try:
                waveform = read_and_delete(file)
                if number >= MAX_FILES:
                    raise AudioError(f"not classified: at most {MAX_FILES} files at once")
                results.append((file.name, self.predict_proba([waveform])[0], ""))
            except AudioError as error:
                results.append((file.name, None, str(error)))
        return None, results, self.table(results, threshold)

    def prediction(self, probabilities: np.ndarray, threshold: float) -> str:
        """Return the HTML of a prediction."""
        return html.prediction(probabilities, self.emotions, threshold / 100)

    def table(self, results: Sequence[html.FileResult], threshold: float) -> str:
        """Return the HTML of the table of several files."""
        return html.file_table(results, self.emotions, threshold / 100)


def read_and_delete(file: Path) -> np.ndarray:
    """Return the waveform of a file that a visitor sent, and delete the file.

    Raises:
        AudioError: it cannot be used.
    """
    try:
        return read_waveform(file)
    except FileNotFoundError:  # another visitor sent the same bytes at the same time
        raise AudioError("was deleted; send it again") from None
    finally:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # its folder, which Gradio names after the content
            file.parent.rmdir()
