"""Truth, probabilities and clips to scores, intervals, calibration, results by subgroup, robustness, explanations.

No module here knows a framework: a model is a function of waveforms that returns probabilities.
"""
