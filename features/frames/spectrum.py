"""Magnitude spectra of the frames of a waveform, as librosa has them: Hann window, Fourier transform in float64, mel
filters."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft

from features.clips.wav import Waveform
from features.frames.framing import Frames, sliding
from features.frames.parameters import Parameters
from features.reference import librosa

#: Frames transformed at a time: the buffers of one block stay in a core's second-level cache.
BLOCK = 64

#: librosa's floor of the power before the logarithm: -100 dB.
LEAST_POWER = 1e-10


def magnitudes(waveform: Waveform, *, n_fft: int, hop_length: int) -> Frames:
    """|STFT| of each frame, (frames, 1 + n_fft/2) float32, rounded where librosa rounds it."""
    windows = sliding(waveform, n_fft=n_fft, hop_length=hop_length)
    magnitude = np.empty((len(windows), 1 + n_fft // 2), dtype=np.float32)
    for start in range(0, len(windows), BLOCK):
        spectrum = scipy.fft.rfft(windows[start : start + BLOCK] * hann(n_fft), axis=-1)
        np.abs(spectrum.astype(np.complex64), out=magnitude[start : start + BLOCK])
    return magnitude


@cache
def hann(n_fft: int) -> npt.NDArray[np.float64]:
    """librosa's Hann window, (n_fft,)."""
    return hann_of_clip(n_fft)


@lru_cache(maxsize=2)  # the clips of a corpus mostly have one length, and others would fill the memory
def hann_of_clip(samples: int) -> npt.NDArray[np.float64]:
    """librosa's Hann window over a whole clip, (samples,)."""
    return np.asarray(librosa("filters").get_window("hann", samples), dtype=np.float64)


def mel_filters(settings: Parameters) -> Frames:
    """librosa's mel filters, (n_mels, 1 + n_fft/2)."""
    filters = librosa("filters").mel(
        sr=settings.sample_rate,
        n_fft=settings.n_fft,
        n_mels=settings.n_mels,
        fmin=settings.fmin,
        fmax=settings.highest_frequency,
    )
    return np.asarray(filters)
