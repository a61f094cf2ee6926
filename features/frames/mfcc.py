"""Mel-frequency cepstral coefficients: the cosine transform of a log-mel frame.

frames : (frames, n_mfcc); librosa's `mfcc`, transposed: levels more than 80 dB below the clip's loudest are raised to
         there, DCT-II, orthonormal.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import scipy.fft

from features.clips.wav import Waveform
from features.frames import logmel
from features.frames.framing import Frames, ends
from features.frames.parameters import Parameters

UNIT = ""
SETTINGS = ("n_mfcc", *logmel.SETTINGS)

_TOP_DB = np.float32(80)


def bins(settings: Parameters) -> int:
    return settings.n_mfcc


def limits(settings: Parameters) -> tuple[Frames, Frames]:
    """The coefficients of log-mel levels within their own limits: largest where the levels follow the cosine."""
    middle, half = (logmel.HIGHEST + logmel.LOWEST) / 2, (logmel.HIGHEST - logmel.LOWEST) / 2
    largest = half * math.sqrt(2 * settings.n_mels) * 2 / math.pi
    lowest, highest = ends(-largest, largest, settings.n_mfcc)
    root = math.sqrt(settings.n_mels)
    lowest[0], highest[0] = root * (middle - half), root * (middle + half)
    return lowest, highest


def frames(waveform: Waveform, settings: Parameters) -> Frames:
    """MFCC frames of one waveform, (frames, n_mfcc)."""
    mel = logmel.frames(waveform, settings)
    np.maximum(mel, mel.max() - _TOP_DB, out=mel)
    return np.asarray(mel @ _cosines(settings.n_mels, settings.n_mfcc))


@cache
def _cosines(n_mels: int, n_mfcc: int) -> Frames:
    """The transform to a few coefficients, faster as a matrix, (n_mels, n_mfcc)."""
    return np.ascontiguousarray(scipy.fft.dct(np.eye(n_mels), type=2, norm="ortho")[:, :n_mfcc].astype(np.float32))
