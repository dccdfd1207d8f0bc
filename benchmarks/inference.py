"""How fast a finished run of train_wav2vec2.py answers on this CPU: its classifier, pipeline, and ONNX files.

    python train_wav2vec2.py --corpora ravdess --from_config base --num_train_epochs 0 --no_stress_test \
        --export onnx --output_dir runs/base
    python -m benchmarks.inference runs/base

All ways hear the same test clips of the run, brought to one length, in turn; prints medians and ratios.
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
"""Length of the clips, about the mean of RAVDESS."""


def ways_to_answer(folder: Path, batch_size: int) -> dict[str, Callable[[list[np.ndarray]], list[int]]]:
    """Return words -> what maps waveforms to labels. All but the batches hear one clip at a time."""
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    classifier = pipeline("audio-classification", model=str(folder))
    label_of = model.config.label2id

    def values(waveform: np.ndarray) -> np.ndarray:
        return extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="np")["input_values"]

    @torch.inference_mode()
    def eager(waveforms: list[np.ndarray]) -> list[int]:
        return [int(model(torch.from_numpy(values(clip))).logits.argmax()) for clip in waveforms]

    def by_pipeline(waveforms: list[np.ndarray], batch_size: int) -> list[int]:
        answers = classifier(waveforms, top_k=1, batch_size=batch_size)
        return [label_of[answer[0]["label"]] for answer in answers]

    ways = {
        "PyTorch, float32": eager,
        "`pipeline`": lambda waveforms: by_pipeline(waveforms, 1),
        f"`pipeline`, `batch_size={batch_size}`": lambda waveforms: by_pipeline(waveforms, batch_size),
    }
    for kind, name in FILES.items():
        session = open_session(folder / "onnx" / name)
        ways[f"ONNX Runtime, {kind}"] = lambda waveforms, session=session: [
            int(session.run(None, {"input_values": values(clip)})[0].argmax()) for clip in waveforms
        ]
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run with --export onnx")
    parser.add_argument("--clips", type=int, default=8, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()
    if not is_finished(args.run) or not (args.run / "onnx" / FILES["int8"]).exists():
        raise InputError(f"{args.run}: expected a finished run of train_wav2vec2.py with --export onnx")
    heard, _ = load_reference_predictions(args.run)
    clips = [np.resize(clip, round(SECONDS * SAMPLING_RATE)) for clip in heard[: args.clips]]
    ways = ways_to_answer(args.run, args.batch_size)
    answers = {words: way(clips) for words, way in ways.items()}  # the first call of each allocates
    seconds = {words: [] for words in ways}
    for _ in range(args.rounds):
        for words, way in ways.items():
            begun = time.perf_counter()
            way(clips)
            seconds[words].append(time.perf_counter() - begun)

    parameters = json.loads((args.run / "metrics.json").read_text(encoding="utf-8"))["model"]["parameters"]
    print(
        f"{describe_device('cpu')}, {parameters / 1e6:.1f} M parameters, {len(clips)} clips of {SECONDS} s\n"
    )
    print("| way | ms per clip | times as fast as PyTorch | MB | same answer |\n|---|---|---|---|---|")
    first, *_ = ways
    files = {f"ONNX Runtime, {kind}": args.run / "onnx" / name for kind, name in FILES.items()}
    for words in ways:
        middle, eager = (statistics.median(seconds[each]) / len(clips) for each in (words, first))
        size = files.get(words, args.run / "model.safetensors").stat().st_size / 1e6
        same = np.mean(np.equal(answers[words], answers[first]))
        print(f"| {words} | {1000 * middle:.1f} | {eager / middle:.2f} | {size:.1f} | {same:.0%} |")


if __name__ == "__main__":
    run_script(main)
