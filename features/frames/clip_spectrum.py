"""The spectrum of a whole clip: one Fourier transform over all of it, in bands of equal width.

frames : (1, n_bands), dB: the mean power of the bins in each band. It shows tones that lie closer together than frames
         can resolve, and nothing of when a sound occurs. After the spectrum branch of Wilkinghoff, "Design choices for
         learning embeddings from auxiliary tasks for domain generalization in anomalous sound detection" (ICASSP 2023).

Levels do not depend on the clip's length: power is divided by that of the window, and multiplied by that of a Hann
window of 2 · n_bands samples. So steady sound has the level that `logspectrum` with n_fft = 2 · n_bands has on average.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

from features.clips.wav import Waveform
from features.frames import logmel
from features.frames.framing import Frames, ends
from features.frames.parameters import Parameters
from features.frames.spectrum import LEAST_POWER, hann_of_clip

UNIT = "dB"
SETTINGS = ("n_bands",)

#: The mean of the squares of a Hann window.
_POWER_OF_HANN = 3 / 8


def bins(settings: Parameters) -> int:
    return settings.n_bands


def limits(settings: Parameters) -> tuple[Frames, Frames]:
    """A range as wide as log-mel's, from a full-scale sine downwards."""
    highest = 10 * math.log10(_POWER_OF_HANN * settings.n_bands**2)
    return ends(highest - (logmel.HIGHEST - logmel.LOWEST), highest, bins(settings))


def frame_count(samples: int, settings: Parameters) -> int:
    """1, or 0 for a clip that is too short to have a bin of its Fourier transform in each band."""
    return int(samples > 0 and 1 + samples // 2 >= settings.n_bands)


def frames(waveform: Waveform, settings: Parameters) -> Frames:
    """The log-spectrum of one waveform, (1, n_bands), dB; (0, n_bands) if it is too short."""
    samples, bands = len(waveform), settings.n_bands
    if not frame_count(samples, settings):
        return np.empty((0, bands), dtype=np.float32)
    window = hann_of_clip(samples)
    power = np.abs(scipy.fft.rfft(waveform * window)) ** 2
    power *= 2 * bands * _POWER_OF_HANN / np.square(window).sum()
    firsts = -(-np.arange(bands) * samples // (2 * bands))  # (bands,): the first bin that is not below the band
    sizes = np.diff(firsts, append=len(power))  # the last band includes half the sample rate
    means = np.add.reduceat(power, firsts) / sizes
    return np.asarray(10 * np.log10(np.maximum(means, LEAST_POWER)), dtype=np.float32)[np.newaxis]
