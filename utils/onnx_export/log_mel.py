"""The log-mel spectrogram of Whisper's feature extractor as a module, for export to ONNX (PyTorch)."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class LogMel(nn.Module):
    """Waveforms, float32 (num_clips, num_samples) -> spectrograms (num_clips, num_mel_bins, num_frames).

    The same as `transformers.WhisperFeatureExtractor`: clips are cut or padded to the window, the power
    spectrum is reduced to mel bins, and the logarithm is limited to 80 dB below the maximum of the clip. The
    Fourier transform is a convolution, which all runtimes compute fast.

    Args:
        extractor: the feature extractor of a Whisper encoder.
    """

    def __init__(self, extractor):
        super().__init__()
        self.num_samples, self.hop = extractor.n_samples, extractor.hop_length
        num_taps = extractor.n_fft
        window = np.hanning(num_taps + 1)[:-1]
        angles = 2 * np.pi / num_taps * np.outer(np.arange(num_taps // 2 + 1), np.arange(num_taps))
        basis = np.concatenate([np.cos(angles), np.sin(angles)]) * window
        self.pad = num_taps // 2
        self.register_buffer("basis", torch.tensor(basis[:, None], dtype=torch.float32))
        self.register_buffer("mel_filters", torch.tensor(extractor.mel_filters.T, dtype=torch.float32))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        window = functional.pad(waveforms, (0, self.num_samples))[:, None, : self.num_samples]
        window = functional.pad(window, (self.pad, self.pad), mode="reflect")
        parts = functional.conv1d(window, self.basis, stride=self.hop)[:, :, :-1]
        real, imaginary = parts.square().chunk(2, dim=1)
        spectrum = (self.mel_filters @ (real + imaginary)).clamp(min=1e-10).log10()
        return (torch.maximum(spectrum, spectrum.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4
