"""How much a probe saves: one pass and all 24 folds of LOSO against fine-tuning one fold, in one run.

    python -m benchmarks.probe --data_dir ~/ravdess
    python -m benchmarks.probe --data_dir ~/ravdess --from_config tiny  # a quick look

Prints seconds and ratios. The weights are random: they take as long as real ones, and their accuracy would
say nothing.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from train_wav2vec2 import SIZES, ModelArguments, build_model
from utils.corpora import CORPORA
from utils.download import find_corpora
from utils.embed import embed
from utils.labels import choose_emotions
from utils.probe import fit_probes
from utils.runtime import PROJECT_ROOT, cache_folder, describe_device, run_script
from utils.splits import select_emotions, split_models, training_parts
from utils.table import check_table, read_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS speech")
    parser.add_argument("--from_config", default="base", choices=list(SIZES))
    parser.add_argument("--no_fine_tuning", action="store_true", help="leave out the long part")
    args = parser.parse_args()

    files = find_corpora(["ravdess"], [Path(folder) for folder in args.data_dir])
    table, waveforms = read_table(files, cache_folder())
    table, _ = check_table(table, allow_partial=False)
    emotions = choose_emotions({"ravdess": CORPORA["ravdess"].emotions}, None)
    table = select_emotions(table, emotions)
    folds, _, _ = split_models(table, "loso", emotions)
    model, extractor = build_model(ModelArguments(from_config=args.from_config), emotions)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        means = embed(
            model.to(device), extractor, waveforms.select(table.index), table["digest"].tolist(), Path(cache)
        )
        seconds_pass = time.perf_counter() - start

    labels = table["emotion"].map(emotions.index).to_numpy()
    parts = training_parts(folds.values(), "loso")
    start = time.perf_counter()
    fit_probes(means, labels, parts, len(emotions))
    seconds_loso = time.perf_counter() - start

    print(f"{describe_device(device)}, {args.from_config}, {len(table)} clips, {len(folds)} folds")
    print(
        f"one pass of the encoder    {seconds_pass:8.0f} s, {len(table) / seconds_pass:.1f} clips per second"
    )
    print(f"nested LOSO of the probe   {seconds_loso:8.0f} s, {seconds_loso / seconds_pass:.2f} of the pass")
    if args.no_fine_tuning:
        return

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train_wav2vec2.py", "--corpora", "ravdess", "--protocol", "holdout"]
        command += ["--from_config", args.from_config, "--no_probe", "--augment", "--num_train_epochs", "3"]
        if args.data_dir:
            command += ["--data_dir", *args.data_dir]
        start = time.perf_counter()
        subprocess.run([*command, "--output_dir", f"{folder}/run"], cwd=PROJECT_ROOT, check=True)
        seconds_tuning = time.perf_counter() - start
    print(
        f"3 epochs of one fold       {seconds_tuning:8.0f} s, "
        f"{seconds_tuning / (seconds_pass + seconds_loso):.1f} times the pass and LOSO together"
    )


if __name__ == "__main__":
    run_script(main)
