"""How much a probe saves: one pass and all 24 folds of LOSO against fine-tuning one fold, in one run.

    python -m benchmarks.probe --data_dir ~/ravdess
    python -m benchmarks.probe --data_dir ~/ravdess --from_config tiny  # a quick look

Prints seconds and ratios. The weights are random: they take as long as real ones, and their accuracy would
say nothing. Of the fine-tuning some steps are timed, and all steps of 3 epochs take as long as those.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch

from train_wav2vec2 import SIZES, DataArguments, ModelArguments, RunArguments, build_model, build_trainer
from utils.data.corpora import CORPORA
from utils.data.dataset import build_dataset
from utils.data.download import find_corpora
from utils.data.labels import choose_emotions
from utils.data.splits import select_emotions, split_models, training_parts
from utils.data.table import check_table, read_table
from utils.encoders.batches import Clips
from utils.encoders.embeddings import embed
from utils.encoders.freezing import num_used_layers
from utils.encoders.probe import fit_probes
from utils.runtime import cache_folder, describe_device, logger, run_script

NUM_EPOCHS = 3
WARM_UP, TIMED = 5, 20
"""Steps of the fine-tuning."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS speech")
    parser.add_argument("--from_config", default="base", choices=list(SIZES))
    parser.add_argument("--no_fine_tuning", action="store_true", help="leave out the fine-tuning")
    args = parser.parse_args()

    files = find_corpora(["ravdess"], [Path(folder) for folder in args.data_dir])
    table, waveforms = read_table(files, cache_folder())
    table, _ = check_table(table, allow_partial=False)
    emotions = choose_emotions({"ravdess": CORPORA["ravdess"].emotions}, None)
    table = select_emotions(table, emotions)
    folds, _, _ = split_models(table, "loso", emotions)
    model, extractor = build_model(ModelArguments(from_config=args.from_config), emotions)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{describe_device(device)}, {args.from_config}, {len(table)} clips, {len(folds)} folds")

    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        means = embed(
            model.to(device),
            extractor,
            waveforms.select(table.index),
            table["num_samples"].tolist(),
            table["digest"].tolist(),
            Path(cache),
        )
        encoding = time.perf_counter() - start
    print(f"one pass of the encoder      {encoding:8.0f} s, {len(table) / encoding:.1f} clips per second")

    labels = table["emotion"].map(emotions.index).to_numpy()
    parts = training_parts(folds.values(), "loso")
    start = time.perf_counter()
    fit_probes(means, labels, parts, len(emotions))
    probing = time.perf_counter() - start
    print(f"nested LOSO of the probe     {probing:8.0f} s, {probing / encoding:.2f} of the pass")
    if args.no_fine_tuning:
        return

    logger.setLevel(logging.WARNING)
    dataset = build_dataset(next(iter(folds.values())), waveforms, emotions)
    for num_layers in sorted({ModelArguments.unfreeze_layers, num_used_layers(model.config)}):
        model_args = ModelArguments(from_config=args.from_config, unfreeze_layers=num_layers)
        tuning = time_fine_tuning(model_args, dataset, emotions)
        print(
            f"{NUM_EPOCHS} epochs, {num_layers:2d} layers tuned    {tuning:8.0f} s, "
            f"{tuning / (encoding + probing):.1f} times the pass and LOSO together"
        )


def time_fine_tuning(arguments: ModelArguments, dataset, emotions: tuple[str, ...]) -> float:
    """Return the seconds that the steps of `NUM_EPOCHS` epochs take."""
    model, extractor = build_model(arguments, emotions)
    train = Clips(dataset["train"], extractor, augmented=True)
    validation = Clips(dataset["validation"].select(range(8)), extractor)
    with tempfile.TemporaryDirectory() as folder:
        run = RunArguments(
            output_dir=folder,
            max_steps=WARM_UP + TIMED,
            logging_strategy="steps",
            logging_steps=WARM_UP,
            eval_strategy="steps",
            eval_steps=WARM_UP + TIMED,
            save_strategy="no",
            load_best_model_at_end=False,
            lr_scheduler_type="linear",
        )
        trainer, _ = build_trainer(model, train, validation, DataArguments(), arguments, run)
        trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry and entry["step"] > WARM_UP]
    clips_per_second = TIMED * run.train_batch_size / sum(entry["seconds"] for entry in steps)
    return NUM_EPOCHS * len(train) / clips_per_second


if __name__ == "__main__":
    run_script(main)
