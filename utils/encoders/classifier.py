"""A stock classifier over a pretrained encoder, with a fresh head."""

from collections.abc import Sequence

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

from utils.data.audio import SAMPLING_RATE
from utils.encoders.families import check_family, cut_window, family_of
from utils.encoders.freezing import is_head
from utils.runtime import InputError, first_line

# Small enough for a laptop and the demo. Dropout and masking are for encoders that could overfit.
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (128,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 64,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "mask_time_prob": 0.0,
}
# The size of XLS-R-300M.
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
SIZES = {"tiny": TINY, "base": {}, "large": LARGE}
"""Name -> what differs from the configuration of wav2vec2-base."""


def build_classifier(
    name_or_path: str, size: str | None, emotions: Sequence[str], window_seconds: int | None = None
):
    """Return a stock classifier, and the feature extractor of its encoder.

    Args:
        name_or_path: Hub id or folder of a pretrained encoder.
        size: one of `SIZES`, for a random encoder instead; None: the pretrained one.
        emotions: label i is `emotions[i]`.
        window_seconds: of encoders with a fixed window, which is cut to this; None: it stays as it is.

    Raises:
        InputError: the encoder cannot be loaded, or is of no known family.
    """
    settings = {
        "num_labels": len(emotions),
        "id2label": dict(enumerate(emotions)),
        "label2id": {emotion: label for label, emotion in enumerate(emotions)},
        "use_weighted_layer_sum": False,
        "layerdrop": 0.0,  # no layer is skipped, neither in the pass of the frozen layers nor in fine-tuning
        "problem_type": "single_label_classification",  # a checkpoint may have been trained for another
    }
    if size:
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
        config = Wav2Vec2Config(**SIZES[size], **settings)
        model = AutoModelForAudioClassification.from_config(config)
    else:
        extractor, config = _load_config(name_or_path, settings)
        model = _load_weights(name_or_path, config)
        if window_seconds and family_of(config).has_window:
            cut_window(model, extractor, window_seconds)
    return model, extractor


def _load_config(name: str, settings: dict):
    """Return feature extractor and configuration of a pretrained encoder, both checked."""
    try:
        extractor = AutoFeatureExtractor.from_pretrained(name)
        config = AutoConfig.from_pretrained(name, **settings)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--model_name_or_path {name}: cannot be loaded ({first_line(error)}). Expected a Hub id that "
            "this machine can reach, or a folder with config.json, preprocessor_config.json and weights; "
            "--from_config tiny needs neither"
        ) from None
    check_family(name, config)
    if extractor.sampling_rate != SAMPLING_RATE:
        raise InputError(
            f"--model_name_or_path {name}: needs {extractor.sampling_rate} Hz, expected {SAMPLING_RATE} Hz"
        )
    return extractor, config


def _load_weights(name: str, config) -> torch.nn.Module:
    """Return the classifier with the weights of a pretrained encoder; every one of them must be there."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it would warn that the head is new, as intended
    # A head of another classifier, with another number of labels, is replaced like a missing one.
    model, loading = AutoModelForAudioClassification.from_pretrained(
        name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
    )
    transformers.logging.set_verbosity(verbosity)
    missing = [key for key in loading["missing_keys"] if not is_head(key) and "masked_spec_embed" not in key]
    if missing:
        raise InputError(
            f"--model_name_or_path {name}: has no weights for {len(missing)} parts of its encoder "
            f"({missing[0]}, ...)"
        )
    _reset_head(model, new={*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    return model


@torch.no_grad()
def _reset_head(model: torch.nn.Module, new: set[str]) -> None:
    """Replace the head of an earlier task: only the encoder of a checkpoint is used.

    Args:
        new: names of the parameters that the checkpoint did not have. They are already new.
    """
    old = {name.split(".")[0] for name, _ in model.named_parameters() if is_head(name) and name not in new}
    for name in old:
        model.get_submodule(name).reset_parameters()


class DeployedClassifier:
    """A saved classifier and its feature extractor, for one clip at a time.

    Args:
        model: a stock classifier, in eval mode.
        extractor: of its encoder.
    """

    def __init__(self, model: torch.nn.Module, extractor):
        self.model, self.extractor = model.eval(), extractor

    @torch.inference_mode()
    def classify(self, waveform: np.ndarray) -> torch.Tensor:
        """Return the logits (1, num_labels), on the CPU, of a waveform, float32 (num_samples,) at 16 kHz."""
        inputs = self.extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        return self.model(**inputs.to(self.model.device)).logits.cpu()

    def predict_proba(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Return probabilities, float64 (num_clips, num_labels)."""
        logits = torch.cat([self.classify(waveform) for waveform in waveforms])
        return logits.double().softmax(dim=-1).numpy()
