"""What a model says of clips comes in, pieces of the page in `space/` go out, as HTML.

Sound, figures and tables are inside it, as data URLs: what Gradio serves as a file it would keep on its disk.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import soundfile

from utils.app import plots as listen_plots
from utils.app import predictor
from utils.data.audio import SAMPLING_RATE

WIDE, NARROW = (9.5, 6.5), (3.7, 6)
"""Inches; the figure for a desktop and that for a telephone."""


def introduction(name: str, emotions: Sequence[str], warnings: str) -> str:
    warned = f'<div class="warning">{html.escape(warnings).replace("**", "")}</div>' if warnings else ""
    return (
        f"<h1>Which emotion does this voice sound like?</h1>{warned}"
        f"<p>The model <b>{html.escape(name)}</b> knows {html.escape(', '.join(emotions))}, and nothing "
        "else. What you record or send is deleted as soon as it was heard, and stored nowhere.</p>"
    )


def about(run: dict) -> str:
    return note(f"{predictor.describe_test(run)} {predictor.describe_calibration(run)}")


def note(words: str) -> str:
    return f'<p class="note">{html.escape(words)}</p>'


def problem(words: str) -> str:
    return f'<p class="problem" role="alert">{html.escape(words)}</p>'


def answer(probabilities: np.ndarray, emotions: Sequence[str], threshold: float) -> str:
    """Return the answer in words and a bar per emotion, the likeliest first; the threshold in 0..1."""
    words, sure = predictor.answer(probabilities, emotions, threshold)
    colors, lines = listen_plots.emotion_colors(len(emotions)), []
    for label in np.argsort(-probabilities, kind="stable"):
        share = probabilities[label]
        bar = f'<div style="width: {100 * share:.1f}%; background: {colors[label]}"></div>'
        lines.append(
            f'<tr><th scope="row">{html.escape(emotions[label])}</th><td>{bar}</td>'
            f"<td>{predictor.percent(share)}</td></tr>"
        )
    return (
        f'<p class="answer{"" if sure else " unsure"}" role="status">{html.escape(words)}</p>'
        f'<table class="bars" aria-label="Probability of each emotion">{"".join(lines)}</table>'
    )


def player(waveform: np.ndarray) -> str:
    """Return a player of what was heard; the sound is part of the page, and on no disk."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    sound = _data_url("audio/wav", file)
    return f'<audio class="player" controls aria-label="What was heard" src="{sound}"></audio>'


def along_time(waveform: np.ndarray, middles: np.ndarray, along: np.ndarray, emotions: Sequence[str]) -> str:
    """Return the figure along time, one for wide and one for narrow screens, and the same in words."""
    images = []
    for size in (WIDE, NARROW):
        file = io.BytesIO()
        figure = listen_plots.plot_along_time(waveform, SAMPLING_RATE, middles, along, emotions, size)
        figure.savefig(file, format="png", dpi=130)
        images.append(_data_url("image/png", file))
    wide, narrow = images
    words = html.escape(_along_in_words(len(waveform) / SAMPLING_RATE, middles, along, emotions))
    return (
        f'<picture class="along"><source media="(max-width: 640px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="Waveform, spectrogram and probabilities. {words}"></picture>'
        f'<p class="note">{words}</p>'
    )


def _along_in_words(seconds: float, middles: np.ndarray, along: np.ndarray, emotions: Sequence[str]) -> str:
    """Say which emotion is first from when to when, and how that was heard."""
    if len(middles) == 1:
        return f"The clip of {seconds:.1f} s is no longer than one window of {predictor.WINDOW_SECONDS} s."
    borders = [0, *((middles[1:] + middles[:-1]) / 2), seconds]
    parts = [
        f"{name} from {borders[first]:.1f} to {borders[last + 1]:.1f} s"
        for name, first, last in predictor.spans(along, emotions)
    ]
    return (
        f"Likeliest along time: {', '.join(parts)}. Heard in windows of {predictor.WINDOW_SECONDS} s, one "
        f"every {middles[1] - middles[0]:.2f} s. The model learnt from whole clips: trust this less than the "
        "answer."
    )


def file_table(rows: list, emotions: Sequence[str], threshold: float) -> str:
    """Return a table of what was heard in files, and a link that holds the same as CSV.

    Args:
        rows: (file name, probabilities (num_emotions,) or None, what is wrong with it or "").
        emotions: label names.
        threshold: in 0..1.
    """
    heads = ["file", "answer", "sure", *(f"p_{emotion}" for emotion in emotions), "problem"]
    table = pd.DataFrame([_row(row, emotions, threshold) for row in rows], columns=heads)
    lines = []
    for row, (name, probabilities, reason) in zip(table.itertuples(index=False), rows, strict=True):
        cells = [f'<td class="words">{html.escape(name)}</td>']
        if reason:
            cells.append(f'<td class="words" colspan="{1 + len(emotions)}">{html.escape(reason)}</td>')
        else:
            words = row.answer if row.sure == "yes" else f"not sure: {row.answer}"
            cells.append(f"<td>{html.escape(words)}</td>")
            cells += [f'<td class="number">{predictor.percent(share)}</td>' for share in probabilities]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    titles = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in ("file", "answer", *emotions))
    csv = _data_url("text/csv", io.BytesIO(table.to_csv(index=False).encode()))
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f'<a class="download" download="emotions.csv" href="{csv}">Download as CSV</a>'
    )


def _row(row: tuple, emotions: Sequence[str], threshold: float) -> list:
    name, probabilities, reason = row
    if reason:
        return [name, "", "", *[None] * len(emotions), reason]
    sure = "yes" if predictor.answer(probabilities, emotions, threshold)[1] else "no"
    return [name, emotions[int(np.argmax(probabilities))], sure, *map(float, probabilities), ""]


def _data_url(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
