"""What a run measured to its folder: metrics.json, predictions.csv, figures and the model card."""

from utils.report.finish import TrainedModel, wants_robustness

__all__ = [
    "TrainedModel",
    "wants_robustness",
]
