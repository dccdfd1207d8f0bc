"""Predictions of a finished run, for the commands and for the page in `space/`."""

from utils.app.loading import load_model, save_skops

__all__ = [
    "load_model",
    "save_skops",
]
