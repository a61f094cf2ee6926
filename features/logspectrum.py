"""The plain spectrum in decibels, each frequency for itself.

frames : (frames, 1 + n_fft/2), dB; librosa's `power_to_db(abs(stft(…)) ** 2, top_db=None)`, transposed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from features import logmel
from features.frames import Frames, ends
from features.spectrum import magnitudes
from features.wav import Waveform

if TYPE_CHECKING:
    from features.feature_settings import FeatureSettings

UNIT = "dB"
SETTINGS = ()

#: librosa's floor of the power before the logarithm, as a magnitude: -100 dB.
_FLOOR = np.float32(1e-5)


def bins(settings: FeatureSettings) -> int:
    return 1 + settings.n_fft // 2


def limits(settings: FeatureSettings) -> tuple[Frames, Frames]:
    """As wide as log-mel's, from a full-scale sine downwards."""
    highest = 20 * math.log10(settings.n_fft / 4)
    return ends(highest - (logmel.HIGHEST - logmel.LOWEST), highest, bins(settings))


def frames(waveform: Waveform, settings: FeatureSettings) -> Frames:
    """Log-spectra of one waveform, (frames, 1 + n_fft/2), dB."""
    spectrum = magnitudes(waveform, n_fft=settings.n_fft, hop_length=settings.hop_length)
    np.maximum(spectrum, _FLOOR, out=spectrum)
    np.log10(spectrum, out=spectrum)
    spectrum *= np.float32(20)
    return spectrum
