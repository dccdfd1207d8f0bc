"""Waveforms to functionals: one row of numbers per clip, for scikit-learn (NumPy, librosa).

In: float32 waveforms at 16 kHz. Out: float32 (num_clips, num_features) and the features' names.
"""
