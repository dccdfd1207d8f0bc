"""Acoustic functionals: one feature vector per clip, for scikit-learn (NumPy, librosa).

Takes float32 waveforms at 16 kHz; returns float32 (num_clips, num_features) and the feature names. Pitch and
formants: `acoustics`; values per frame: `contours`; statistics over time: `functionals`; other feature sets:
`other_sets`, `prosody`; whole corpora with a cache: `extraction`.
"""

from utils.features.extraction import (
    extract,
    extract_all,
    extract_table,
    feature_groups,
    normalize_speakers,
)

__all__ = ["extract", "extract_all", "extract_table", "feature_groups", "normalize_speakers"]
