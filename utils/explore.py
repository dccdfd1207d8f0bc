"""Explore corpora: write one HTML page with figures, tables and statistical tests of their clips.

    python -m utils.explore --corpora ravdess tess --data_dir DIR --output_dir runs/explore

To try it offline, with synthetic voices:

    python -m utils.explore --demo

The page needs no network and no other file. Next to it are figures/*.png, clips.csv (a row per clip with its
acoustic measures) and tests.csv (effects of the emotions on the measures).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA, REAL_CORPORA
from utils.data.demo import make_demo_corpus
from utils.data.download import find_corpora
from utils.data.labels import choose_emotions
from utils.data.splits import select_emotions
from utils.data.table import check_table, read_table
from utils.exploration.page import MeasuredCorpora, is_page, write_page
from utils.exploration.tables import describe_exclusions
from utils.features.extraction import extract_table, feature_names
from utils.features.prosody import PROSODY
from utils.runtime import PROJECT_ROOT, InputError, cache_folder, logger, refuse_arguments, run_script


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Return the parsed options; `output_dir` defaults to `runs/explore`, with --demo to `runs/demo_explore`.

    Raises:
        InputError: an option is unknown or its value is invalid.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("--corpora", nargs="+", default=["ravdess", "tess"], choices=REAL_CORPORA)
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with the clips")
    parser.add_argument("--emotions", nargs="+", help="labels; by default every emotion of any corpus")
    parser.add_argument(
        "--allow_partial", action="store_true", help="continue although clips are missing or unusable"
    )
    parser.add_argument("--cache_dir", help="folder for decoded audio and measures")
    parser.add_argument("--demo", action="store_true", help="synthetic voices, offline")
    parser.add_argument("--seed", type=int, default=42, help="random seed of the maps")
    parser.add_argument("--output_dir", help="folder for the page; an earlier page there is replaced")
    parser.add_argument(
        "--overwrite", action="store_true", help="write into a folder that contains other files"
    )
    args = parser.parse_args(argv)
    if not 0 <= args.seed < 2**32:
        raise InputError(f"--seed {args.seed}: expected a number from 0 to {2**32 - 1}")
    args.output_dir = args.output_dir or ("runs/demo_explore" if args.demo else "runs/explore")
    return args


def check_folder(folder: Path, overwrite: bool) -> None:
    """Check that the page can be written to a folder, without changing it.

    Raises:
        InputError: it is a file, or it contains other files than an earlier page and not `overwrite`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder}: is a file; name a folder")
    if folder.exists() and any(folder.iterdir()) and not (overwrite or is_page(folder)):
        raise InputError(
            f"--output_dir {folder}: is not empty and contains no page of utils.explore; name a new folder, "
            "or write into this one with --overwrite"
        )


def read_data(
    files: Mapping[str, Sequence[Path]], cache_dir: Path, emotions: Sequence[str] | None, allow_partial: bool
) -> MeasuredCorpora:
    """Read, check and measure the clips.

    Args:
        files: corpus name -> its audio files, as returned by `download.find_corpora`.
        cache_dir: folder for decoded audio and measures.
        emotions: the emotions to include; None: every emotion of any corpus.
        allow_partial: whether to continue with incomplete corpora.

    Raises:
        InputError: clips are missing and not `allow_partial`, or a corpus has none of the emotions.
    """
    everything, waveforms = read_table(files, cache_dir)
    usable, findings = check_table(everything, allow_partial)
    available = {name: CORPORA[name].emotions for name in files}
    chosen = choose_emotions(available, emotions or sorted(set().union(*available.values())))
    table = select_emotions(usable, chosen)
    for name in files:
        if not (table["corpus"] == name).any():
            raise InputError(
                f"{CORPORA[name].title}: no usable clip of {' '.join(chosen)}; leave this corpus out"
            )
    digests = everything["digest"].tolist()
    clips = measure_clips(table, extract_table(waveforms, digests, cache_dir, PROSODY))
    corpora = {name: clips[clips["corpus"] == name] for name in files}
    left_out = {
        finding["name"]: describe_exclusions(
            everything[everything["corpus"] == finding["name"]],
            finding,
            (usable["corpus"] == finding["name"]).sum() - len(corpora[finding["name"]]),
        )
        for finding in findings
    }
    mfcc = extract_table(waveforms, digests, cache_dir, "mfcc")
    return MeasuredCorpora(corpora, left_out, mfcc, waveforms)


def measure_clips(table: pd.DataFrame, prosody: np.ndarray) -> pd.DataFrame:
    """Return `table` with a column for each of `MEASURES`; NaN where a clip cannot be measured.

    Args:
        table: clips; the index points into `prosody`.
        prosody: float32 (num_rows, num_measures), in the order of `feature_names(PROSODY)`.
    """
    columns = prosody[table.index].T.astype(np.float64)
    clips = table.assign(**dict(zip(feature_names(PROSODY), columns, strict=True)))
    median = clips.groupby(["corpus", "speaker"])["pitch_hz"].transform("median")
    return clips.assign(pitch_relative_semitones=12 * np.log2(clips["pitch_hz"] / median))


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    folder = Path(args.output_dir)
    check_folder(folder, args.overwrite)
    if args.demo:
        logger.info("DEMO: synthetic voices. These are not real results.")
        files = find_corpora(["demo"], [make_demo_corpus(PROJECT_ROOT / "data" / "demo")])
    else:
        files = find_corpora(args.corpora, [Path(place) for place in args.data_dir])
    cache_dir = Path(args.cache_dir or cache_folder())
    data = read_data(files, cache_dir, args.emotions, args.allow_partial)
    page = write_page(data, folder, args.seed)
    logger.info("Wrote %s: open it in a browser", page)


if __name__ == "__main__":
    run_script(main)
