"""Calibrate a Keras classifier, and save it so that earlier versions of Keras can load it too."""

import json
import zipfile
from pathlib import Path

import keras

NEWER_SETTINGS = {
    "renorm": False,  # batch normalisation, since 3.14
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
    "input_axes": None,  # initializers, since 3.15
    "output_axes": None,
}
"""Settings of layers that Keras 3.13 refuses, with the values that mean what 3.13 does without them."""


def save_classifier(classifier: keras.Model, temperature: float, file: Path) -> keras.Model:
    """Save a classifier as a .keras file without the `NEWER_SETTINGS`; return it, loaded back.

    Args:
        temperature: the logits of the last layer are divided by it, so that its softmax returns calibrated
            probabilities.
    """
    last = classifier.get_layer("convolutional_network").get_layer("emotions")
    last.set_weights([values / temperature for values in last.get_weights()])
    classifier.save(file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"], object_hook=_without_newer_settings)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return keras.models.load_model(file)


def _without_newer_settings(settings: dict) -> dict:
    return {
        name: value
        for name, value in settings.items()
        if name not in NEWER_SETTINGS or value != NEWER_SETTINGS[name]
    }


def oldest_reader() -> str:
    """Return the oldest version of Keras that loads what this one saves: 3.13, as tried with 3.13 to 3.15."""
    major, minor = map(int, keras.__version__.split(".")[:2])
    return "3.13" if (major, minor) <= (3, 15) else f"{major}.{minor}"
