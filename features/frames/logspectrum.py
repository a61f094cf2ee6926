"""The plain spectrum in decibels, each frequency for itself.

frames : (frames, 1 + n_fft/2), dB; librosa's `power_to_db(abs(stft(…)) ** 2, top_db=None)`, transposed.
"""

from __future__ import annotations

import math

import numpy as np

from features.clips.wav import Waveform
from features.frames import logmel
from features.frames.framing import FRAMING, Frames, ends
from features.frames.parameters import Parameters
from features.frames.spectrum import LEAST_POWER, magnitudes

UNIT = "dB"
SETTINGS = FRAMING

_LEAST_MAGNITUDE = np.float32(math.sqrt(LEAST_POWER))


def bins(settings: Parameters) -> int:
    return 1 + settings.n_fft // 2


def limits(settings: Parameters) -> tuple[Frames, Frames]:
    """A range as wide as log-mel's, from a full-scale sine downwards."""
    highest = 20 * math.log10(settings.n_fft / 4)
    return ends(highest - (logmel.HIGHEST - logmel.LOWEST), highest, bins(settings))


def frames(waveform: Waveform, settings: Parameters) -> Frames:
    """Log-spectra of one waveform, (frames, 1 + n_fft/2), dB."""
    spectrum = magnitudes(waveform, n_fft=settings.n_fft, hop_length=settings.hop_length)
    np.maximum(spectrum, _LEAST_MAGNITUDE, out=spectrum)
    np.log10(spectrum, out=spectrum)
    spectrum *= np.float32(20)
    return spectrum
