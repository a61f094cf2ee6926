"""How often the waveform changes its sign.

frames : (frames, 1), crossings a sample; librosa's `zero_crossing_rate`, transposed: before and after the clip its
         first and last sample go on, and what is within 1e-10 of zero is zero, and positive.
"""

from __future__ import annotations

import numpy as np

from features.clips.wav import Waveform
from features.frames.framing import FRAMING, Frames, ends
from features.frames.parameters import Parameters

UNIT = ""
SETTINGS = FRAMING

_ZERO = np.float32(1e-10)


def bins(settings: Parameters) -> int:
    return 1


def limits(settings: Parameters) -> tuple[Frames, Frames]:
    return ends(0, 1, 1)


def frames(waveform: Waveform, settings: Parameters) -> Frames:
    """Zero-crossing rates of one waveform, (frames, 1)."""
    n_fft = settings.n_fft
    below = np.pad(waveform < -_ZERO, n_fft // 2, mode="edge")
    # crossings[i]: how many of the first i + 1 samples differ in sign from the one before.
    crossings = np.zeros(len(below), dtype=np.int64)
    np.cumsum(below[1:] != below[:-1], out=crossings[1:])
    # A frame's first sample has none before it within the frame.
    counts = crossings[n_fft - 1 :: settings.hop_length] - crossings[: len(below) - n_fft + 1 : settings.hop_length]
    return (counts / n_fft).astype(np.float32)[:, np.newaxis]
