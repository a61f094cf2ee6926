"""Loudness over time.

frames : (frames, 1), root of the mean square, at most 1 for a clip within full scale; librosa's `rms`, transposed.
"""

from __future__ import annotations

import numpy as np

from features.clips.wav import Waveform
from features.frames.framing import FRAMING, Frames, ends, sliding
from features.frames.parameters import Parameters

UNIT = ""
SETTINGS = FRAMING


def bins(settings: Parameters) -> int:
    return 1


def limits(settings: Parameters) -> tuple[Frames, Frames]:
    return ends(0, 1, 1)


def frames(waveform: Waveform, settings: Parameters) -> Frames:
    """RMS frames of one waveform, (frames, 1)."""
    windows = sliding(waveform, n_fft=settings.n_fft, hop_length=settings.hop_length)
    power = np.einsum("fs,fs->f", windows, windows)
    power /= settings.n_fft
    return np.asarray(np.sqrt(power, out=power)[:, np.newaxis])
