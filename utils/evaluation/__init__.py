"""Evaluation of a classifier: scores, intervals, calibration, subgroups, robustness, explanations.

No module here knows a framework: a model is a function of waveforms that returns probabilities.
"""

from utils.evaluation.calibration import calibrate, fit_temperature
from utils.evaluation.explanations import occlude, permutation_importance
from utils.evaluation.metrics import mean_uar
from utils.evaluation.robustness import predict_perturbed

__all__ = [
    "calibrate",
    "fit_temperature",
    "mean_uar",
    "occlude",
    "permutation_importance",
    "predict_perturbed",
]
