"""A page that listens: record or upload speech and see which emotion a model of this kit hears in it.

    python -m space.app runs/wav2vec2   # a run on this machine
    python -m space.app me/my-model     # a model that the kit published

As a Space on the Hub it serves the model that README.md beside it names under `models`.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import gradio as gr
import numpy as np
from huggingface_hub import metadata_load, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError


def find_model(name: str) -> Path:
    """Return the folder of a run, or of a model fetched from the Hub; else end the program in one line."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, ignore_patterns=["figures/*", "*.onnx"]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(
            f"error: {name}: no run folder, and no model that can be had from the Hub ({reason}); for a "
            "private one put an HF_TOKEN that may read it into the environment, or into the Space's secrets",
            file=sys.stderr,
        )
        sys.exit(2)


_CARD = metadata_load(Path(__file__).with_name("README.md")) or {}
SPACE_MODEL = (_CARD.get("models") or [None])[0]
"""What a Space serves; None in the kit."""

if SPACE_MODEL:  # the kit is not here, but each model brings along the code that it was made with
    sys.path.insert(0, str(find_model(SPACE_MODEL)))

from utils.app import html as listen_html  # noqa: E402
from utils.app import predictor  # noqa: E402
from utils.data.audio import MAX_FILE_BYTES, MAX_SECONDS, AudioError, read_waveform  # noqa: E402
from utils.runtime import refuse_arguments, run_script  # noqa: E402

MAX_FILES = 100
"""At once, as a table."""

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#intro h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
.warning { border-left: 4px solid #B34700; padding: .2rem .8rem; margin: .6rem 0; }
.answer { font-size: 2rem; line-height: 1.2; font-weight: 600; margin: 0 0 .6rem; }
.unsure { font-size: 1.5rem; }
.problem { border-left: 4px solid #B34700; padding: .4rem .8rem; font-size: 1.1rem; }
.note { font-size: .9rem; line-height: 1.45; margin: .4rem 0; opacity: .85; }
.bars { width: 100%; border-collapse: collapse; margin: .4rem 0; border: 0 !important; }
.bars tr, .bars th, .bars td { border: 0 !important; padding: .15rem 0 !important; }
.bars th { text-align: left; font-weight: 400 !important; width: 6.5rem; }
.bars td:last-child { text-align: right; width: 3.6rem; font-variant-numeric: tabular-nums; }
.bars div { height: 1.1rem; min-width: 1px; border: 1px solid rgba(128, 128, 128, .5); }
.player { width: 100%; margin: .4rem 0; }
.along img { width: 100%; height: auto; }
.scroll { overflow-x: auto; contain: inline-size; }
.scroll table { border-collapse: collapse; width: 100%; border: 0 !important; }
.scroll th, .scroll td { text-align: left; padding: .3rem .6rem !important; border: 0 !important; }
.scroll tr { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.scroll td.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll td.words { min-width: 11rem; }
a.download { display: inline-block; margin: .6rem 0; text-decoration: underline; }
"""


LOOKS = {
    # Fonts that the visitor has: none is fetched from elsewhere.
    "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    "css": CSS,
}
LAUNCH = {"enable_monitoring": False, "ssr_mode": False, "max_file_size": MAX_FILE_BYTES}

# Gradio 6 takes at the launch what Gradio 5, which Kaggle has, takes with the page.
IS_GRADIO_5 = gr.__version__.startswith("5.")
if IS_GRADIO_5:
    AT_CONSTRUCTION, AT_LAUNCH = LOOKS, LAUNCH | {"show_api": False}
    NO_API, NO_BUTTONS = {"api_name": False}, {"show_download_button": False, "show_share_button": False}
else:
    # Without a history: each answer would be kept in the visitor's browser.
    AT_CONSTRUCTION, AT_LAUNCH = {}, LOOKS | LAUNCH | {"run_history": False, "footer_links": []}
    NO_API, NO_BUTTONS = {"api_visibility": "private"}, {"buttons": []}


class Page(gr.Blocks):
    """Blocks with looks and privacy of their own, whoever launches them."""

    def __init__(self, **options):
        super().__init__(**(AT_CONSTRUCTION | options))

    def launch(self, **options):
        return super().launch(**(AT_LAUNCH | options))


def build_page(folder: Path, name: str | None = None) -> Page:
    """Return the page of a run's model, to be launched.

    Args:
        folder: of a finished run, or of a published model.
        name: of the model, as it is shown; by default the folder's.

    Raises:
        InputError: it is no finished run, or its model cannot hear one clip alone.
    """
    folder = Path(folder)
    run = predictor.read_run(folder)
    predict, test = predictor.load_predictor(folder, run), predictor.read_test_confidences(folder, run)
    emotions = run["emotions"]
    warnings, limits = predictor.read_card(folder)

    def listen_to_clip(path: str | None, threshold: float):
        """Return nothing for both inputs, what is remembered, the answer and the figure."""
        if path is None:
            return None, None, None, "", ""
        file = Path(path)
        try:
            waveform = read_and_delete(file)
        except AudioError as error:
            return None, None, None, listen_html.problem(f"{file.name}: {error}"), ""
        whole, middles, along = predictor.predict_along_time(predict, waveform)
        return (
            None,
            None,
            whole,
            listen_html.answer(whole, emotions, threshold / 100),
            listen_html.player(waveform) + listen_html.along_time(waveform, middles, along, emotions),
        )

    def listen_to_files(paths: list[str] | None, threshold: float):
        """Return no files for the input, what is remembered of each, and the table."""
        rows = []
        for number, path in enumerate(paths or []):
            file = Path(path)
            try:
                waveform = read_and_delete(file)
                if number >= MAX_FILES:
                    raise AudioError(f"not heard: at most {MAX_FILES} files at once")
                rows.append((file.name, predict([waveform])[0], ""))
            except AudioError as error:
                rows.append((file.name, None, str(error)))
        return None, rows, listen_html.file_table(rows, emotions, threshold / 100)

    # What somebody sent who left before it was heard is deleted after five minutes (a look each minute)
    with Page(title="Emotion in a voice", analytics_enabled=False, delete_cache=(60, 300)) as page:
        gr.HTML(listen_html.introduction(name or folder.resolve().name, emotions, warnings), elem_id="intro")
        with gr.Tab("One clip"):
            with gr.Row():
                with gr.Column():
                    recording = gr.Audio(
                        sources=["microphone"],
                        type="filepath",
                        editable=False,
                        **NO_BUTTONS,
                        label=f"Record one voice, up to {MAX_SECONDS} s",
                        elem_id="recording",
                    )
                    file = file_input(label="or send a file", height=140, elem_id="file")
                    clip_threshold = threshold_slider(run, test)
                with gr.Column():
                    clip_answer = gr.HTML(elem_id="answer")
                    gr.HTML(listen_html.about(run))
            clip_along = gr.HTML(elem_id="along")
            heard = gr.State()
        with gr.Tab("Several files"):
            files = file_input(
                file_count="multiple", label=f"Up to {MAX_FILES} clips", height=160, elem_id="files"
            )
            files_threshold = threshold_slider(run, test)
            table = gr.HTML(elem_id="table")
            rows = gr.State()
        with gr.Tab("Limits"):
            gr.Markdown(f"{predictor.describe_test(run)}\n\n{limits}", elem_id="limits")

        # One clip at a time, so that visitors do not slow each other down; no event is offered as an API.
        model = {"concurrency_id": "model", "concurrency_limit": 1} | NO_API
        words = {"show_progress": "hidden", "trigger_mode": "always_last"} | NO_API
        for event, sent in ((recording.stop_recording, recording), (file.upload, file)):
            event(
                listen_to_clip,
                [sent, clip_threshold],
                [recording, file, heard, clip_answer, clip_along],
                **model,
            )
        files.upload(listen_to_files, [files, files_threshold], [files, rows, table], **model)
        clip_threshold.change(
            lambda heard, percents: (
                gr.skip() if heard is None else listen_html.answer(heard, emotions, percents / 100)
            ),
            [heard, clip_threshold],
            clip_answer,
            **words,
        )
        files_threshold.change(
            lambda rows, percents: (
                gr.skip() if rows is None else listen_html.file_table(rows, emotions, percents / 100)
            ),
            [rows, files_threshold],
            table,
            **words,
        )
    return page


def read_and_delete(file: Path) -> np.ndarray:
    """Return the waveform of what a visitor sent, of which nothing is left then.

    Raises:
        AudioError: it cannot be used.
    """
    try:
        return read_waveform(file)
    except FileNotFoundError:  # another visitor sent the same bytes at the same time
        raise AudioError("is gone; send it again") from None
    finally:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # its folder, which Gradio names after the content
            file.parent.rmdir()


def file_input(**options) -> gr.File:
    """Return an input for files that gives their paths.

    Gradio's own way to them leaves an empty file on the disk for each.
    """
    component = gr.File(**options)
    component.preprocess = lambda sent: (
        [file.path for file in sent.root]
        if component.file_count == "multiple" and sent
        else sent and sent.path
    )
    return component


def threshold_slider(run: dict, test) -> gr.Slider:
    """Return a slider of the least probability, in %, with which an emotion is named, and what it costs.

    Args:
        run: its metrics.json.
        test: of `predictor.read_test_confidences`.
    """
    start = round(100 * predictor.default_threshold(run))
    slider = gr.Slider(
        0, 100, start, step=1, label="Not sure below a probability of (%)", elem_classes="threshold"
    )
    note = gr.HTML(listen_html.note(predictor.describe_threshold(test, start / 100)), elem_classes="cost")
    slider.change(
        lambda percents: listen_html.note(predictor.describe_threshold(test, percents / 100)),
        slider,
        note,
        show_progress="hidden",
        trigger_mode="always_last",
        **NO_API,
    )
    return slider


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Serve a page that listens.", prog="python -m space.app", allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument(
        "model",
        nargs="?" if SPACE_MODEL else None,
        default=SPACE_MODEL,
        help="a run folder, or user/name of a model on the Hub",
    )
    args = parser.parse_args()
    build_page(find_model(args.model), Path(args.model).name).launch()


if __name__ == "__main__":
    run_script(main)
