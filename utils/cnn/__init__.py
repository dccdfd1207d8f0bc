"""Training of Keras networks on waveforms: batches, callbacks and Grad-CAM (TensorFlow)."""

from utils.cnn.augmentation import SpectrogramAugmentation
from utils.cnn.batches import TrainingSegments, WholeClips, build_segments
from utils.cnn.description import describe_layers, select_device, to_history
from utils.cnn.grad_cam import grad_cam
from utils.cnn.training import ResumableTraining, RunCallback, WeightAverage, build_callbacks

__all__ = [
    "ResumableTraining",
    "RunCallback",
    "SpectrogramAugmentation",
    "TrainingSegments",
    "WeightAverage",
    "WholeClips",
    "build_callbacks",
    "build_segments",
    "describe_layers",
    "grad_cam",
    "select_device",
    "to_history",
]
