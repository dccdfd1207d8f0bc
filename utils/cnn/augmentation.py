"""Augmentation of spectrograms as a Keras layer."""

import keras
from keras import layers, ops


class SpectrogramAugmentation(layers.Layer):
    """Shift the bands of each training clip up or down, and mask two stripes of time and two of frequency.

    A shift on the mel scale changes pitch and formants. The stripes are those of SpecAugment (Park et al.
    2019). In inference the layer does nothing, and it is not part of the saved model.
    """

    MAX_SHIFT = 2  # bands
    MAX_FRAMES, MAX_BANDS = 10, 8

    def __init__(self, seed: int):
        super().__init__(name="spectrogram_augmentation")
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, bands, training=False):
        if not training:
            return bands
        num_clips, num_frames, num_bands = ops.shape(bands)[0], ops.shape(bands)[1], bands.shape[2]
        shift = keras.random.randint((num_clips, 1), -self.MAX_SHIFT, self.MAX_SHIFT + 1, seed=self.generator)
        source = ops.clip(ops.arange(num_bands)[None] + shift, 0, num_bands - 1)
        bands = ops.take_along_axis(bands, source[:, None, :, None], axis=2)
        for _ in range(2):
            bands *= self._stripe(num_clips, num_frames, self.MAX_FRAMES)[:, :, None, None]
            bands *= self._stripe(num_clips, num_bands, self.MAX_BANDS)[:, None, :, None]
        return bands

    def _stripe(self, num_clips, length, max_width: int):
        """Return a mask (num_clips, length): 0 in one stripe, 1 elsewhere."""
        width = keras.random.uniform((num_clips, 1), 0, max_width, seed=self.generator)
        start = keras.random.uniform((num_clips, 1), seed=self.generator)
        start *= ops.cast(length, "float32") - width
        position = ops.cast(ops.arange(length), "float32")[None]
        return ops.cast((position < start) | (position >= start + width), "float32")
