"""A page to try the model of a run: record or upload speech and see the predicted emotion.

    python -m space.app runs/wav2vec2   # a run on this machine
    python -m space.app me/my-model     # a model that was published with this kit

As a Space on the Hub, the page serves the model that the README.md next to it names under `models`.
"""

import argparse
import sys
from pathlib import Path

import gradio as gr
from huggingface_hub import metadata_load, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError


def find_model(name: str) -> Path:
    """Return the folder of a run, or of a model downloaded from the Hub; exit if there is none."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, ignore_patterns=["figures/*", "*.onnx"]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(
            f"error: {name}: no run folder, and no model on the Hub that can be downloaded ({reason}); for a "
            "private model set the environment variable or Space secret HF_TOKEN to a token that may read it",
            file=sys.stderr,
        )
        sys.exit(2)


_CARD = metadata_load(Path(__file__).with_name("README.md")) or {}
SPACE_MODEL = (_CARD.get("models") or [None])[0]
"""The model of a Space; None in the kit."""

if SPACE_MODEL:  # a Space does not contain the kit: each published model includes the code that made it
    sys.path.insert(0, str(find_model(SPACE_MODEL)))

from utils.app import descriptions, html  # noqa: E402
from utils.app.handlers import MAX_FILES, PageModel  # noqa: E402
from utils.data.audio import MAX_FILE_BYTES, MAX_SECONDS  # noqa: E402
from utils.runtime import refuse_arguments, run_script  # noqa: E402

LOOKS = {
    # System fonts, so that the browser requests none from other servers.
    "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    "css": html.CSS,
}
LAUNCH = {"enable_monitoring": False, "ssr_mode": False, "max_file_size": MAX_FILE_BYTES}

# Gradio 6 takes these arguments in `launch`; Gradio 5, which Kaggle has, takes some of them in the
# constructor.
IS_GRADIO_5 = gr.__version__.startswith("5.")
if IS_GRADIO_5:
    AT_CONSTRUCTION, AT_LAUNCH = LOOKS, LAUNCH | {"show_api": False}
    NO_API, NO_BUTTONS = {"api_name": False}, {"show_download_button": False, "show_share_button": False}
else:
    # Without a history, which would store each prediction in the visitor's browser.
    AT_CONSTRUCTION, AT_LAUNCH = {}, LOOKS | LAUNCH | {"run_history": False, "footer_links": []}
    NO_API, NO_BUTTONS = {"api_visibility": "private"}, {"buttons": []}

MODEL_EVENT = {"concurrency_id": "model", "concurrency_limit": 1} | NO_API
"""Options of events that run the model: one at a time, so that visitors do not slow each other down."""

TEXT_EVENT = {"show_progress": "hidden", "trigger_mode": "always_last"} | NO_API
"""Options of events that change texts only."""


class Page(gr.Blocks):
    """Blocks that apply the looks and privacy settings above, whoever launches them."""

    def __init__(self, **options):
        super().__init__(**(AT_CONSTRUCTION | options))

    def launch(self, **options):
        return super().launch(**(AT_LAUNCH | options))


def build_page(folder: Path, name: str | None = None) -> Page:
    """Build the page for the model of a run.

    Args:
        folder: folder of a finished run, or of a published model.
        name: name of the model on the page; by default that of the folder.

    Returns:
        the page, to be launched.

    Raises:
        InputError: the folder is no finished run, or its model cannot classify single clips.
    """
    folder = Path(folder)
    model = PageModel(folder)
    warnings, limitations = descriptions.read_card(folder)
    # Uploads that were not classified because the visitor left are deleted after 300 s, checked every 60 s.
    with Page(title="Speech emotion recognition", analytics_enabled=False, delete_cache=(60, 300)) as page:
        gr.HTML(html.introduction(name or folder.resolve().name, model.emotions, warnings), elem_id="intro")
        with gr.Tab("One clip"):
            add_clip_tab(model)
        with gr.Tab("Several files"):
            add_files_tab(model)
        with gr.Tab("Limits"):
            gr.Markdown(f"{descriptions.describe_test(model.run)}\n\n{limitations}", elem_id="limitations")
    return page


def add_clip_tab(model: PageModel) -> None:
    """Add inputs, prediction and timeline of a single clip to the open tab."""
    with gr.Row():
        with gr.Column():
            recording = gr.Audio(
                sources=["microphone"],
                type="filepath",
                editable=False,
                **NO_BUTTONS,
                label=f"Record one speaker, up to {MAX_SECONDS} s",
                elem_id="recording",
            )
            file = file_input(label="or upload a file", height=140, elem_id="file")
            threshold = threshold_slider(model)
        with gr.Column():
            prediction = gr.HTML(elem_id="prediction")
            gr.HTML(html.about(model.run))
    timeline = gr.HTML(elem_id="timeline")
    probabilities = gr.State()
    outputs = [recording, file, probabilities, prediction, timeline]
    for event, source in ((recording.stop_recording, recording), (file.upload, file)):
        event(model.predict_clip, [source, threshold], outputs, **MODEL_EVENT)
    threshold.change(
        lambda state, percent: gr.skip() if state is None else model.prediction(state, percent),
        [probabilities, threshold],
        prediction,
        **TEXT_EVENT,
    )


def add_files_tab(model: PageModel) -> None:
    """Add the input and the table of several files to the open tab."""
    files = file_input(file_count="multiple", label=f"Up to {MAX_FILES} clips", height=160, elem_id="files")
    threshold = threshold_slider(model)
    table = gr.HTML(elem_id="table")
    results = gr.State()
    files.upload(model.predict_files, [files, threshold], [files, results, table], **MODEL_EVENT)
    threshold.change(
        lambda state, percent: gr.skip() if state is None else model.table(state, percent),
        [results, threshold],
        table,
        **TEXT_EVENT,
    )


def threshold_slider(model: PageModel) -> gr.Slider:
    """Add a slider of the confidence threshold in percent and a note on its effect; return the slider."""

    def describe(percent: float) -> str:
        return html.note(descriptions.describe_threshold(model.test, percent / 100))

    start = round(100 * descriptions.default_threshold(model.run))
    slider = gr.Slider(
        0, 100, start, step=1, label="Uncertain below a probability of (%)", elem_classes="threshold"
    )
    note = gr.HTML(describe(start), elem_classes="coverage")
    slider.change(describe, slider, note, **TEXT_EVENT)
    return slider


def file_input(**options) -> gr.File:
    """Return a file input whose value is the path, or the list of paths.

    The preprocessing of Gradio would leave an empty file on the disk for each.
    """
    component = gr.File(**options)
    component.preprocess = lambda sent: (
        [file.path for file in sent.root]
        if component.file_count == "multiple" and sent
        else sent and sent.path
    )
    return component


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Serve a page to try a model.", prog="python -m space.app", allow_abbrev=False
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
