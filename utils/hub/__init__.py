"""A run folder to a repository or a Space on the Hub, and checkpoints to and from a branch of it."""

from utils.hub.training_run import TrainingRun

__all__ = [
    "TrainingRun",
]
