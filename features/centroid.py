"""Where the middle of the spectrum lies.

frames : (frames, 1), Hz: the mean frequency, weighted by magnitude; librosa's `spectral_centroid`, transposed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from features.frames import Frames, ends
from features.spectrum import magnitudes
from features.wav import Waveform

if TYPE_CHECKING:
    from features.feature_settings import FeatureSettings

UNIT = "Hz"
SETTINGS = ()


def bins(settings: FeatureSettings) -> int:
    return 1


def limits(settings: FeatureSettings) -> tuple[Frames, Frames]:
    return ends(0, settings.sample_rate / 2, 1)


def frames(waveform: Waveform, settings: FeatureSettings) -> Frames:
    """Spectral centroids of one waveform, (frames, 1), Hz; 0 for silence."""
    spectrum = magnitudes(waveform, n_fft=settings.n_fft, hop_length=settings.hop_length)
    frequencies = np.arange(spectrum.shape[1]) * (settings.sample_rate / settings.n_fft)
    weights = spectrum.sum(axis=1, dtype=np.float64)
    weights[weights < np.finfo(np.float32).tiny] = 1
    return np.asarray(spectrum @ frequencies / weights, dtype=np.float32)[:, np.newaxis]
