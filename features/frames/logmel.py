"""Log-mel spectrograms.

frames : (frames, n_mels), decibels; librosa's `power_to_db(melspectrogram(…), top_db=None)`, transposed; for magnitudes
         (power 1) its `amplitude_to_db`.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.sparse

from features.clips.wav import Waveform
from features.frames.framing import FRAMING, Frames, ends, sliding
from features.frames.parameters import Parameters
from features.frames.spectrum import BLOCK, LEAST_POWER, hann, mel_filters

UNIT = "dB"
SETTINGS = (*FRAMING, "n_mels", "fmin", "fmax", "power")

#: The range of levels of ordinary recordings, dB.
LOWEST, HIGHEST = -90.0, 24.0

#: Below this share of a frame's power, the rounding noise of a float32 Fourier transform shows in a band:
#: it reaches 1e-3 dB in a bin whose power is about 1e-7 of the frame's.
_FLOAT32_RANGE = np.float32(4e-7)


def bins(settings: Parameters) -> int:
    return settings.n_mels


def limits(settings: Parameters) -> tuple[Frames, Frames]:
    return ends(LOWEST, HIGHEST, settings.n_mels)


def frames(waveform: Waveform, settings: Parameters) -> Frames:
    """Log-mel frames of one waveform, (frames, n_mels), dB."""
    power = settings.power
    mel = _mel_bands(waveform, settings)
    np.maximum(mel, np.float32(LEAST_POWER ** (power / 2)), out=mel)
    np.log(mel, out=mel)  # which numpy has vectorised, unlike log10
    mel *= np.float32(20 / power / math.log(10))
    return mel


def _mel_bands(waveform: Waveform, settings: Parameters) -> Frames:
    """The mel spectrum, (frames, n_mels): in float32 where that is precise enough, which is about twice as fast."""
    windows = sliding(waveform, n_fft=settings.n_fft, hop_length=settings.hop_length)
    mel = np.empty((len(windows), settings.n_mels), dtype=np.float32)
    precise = hann(settings.n_fft)
    window: npt.NDArray[np.floating] = precise.astype(np.float32)
    for part in (slice(0, BLOCK), slice(BLOCK, len(windows))):
        bands, is_wide = _bands(windows[part], window, settings)
        mel[part] = bands.T
        wide = np.flatnonzero(is_wide)
        if len(wide) and window.dtype == np.float32:
            bands, _ = _bands(windows[part][wide], precise, settings)
            mel[part][wide] = bands.T
            if 2 * len(wide) > len(is_wide):
                window = precise  # such first frames are a sign that most frames of the clip are wide
    return mel


def _bands(
    windows: Frames, window: npt.NDArray[np.floating], settings: Parameters
) -> tuple[Frames, npt.NDArray[np.bool_]]:
    """Mel bands, (n_mels, frames), computed in the window's precision; and (frames,) where float32 is too coarse."""
    filters, widths = _sparse_filters(settings)
    spectrum = _power_spectrum(windows, window)
    least = (_FLOAT32_RANGE * spectrum.sum(axis=0)) ** np.float32(settings.power / 2)
    if settings.power == 1:
        np.sqrt(spectrum, out=spectrum)
    bands = np.asarray(filters @ spectrum)
    return bands, (bands / widths).min(axis=0) < least


def _power_spectrum(windows: Frames, window: npt.NDArray[np.floating]) -> Frames:
    """Power of windowed frames, (1 + n_fft/2, frames), transformed in the precision of the window."""
    count, n_fft = windows.shape
    power = np.empty((1 + n_fft // 2, count), dtype=np.float32)
    for start in range(0, count, BLOCK):
        block = slice(start, start + BLOCK)
        parts = scipy.fft.rfft(windows[block] * window, axis=-1).view(window.dtype)
        parts *= parts
        np.add(parts[:, ::2].T, parts[:, 1::2].T, out=power[:, block], casting="same_kind")
    return power


@cache
def _sparse_filters(settings: Parameters) -> tuple[scipy.sparse.csr_array, npt.NDArray[np.float32]]:
    """The mel filters, sparse (n_mels, 1 + n_fft/2), and the sum of each filter's weights (n_mels, 1)."""
    filters = mel_filters(settings)
    widths = np.maximum(filters.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return scipy.sparse.csr_array(filters), widths.astype(np.float32)
