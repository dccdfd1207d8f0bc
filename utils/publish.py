"""Publish a finished run on the Hub.

python -m utils.publish runs/wav2vec2 --hub_model_id me/my-model
python -m utils.publish runs/wav2vec2 --hub_model_id me/my-model --space me/demo
"""

import argparse
from pathlib import Path

from utils.hub.publication import publish
from utils.hub.repository import Repository
from utils.report.run_folder import is_finished
from utils.runtime import InputError, refuse_arguments, run_script


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Publish a finished run on the Hub.", prog="python -m utils.publish", allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument(
        "--hub_model_id", help="user/name; by default the name of the folder, under your name"
    )
    parser.add_argument("--hub_private_repo", action="store_true", help="make the repository private")
    parser.add_argument(
        "--space", help="user/name; also publish a page there on which anybody can try the model (see space/)"
    )
    args = parser.parse_args()
    if not is_finished(args.run):
        raise InputError(f"{args.run}: expected the folder of a finished run, with its README.md")
    if args.space:
        # Imported only here: publication of a model does not need them.
        from utils.app.predictor import read_run
        from utils.hub.space import publish_space

        read_run(args.run)  # refuses a model that the page cannot serve, before anything is published
    repository = Repository(args.hub_model_id or args.run.resolve().name, args.hub_private_repo)
    space = Repository(args.space, args.hub_private_repo, "space") if args.space else None
    publish(repository, args.run)
    if space:
        publish_space(space, args.run, repository)


if __name__ == "__main__":
    run_script(main)
