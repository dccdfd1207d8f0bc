"""Pretrained speech encoders: embeddings, linear probe, fine-tuning (PyTorch, transformers).

Takes a pretrained encoder and a dataset of clips; returns time means of its hidden states, a fitted linear
head, and a fine-tuned stock classifier.
"""

from utils.encoders.arguments import training_arguments
from utils.encoders.classifier import DeployedClassifier, build_classifier
from utils.encoders.description import describe_classifier, describe_probes, describe_training
from utils.encoders.distributed import broadcast_from_main, shares_disk_with_main
from utils.encoders.fine_tuning import FineTuning, build_trainer, find_checkpoint, fine_tune
from utils.encoders.job import EncoderJob
from utils.encoders.partial_model import FrozenClips
from utils.encoders.trainer import RunCallback

__all__ = [
    "DeployedClassifier",
    "EncoderJob",
    "FineTuning",
    "FrozenClips",
    "RunCallback",
    "broadcast_from_main",
    "build_classifier",
    "build_trainer",
    "describe_classifier",
    "describe_probes",
    "describe_training",
    "find_checkpoint",
    "fine_tune",
    "shares_disk_with_main",
    "training_arguments",
]
