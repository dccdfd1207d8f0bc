"""What differs between the families of encoders for which `AutoModelForAudioClassification` has a classifier.

The classes of a family share the names of their modules. Every classifier has its transformer layers in
`base_model.encoder.layers`, and a head of `projector`, mean over time, and `classifier`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import SeamlessM4TFeatureExtractor

from utils.data.audio import SAMPLING_RATE
from utils.runtime import InputError


@dataclass(frozen=True)
class Family:
    """A family of encoders.

    Attributes:
        input_name: what a classifier is given for each clip: `input_values` (num_samples,), or
            `input_features`, a log-mel spectrogram.
        before_layers: the modules of `base_model` before its layers.
        adapted: the linear modules of a layer that get low-rank adapters.
        body: the part of `base_model` that computes the hidden states; "" is all of it.
        has_window: every clip is cut or padded to a window of fixed length, (num_mel_bins, num_frames). Other
            spectrograms are (num_frames, num_mel_bins), as long as the clip.
        layers_mask: a layer ignores padding if it is given an attention mask and nothing else.
    """

    input_name: str
    before_layers: tuple[str, ...]
    adapted: tuple[str, ...]
    body: str = ""
    has_window: bool = False
    layers_mask: bool = True


_WAVEFORM = Family(
    "input_values",
    before_layers=("feature_extractor", "feature_projection", "encoder.pos_conv_embed"),
    adapted=("intermediate_dense", "output_dense"),
)
_W2V_BERT = Family(
    "input_features",
    before_layers=("feature_projection",),
    adapted=("intermediate_dense", "output_dense"),
    layers_mask=False,
)
_WHISPER = Family(
    "input_features",
    before_layers=("encoder.conv1", "encoder.conv2", "encoder.embed_positions"),
    adapted=("fc1", "fc2"),
    body="encoder",
    has_window=True,
)

FAMILIES = {
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"), _WAVEFORM),
    "data2vec-audio": _WAVEFORM,  # its position convolutions see padding: batches of one length, see `embed`
    "wav2vec2-bert": _W2V_BERT,
    "whisper": _WHISPER,
}
"""`model_type` of the config -> family. XLS-R and MMS are of the type wav2vec2."""


POSITIONS_PER_SECOND = 50
"""Of Whisper: two frames of 10 ms each."""

MAX_WINDOW_SECONDS = 30
"""The window with which Whisper was pretrained."""


def family_of(config) -> Family:
    """Return the family of a classifier or an encoder, by its config."""
    return FAMILIES[config.model_type]


def extract_input(extractor, waveform: np.ndarray) -> np.ndarray:
    """Return what a classifier is given for a waveform, float32 (num_samples,) at 16 kHz.

    Frames that the extractor of w2v-BERT adds, and masks, to make their number even are left out: the
    classifier computes the same without them.
    """
    features = extractor(waveform, sampling_rate=SAMPLING_RATE)
    values = features[extractor.model_input_names[0]][0]
    if isinstance(extractor, SeamlessM4TFeatureExtractor):
        values = values[np.asarray(features["attention_mask"][0], dtype=bool)]
    return values


def check_exportable(config) -> None:
    """Check that a classifier can be exported to ONNX.

    Raises:
        InputError: its input is a spectrogram that the exported file cannot compute.
    """
    family = family_of(config)
    if family.input_name == "input_features" and not family.has_window:
        raise InputError(f"--export onnx: is not available for encoders of the type {config.model_type}")


def check_family(name: str, config) -> None:
    """Check the family of a checkpoint.

    Raises:
        InputError: it is none that the kit computes correctly.
    """
    if config.model_type not in FAMILIES:
        raise InputError(
            f"--model_name_or_path {name}: is a {config.model_type}; expected one of {', '.join(FAMILIES)}"
        )


def last_norm(model: torch.nn.Module) -> torch.nn.Module:
    """Return the norm that an encoder applies to the output of its last layer, or the identity."""
    config = model.config
    if family_of(config) is _WHISPER or getattr(config, "do_stable_layer_norm", False):
        return model.base_model.encoder.layer_norm
    return torch.nn.Identity()


def keep_layers(model: torch.nn.Module, num_layers: int) -> None:
    """Cut the encoder of a classifier after its first layers, in place. It stays a stock classifier.

    Raises:
        InputError: the encoder has fewer layers.
    """
    encoder, config = model.base_model.encoder, model.config
    if not 1 <= num_layers <= len(encoder.layers):
        raise InputError(f"--keep_layers {num_layers}: expected 1 to {len(encoder.layers)}")
    encoder.layers = encoder.layers[:num_layers]
    for name in ("num_hidden_layers", "encoder_layers"):  # Whisper has the second, and in part the first
        if hasattr(config, name):
            setattr(config, name, num_layers)


@torch.no_grad()
def cut_window(model: torch.nn.Module, extractor, seconds: int) -> None:
    """Shorten the window of a Whisper classifier, and of its feature extractor, in place.

    The encoder takes exactly as many frames as its table of positions has rows; what remains are the first
    rows. Both stay stock: `pipeline` cuts and pads clips to the new window.

    Args:
        seconds: length of the window, in whole seconds; longer clips are cut.
    """
    num_positions = POSITIONS_PER_SECOND * seconds
    model.config.max_source_positions = num_positions
    encoder = model.base_model.encoder
    encoder.max_source_positions = num_positions
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(
        encoder.embed_positions.weight[:num_positions].clone(), freeze=True
    )
    extractor.chunk_length = seconds
    extractor.n_samples = seconds * extractor.sampling_rate
    extractor.nb_max_frames = extractor.n_samples // extractor.hop_length
