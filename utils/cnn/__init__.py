"""Training of Keras networks on waveforms: batches, callbacks, files and Grad-CAM (TensorFlow)."""

from utils.cnn.augmentation import SpectrogramAugmentation
from utils.cnn.batches import TrainingSegments, WholeClips, build_segments
from utils.cnn.description import describe_layers, select_device, to_history
from utils.cnn.grad_cam import grad_cam
from utils.cnn.saving import oldest_reader, save_classifier
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
    "oldest_reader",
    "save_classifier",
    "select_device",
    "to_history",
]
