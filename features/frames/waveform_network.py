"""Log-mel frames as a network: for a detector that takes waveforms where librosa is not installed.

waveforms : (batch, samples) float32, full scale is [-1, 1); all of one length, which may be any.
frames    : (batch, frames, n_mels) float32; within 1e-3 dB of those of features.frames.logmel, and so of librosa's.

The Fourier transform is two products with matrices, of cosines and of sines, which every runtime has; few have complex
numbers. The Hann window is 0 at a frame's first sample and symmetric around its middle, like the cosine, where the sine
changes its sign. So two samples at the same distance from the middle are added for the cosines and subtracted for the
sines:

    a frame     x0 x1 x2 … xm … x-2 x-1      m = n_fft / 2
    cosines     (x1 + x-1), (x2 + x-2), …    half as many products
    sines       (x1 - x-1), (x2 - x-2), …

The arithmetic is float64: a faint band beside a loud tone would drown in float32's rounding. features.frames.logmel
uses float64 for the same reason.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from features.frames.feature_settings import FeatureSettings
from features.frames.spectrum import LEAST_POWER, hann, mel_filters

#: A clip whose levels deviate by less from their mean is all alike.
_LEAST_DEVIATION = 1e-12


class WaveformNetwork(nn.Module):
    """Computes the log-mel frames of waveforms."""

    cosines: Tensor  # (n_fft / 2, 1 + n_fft / 2) float64, windowed
    sines: Tensor  # the same shape
    filters: Tensor  # (1 + n_fft / 2, n_mels) float32

    def __init__(self, settings: FeatureSettings) -> None:
        """Raises ValueError for features of another kind."""
        super().__init__()
        if settings.kind != "logmel":
            raise ValueError(f"a network computes logmel frames only, but got {settings.kind}")
        self.n_fft, self.hop_length = settings.n_fft, settings.hop_length
        self.power = settings.power
        self.is_standardised = settings.normalize == "clip"
        steps = np.arange(1, self.n_fft // 2 + 1)
        window = hann(self.n_fft)[steps, None]
        # Products are reduced before they are scaled: angles of many turns would lose digits.
        angles = 2 * np.pi / self.n_fft * (np.outer(steps, np.arange(1 + self.n_fft // 2)) % self.n_fft)
        # The sample in the middle of an even frame is its own partner, and would count twice.
        self_paired = np.where(2 * steps == self.n_fft, 0.5, 1.0)[:, None]
        self.register_buffer("cosines", torch.from_numpy(window * self_paired * np.cos(angles)))
        self.register_buffer("sines", torch.from_numpy(window * np.sin(angles)))
        self.register_buffer("filters", torch.from_numpy(np.ascontiguousarray(mel_filters(settings).T)))

    def forward(self, waveforms: Tensor) -> Tensor:
        half = self.n_fft // 2
        padded = functional.pad(waveforms, (half, half))
        count = 1 + (padded.shape[1] - self.n_fft) // self.hop_length
        firsts = self.hop_length * torch.arange(count, device=padded.device)[:, None]  # (frames, 1)
        steps = torch.arange(1, half + 1, device=padded.device)
        ahead = padded[:, firsts + steps].double()  # (batch, frames, n_fft / 2)
        behind = padded[:, firsts + (self.n_fft - steps)].double()
        spectrum = ((ahead + behind) @ self.cosines).square() + ((ahead - behind) @ self.sines).square()
        spectrum = spectrum.float() if self.power == 2 else spectrum.sqrt().float()
        mel = spectrum @ self.filters
        levels = mel.clamp_min(LEAST_POWER ** (self.power / 2)).log() * (20 / self.power / math.log(10))
        return _standardised(levels) if self.is_standardised else levels


def _standardised(levels: Tensor) -> Tensor:
    """Zero mean and unit variance of each clip; zeros where all its values are the same."""
    values = levels.double()
    centred = values - values.mean(dim=(1, 2), keepdim=True)
    deviations = centred.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return torch.where(deviations > _LEAST_DEVIATION, centred / deviations.clamp_min(_LEAST_DEVIATION), 0).float()
