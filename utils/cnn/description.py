"""A Keras classifier, its training and its device, described for the report."""

import keras
import tensorflow as tf
from keras import layers

from utils.runtime import describe_device


def describe_layers(classifier: keras.Model) -> list[tuple[str, str, str]]:
    """Return the boxes of `plot_layers`: one per layer with weights, with what follows it."""
    boxes = []
    for model in classifier.layers[1:]:
        for layer in model.layers:
            kind = type(layer).__name__.replace("Normalization", "Norm").replace("Pooling2D", "Pool")
            if isinstance(layer, layers.InputLayer):
                continue
            if kind in ("MelSpectrogram", "Conv2D", "Conv1D", "Dense", "Concatenate"):
                size = getattr(layer, "filters", getattr(layer, "units", None))
                kernel = "×".join(map(str, getattr(layer, "kernel_size", ())))
                kind = "mean and deviation over time" if kind == "Concatenate" else kind
                boxes.append([[" ".join(str(word) for word in (kind, size, kernel) if word)], None, 0])
            else:
                pool = "×".join(map(str, getattr(layer, "pool_size", ())))
                boxes[-1][0].append(f"{kind.removesuffix('1D').removesuffix('2D')} {pool}".strip())
            shape = keras.tree.flatten(layer.output)[0].shape
            boxes[-1][1] = " × ".join("?" if size is None else str(size) for size in shape[1:])
            boxes[-1][2] += layer.count_params()
    return [(" → ".join(words), shape, f"{parameters:,}") for words, shape, parameters in boxes]


def to_history(epochs: list[dict]) -> list[dict]:
    """Return the epochs of Keras as log entries of transformers' Trainer: `epoch`, `loss`, `eval_uar`, ..."""
    return [
        {"epoch": number, "loss": epoch["loss"], "learning_rate": epoch["learning_rate"]}
        | {"eval_loss": epoch["val_loss"], "eval_uar": epoch["val_uar"]}
        for number, epoch in enumerate(epochs, start=1)
    ]


def select_device() -> str:
    """Set up Keras and TensorFlow, and return the name of the device.

    A keras.json in the user's home may set another data format or precision, which the network does not
    have. GPU memory is allocated as needed.
    """
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return describe_device("cpu")
