"""Speed of inference with a finished run of train_wav2vec2.py on this CPU: PyTorch, pipeline, ONNX Runtime.

    python train_wav2vec2.py --corpora ravdess --from_config base --num_train_epochs 0 --robustness=false \
        --export onnx --output_dir runs/base
    python -m benchmarks.inference runs/base

All methods classify the same test clips of the run, repeated or cropped to one length, in turns. Prints
medians and ratios.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from utils.data.audio import SAMPLING_RATE
from utils.onnx_export.session import FILES, open_session
from utils.report.run_folder import is_finished, load_reference_predictions
from utils.runtime import InputError, describe_device, run_script

SECONDS = 3.7
"""Length of the clips: about the mean of RAVDESS."""

Method = Callable[[list[np.ndarray]], list[int]]
"""Waveforms -> predicted labels."""


def inference_methods(folder: Path, batch_size: int) -> dict[str, Method]:
    """Return name -> method; all except the one with batches classify one clip at a time."""
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    classifier = pipeline("audio-classification", model=str(folder))
    label_of = model.config.label2id

    def input_values(waveform: np.ndarray) -> np.ndarray:
        return extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="np")["input_values"]

    @torch.inference_mode()
    def eager(waveforms: list[np.ndarray]) -> list[int]:
        return [int(model(torch.from_numpy(input_values(clip))).logits.argmax()) for clip in waveforms]

    def by_pipeline(waveforms: list[np.ndarray], batch_size: int) -> list[int]:
        predictions = classifier(waveforms, top_k=1, batch_size=batch_size)
        return [label_of[prediction[0]["label"]] for prediction in predictions]

    methods = {
        "PyTorch, float32": eager,
        "`pipeline`": lambda waveforms: by_pipeline(waveforms, 1),
        f"`pipeline`, `batch_size={batch_size}`": lambda waveforms: by_pipeline(waveforms, batch_size),
    }
    for kind, name in FILES.items():
        session = open_session(folder / "onnx" / name)
        methods[f"ONNX Runtime, {kind}"] = lambda waveforms, session=session: [
            int(session.run(None, {"input_values": input_values(clip)})[0].argmax()) for clip in waveforms
        ]
    return methods


def time_in_turns(methods: dict[str, Method], clips: list[np.ndarray], num_rounds: int) -> dict[str, float]:
    """Return the median duration of each method in seconds."""
    seconds = {name: [] for name in methods}
    for _ in range(num_rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            method(clips)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run with --export onnx")
    parser.add_argument("--clips", type=int, default=8, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()
    if not is_finished(args.run) or not (args.run / "onnx" / FILES["int8"]).exists():
        raise InputError(f"{args.run}: expected a finished run of train_wav2vec2.py with --export onnx")
    waveforms, _ = load_reference_predictions(args.run)
    clips = [np.resize(waveform, round(SECONDS * SAMPLING_RATE)) for waveform in waveforms[: args.clips]]
    methods = inference_methods(args.run, args.batch_size)
    predictions = {name: method(clips) for name, method in methods.items()}  # also the warm-up
    seconds = time_in_turns(methods, clips, args.rounds)

    parameters = json.loads((args.run / "metrics.json").read_text(encoding="utf-8"))["model"]["parameters"]
    print(
        f"{describe_device('cpu')}, {parameters / 1e6:.1f} M parameters, {len(clips)} clips of {SECONDS} s\n"
    )
    print("| method | ms per clip | times as fast as PyTorch | MB | same prediction |\n|---|---|---|---|---|")
    first, *_ = methods
    files = {f"ONNX Runtime, {kind}": args.run / "onnx" / name for kind, name in FILES.items()}
    for name in methods:
        milliseconds, ratio = 1000 * seconds[name] / len(clips), seconds[first] / seconds[name]
        size = files.get(name, args.run / "model.safetensors").stat().st_size / 1e6
        agreement = np.mean(np.equal(predictions[name], predictions[first]))
        print(f"| {name} | {milliseconds:.1f} | {ratio:.2f} | {size:.1f} | {agreement:.0%} |")


if __name__ == "__main__":
    run_script(main)
