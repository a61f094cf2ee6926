"""Where the middle of the spectrum lies.

frames : (frames, 1), Hz: the mean frequency, weighted by magnitude; librosa's `spectral_centroid`, transposed.
"""

from __future__ import annotations

import numpy as np

from features.clips.wav import Waveform
from features.frames.framing import FRAMING, Frames, ends
from features.frames.parameters import Parameters
from features.frames.spectrum import magnitudes

UNIT = "Hz"
SETTINGS = FRAMING


def bins(settings: Parameters) -> int:
    return 1


def limits(settings: Parameters) -> tuple[Frames, Frames]:
    return ends(0, settings.sample_rate / 2, 1)


def frames(waveform: Waveform, settings: Parameters) -> Frames:
    """Spectral centroids of one waveform, (frames, 1), Hz; 0 for silence."""
    spectrum = magnitudes(waveform, n_fft=settings.n_fft, hop_length=settings.hop_length)
    frequencies = np.arange(spectrum.shape[1]) * (settings.sample_rate / settings.n_fft)
    weights = spectrum.sum(axis=1, dtype=np.float64)
    weights[weights < np.finfo(np.float32).tiny] = 1
    return np.asarray(spectrum @ frequencies / weights, dtype=np.float32)[:, np.newaxis]
