"""Score the model of a finished run on your own labelled recordings; the result goes into its card.

python -m utils.score runs/wav2vec2 --evaluate_on ~/my_clips
"""

import argparse
from pathlib import Path

from utils.app.recordings import score_recordings
from utils.report.run_folder import is_finished
from utils.runtime import InputError, cache_folder, refuse_arguments, run_script


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument(
        "--evaluate_on", type=Path, nargs="+", required=True, help="folders of labelled recordings"
    )
    parser.add_argument("--allow_partial", action="store_true", help="leave unusable clips out")
    parser.add_argument("--cache_dir", type=Path, help="folder for decoded audio")
    args = parser.parse_args()
    if not is_finished(args.run):
        raise InputError(f"{args.run}: expected the folder of a finished run, with its README.md")
    score_recordings(args.run, args.evaluate_on, args.cache_dir or cache_folder(), args.allow_partial)


if __name__ == "__main__":
    run_script(main)
