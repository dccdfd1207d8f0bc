"""Grad-CAM for a Keras classifier that computes its own spectrogram (TensorFlow)."""

import keras
import numpy as np
import tensorflow as tf


def grad_cam(classifier: keras.Model, waveform: np.ndarray, label: int) -> dict[str, np.ndarray]:
    """Compute where in time and frequency the evidence for an emotion lies.

    Gradient-weighted class activation mapping (Selvaraju et al. 2017, "Grad-CAM"): the channels of the last
    feature map over time and frequency are summed, each weighted by the mean gradient of the logit over all
    positions; negative sums are set to 0. The resolution is that of this feature map, after pooling. What
    later layers do with time is not shown.

    Args:
        classifier: waveform -> a model whose outputs include `bands` (1, num_frames, num_bands, 1) -> a
            network that ends in a `Dense` layer with softmax.
        waveform: float32 (num_samples,).
        label: of the emotion, usually the predicted one.

    Returns:
        `bands` (num_frames, num_bands), the input of the network; `heat` of the same shape, 0 to 1 (all 0
        without positive evidence); `hertz` (num_bands,), the centre frequency of each band; `hop_seconds`,
        the time between frames.
    """
    spectrogram, network = (layer for layer in classifier.layers if isinstance(layer, keras.Model))
    mel = next(layer for layer in spectrogram.layers if isinstance(layer, keras.layers.MelSpectrogram))
    output_layer = network.layers[-1]
    inner = keras.Model(network.input, [_last_feature_map(network), output_layer.input])
    features = spectrogram(np.asarray(waveform, np.float32)[None], training=False)
    with tf.GradientTape() as tape:
        activation, pooled = inner(features, training=False)
        logit = tf.reduce_sum(pooled[0] * output_layer.kernel[:, label])  # without the constant bias
    gradient = tape.gradient(logit, activation)[0]
    weights = tf.reduce_mean(gradient, axis=(0, 1))
    heat = np.maximum(tf.reduce_sum(activation[0] * weights, axis=-1).numpy(), 0)
    bands = np.asarray(features["bands"])[0, :, :, 0]
    for axis in (0, 1):
        heat = np.repeat(heat, -(-bands.shape[axis] // heat.shape[axis]), axis)
    edges = np.linspace(_to_mel(mel.min_freq), _to_mel(mel.max_freq), mel.num_mel_bins + 2)
    return {
        "bands": bands,
        "heat": heat[: bands.shape[0], : bands.shape[1]] / (heat.max() or 1),
        "hertz": 700 * (10 ** (edges[1:-1] / 2595) - 1),
        "hop_seconds": mel.sequence_stride / mel.sampling_rate,
    }


def _last_feature_map(network: keras.Model):
    """Return the input of the first layer that removes the time or frequency axis.

    The output of the last convolution is not used: the network may mask silent frames after it, and the
    heat map would then show evidence in silence.
    """
    ranks = [(layer, len(layer.output.shape)) for layer in network.layers if hasattr(layer.output, "shape")]
    return next(
        layer.input for layer, rank in ranks if rank < 4 and len(getattr(layer.input, "shape", ())) == 4
    )


def _to_mel(hertz: float) -> float:
    """Convert Hz to mel with the formula of HTK, as the layer of Keras does."""
    return 2595 * np.log10(1 + hertz / 700)
