"""Magnitude spectra of the frames of a waveform: Hann window, Fourier transform in float64, as librosa does it."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import scipy.fft

from features.clips.wav import Waveform
from features.frames.framing import Frames, sliding
from features.reference import librosa

#: Frames transformed at a time: the buffers of one block stay in a core's second-level cache.
BLOCK = 64


def magnitudes(waveform: Waveform, *, n_fft: int, hop_length: int) -> Frames:
    """|STFT| of each frame, (frames, 1 + n_fft/2) float32, rounded where librosa rounds it."""
    windows = sliding(waveform, n_fft=n_fft, hop_length=hop_length)
    made = np.empty((len(windows), 1 + n_fft // 2), dtype=np.float32)
    for start in range(0, len(windows), BLOCK):
        spectrum = scipy.fft.rfft(windows[start : start + BLOCK] * hann(n_fft), axis=-1)
        np.abs(spectrum.astype(np.complex64), out=made[start : start + BLOCK])
    return made


@cache
def hann(n_fft: int) -> npt.NDArray[np.float64]:
    """librosa's window, (n_fft,)."""
    return np.asarray(librosa("filters").get_window("hann", n_fft), dtype=np.float64)
