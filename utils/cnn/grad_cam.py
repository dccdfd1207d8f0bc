"""A Keras classifier that begins with its own spectrogram and a clip come in; where in time and frequency the
classifier found an emotion goes out (TensorFlow)."""

import keras
import numpy as np
import tensorflow as tf


def grad_cam(classifier: keras.Model, waveform: np.ndarray, label: int) -> dict[str, np.ndarray]:
    """Weigh the channels of the last map of time and frequency by what each adds to an emotion's logit.

    Gradient-weighted class activation mapping (Selvaraju et al. 2017, "Grad-CAM"): a channel's weight is the
    mean gradient of the logit over all places, and only what speaks for the emotion is kept. A cell of the
    map is as coarse as the pooling before that map, and what later layers do with time is not in it.

    Args:
        classifier: waveform -> a model that ends in `bands` (1, num_frames, num_bands, 1) and others -> a
            network that ends in a `Dense` layer with softmax.
        waveform: float32 (num_samples,).
        label: of the emotion, usually the one that the classifier names.

    Returns:
        `bands` (num_frames, num_bands), as the network is given them; `heat` of that shape, 0 to 1 (all 0
        where nothing speaks for the emotion); `hertz` (num_bands,), the middle of each band; `hop_seconds`.
    """
    spectrogram, network = (layer for layer in classifier.layers if isinstance(layer, keras.Model))
    mel = next(layer for layer in spectrogram.layers if isinstance(layer, keras.layers.MelSpectrogram))
    last = network.layers[-1]
    inner = keras.Model(network.input, [_last_map(network), last.input])
    features = spectrogram(np.asarray(waveform, np.float32)[None], training=False)
    with tf.GradientTape() as tape:
        activation, summary = inner(features, training=False)
        logit = tf.reduce_sum(summary[0] * last.kernel[:, label])  # the bias has no gradient
    gradient = tape.gradient(logit, activation)[0]
    weights = tf.reduce_mean(gradient, axis=(0, 1))
    heat = np.maximum(tf.reduce_sum(activation[0] * weights, axis=-1).numpy(), 0)
    bands = np.asarray(features["bands"])[0, :, :, 0]
    for axis in (0, 1):
        heat = np.repeat(heat, -(-bands.shape[axis] // heat.shape[axis]), axis)
    edges = np.linspace(_mel(mel.min_freq), _mel(mel.max_freq), mel.num_mel_bins + 2)
    return {
        "bands": bands,
        "heat": heat[: bands.shape[0], : bands.shape[1]] / (heat.max() or 1),
        "hertz": 700 * (10 ** (edges[1:-1] / 2595) - 1),
        "hop_seconds": mel.sequence_stride / mel.sampling_rate,
    }


def _last_map(network: keras.Model):
    """Return what is given to the first layer that no longer tells time and frequency apart.

    Not what leaves the last convolution: after it the network may still mute what does not sound, and the map
    would shine where nothing is heard.
    """
    ranks = [(layer, len(layer.output.shape)) for layer in network.layers if hasattr(layer.output, "shape")]
    return next(
        layer.input for layer, rank in ranks if rank < 4 and len(getattr(layer.input, "shape", ())) == 4
    )


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)  # HTK's scale, which Keras' layer has
