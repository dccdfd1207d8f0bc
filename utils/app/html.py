"""HTML and style sheet of the page in `space/`: predictions, figures and tables.

Audio, figures and tables are embedded as data URLs, because Gradio keeps the files that it serves on its
disk.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import soundfile

from utils.app.descriptions import (
    describe_calibration,
    describe_prediction,
    describe_test,
    emotion_segments,
    format_percent,
)
from utils.app.plots import plot_predictions
from utils.app.predictor import WINDOW_SECONDS
from utils.data.audio import SAMPLING_RATE
from utils.report.style import EMOTION_COLORS

WIDE, NARROW = (9.5, 6.5), (3.7, 6)
"""Sizes in inches of the figures for desktops and for telephones."""

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#intro h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
.warning { border-left: 4px solid #B34700; padding: .2rem .8rem; margin: .6rem 0; }
.prediction { font-size: 2rem; line-height: 1.2; font-weight: 600; margin: 0 0 .6rem; }
.uncertain { font-size: 1.5rem; }
.problem { border-left: 4px solid #B34700; padding: .4rem .8rem; font-size: 1.1rem; }
.note { font-size: .9rem; line-height: 1.45; margin: .4rem 0; opacity: .85; }
.bars { width: 100%; border-collapse: collapse; margin: .4rem 0; border: 0 !important; }
.bars tr, .bars th, .bars td { border: 0 !important; padding: .15rem 0 !important; }
.bars th { text-align: left; font-weight: 400 !important; width: 6.5rem; }
.bars td:last-child { text-align: right; width: 3.6rem; font-variant-numeric: tabular-nums; }
.bars div { height: 1.1rem; min-width: 1px; border: 1px solid rgba(128, 128, 128, .5); }
.player { width: 100%; margin: .4rem 0; }
.timeline img { width: 100%; height: auto; }
.scroll { overflow-x: auto; contain: inline-size; }
.scroll table { border-collapse: collapse; width: 100%; border: 0 !important; }
.scroll th, .scroll td { text-align: left; padding: .3rem .6rem !important; border: 0 !important; }
.scroll tr { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.scroll td.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll td.text { min-width: 11rem; }
a.download { display: inline-block; margin: .6rem 0; text-decoration: underline; }
"""

FileResult = tuple[str, np.ndarray | None, str]
"""File name; probabilities (num_emotions,), or None if the file cannot be used; the reason for that, or
""."""


def introduction(name: str, emotions: Sequence[str], warnings: str) -> str:
    """Return title, warnings of the card, and the emotions of the model."""
    warning = f'<div class="warning">{html.escape(warnings).replace("**", "")}</div>' if warnings else ""
    return (
        f"<h1>Speech emotion recognition</h1>{warning}"
        f"<p>The model <b>{html.escape(name)}</b> classifies speech as one of: "
        f"{html.escape(', '.join(emotions))}. Recordings and files are deleted as soon as they are "
        "classified, and nothing is stored.</p>"
    )


def about(run: dict) -> str:
    """Return the test result and the calibration of a run."""
    return note(f"{describe_test(run)} {describe_calibration(run)}")


def note(text: str) -> str:
    """Return a paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def problem(text: str) -> str:
    """Return an error message."""
    return f'<p class="problem" role="alert">{html.escape(text)}</p>'


def prediction(probabilities: np.ndarray, emotions: Sequence[str], threshold: float) -> str:
    """Return a prediction as text, and a bar per emotion, in order of decreasing probability.

    Args:
        probabilities: (num_emotions,).
        emotions: label names.
        threshold: in 0..1.
    """
    text, is_confident = describe_prediction(probabilities, emotions, threshold)
    rows = []
    for label in np.argsort(-probabilities, kind="stable"):
        share, color = probabilities[label], EMOTION_COLORS[emotions[label]]
        bar = f'<div style="width: {100 * share:.1f}%; background: {color}"></div>'
        rows.append(
            f'<tr><th scope="row">{html.escape(emotions[label])}</th><td>{bar}</td>'
            f"<td>{format_percent(share)}</td></tr>"
        )
    return (
        f'<p class="prediction{"" if is_confident else " uncertain"}" role="status">{html.escape(text)}</p>'
        f'<table class="bars" aria-label="Probability of each emotion">{"".join(rows)}</table>'
    )


def cut_note(window_seconds: int) -> str:
    """Return the note that a clip is longer than the window of the model."""
    return (
        f'<p class="note">The model takes at most {window_seconds} s: its prediction is for the first '
        f"{window_seconds} s of the clip. The predictions over time cover the whole clip.</p>"
    )


def player(waveform: np.ndarray) -> str:
    """Return an audio player for the classified waveform, embedded as WAV."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return (
        '<audio class="player" controls aria-label="The classified audio" '
        f'src="{_data_url("audio/wav", file)}"></audio>'
    )


def timeline(
    waveform: np.ndarray, window_times: np.ndarray, window_probabilities: np.ndarray, emotions: Sequence[str]
) -> str:
    """Return the figure of the predictions over time, for wide and for narrow screens, and its text version.

    Args:
        waveform: float32 (num_samples,) at 16 kHz.
        window_times, window_probabilities: as returned by `predictor.predict_over_time`.
        emotions: label names.
    """
    images = []
    for size in (WIDE, NARROW):
        file = io.BytesIO()
        figure = plot_predictions(waveform, SAMPLING_RATE, window_times, window_probabilities, emotions, size)
        figure.savefig(file, format="png", dpi=130)
        images.append(_data_url("image/png", file))
    wide, narrow = images
    seconds = len(waveform) / SAMPLING_RATE
    text = html.escape(_describe_timeline(seconds, window_times, window_probabilities, emotions))
    return (
        f'<picture class="timeline"><source media="(max-width: 640px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="Waveform, spectrogram and probabilities. {text}"></picture>'
        f'<p class="note">{text}</p>'
    )


def _describe_timeline(
    seconds: float, window_times: np.ndarray, window_probabilities: np.ndarray, emotions: Sequence[str]
) -> str:
    """Return the most probable emotion of each part of a clip, and the windows that were used."""
    if len(window_times) == 1:
        return f"The clip of {seconds:.1f} s is not longer than one window of {WINDOW_SECONDS} s."
    borders = [0, *((window_times[1:] + window_times[:-1]) / 2), seconds]
    segments = [
        f"{name} from {borders[first]:.1f} to {borders[last + 1]:.1f} s"
        for name, first, last in emotion_segments(window_probabilities, emotions)
    ]
    return (
        f"Most probable over time: {', '.join(segments)}. Classified in windows of {WINDOW_SECONDS} s, one "
        f"every {window_times[1] - window_times[0]:.2f} s. The model was trained on whole clips, so the "
        "predictions for windows are less reliable than the prediction for the clip."
    )


def file_table(results: Sequence[FileResult], emotions: Sequence[str], threshold: float) -> str:
    """Return a table of the predictions of several files, and a link to download it as CSV.

    Args:
        results: one `FileResult` per file.
        emotions: label names.
        threshold: in 0..1.
    """
    columns = ["file", "prediction", "confident", *(f"p_{emotion}" for emotion in emotions), "problem"]
    table = pd.DataFrame([_csv_row(result, emotions, threshold) for result in results], columns=columns)
    rows = []
    for row, (name, probabilities, reason) in zip(table.itertuples(index=False), results, strict=True):
        cells = [f'<td class="text">{html.escape(name)}</td>']
        if reason:
            cells.append(f'<td class="text" colspan="{1 + len(emotions)}">{html.escape(reason)}</td>')
        else:
            text = row.prediction if row.confident == "yes" else f"uncertain: {row.prediction}"
            cells.append(f"<td>{html.escape(text)}</td>")
            cells += [f'<td class="number">{format_percent(share)}</td>' for share in probabilities]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    header = "".join(
        f'<th scope="col">{html.escape(title)}</th>' for title in ("file", "prediction", *emotions)
    )
    csv = _data_url("text/csv", io.BytesIO(table.to_csv(index=False).encode()))
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<a class="download" download="emotions.csv" href="{csv}">Download as CSV</a>'
    )


def _csv_row(result: FileResult, emotions: Sequence[str], threshold: float) -> list:
    name, probabilities, reason = result
    if reason:
        return [name, "", "", *[None] * len(emotions), reason]
    confident = "yes" if describe_prediction(probabilities, emotions, threshold)[1] else "no"
    return [name, emotions[int(np.argmax(probabilities))], confident, *map(float, probabilities), ""]


def _data_url(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
