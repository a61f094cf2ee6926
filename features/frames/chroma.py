"""Chroma: the power at each of the octave's pitch classes, whatever the octave.

frames : (frames, n_chroma) within [0, 1], each frame divided by its largest; librosa's `chroma_stft`, transposed.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np

from features.clips.wav import Waveform
from features.frames.framing import FRAMING, Frames, ends
from features.frames.parameters import Parameters
from features.frames.spectrum import magnitudes
from features.reference import librosa

UNIT = ""
SETTINGS = (*FRAMING, "n_chroma", "tuning")


def bins(settings: Parameters) -> int:
    return settings.n_chroma


def limits(settings: Parameters) -> tuple[Frames, Frames]:
    return ends(0, 1, settings.n_chroma)


def frames(waveform: Waveform, settings: Parameters) -> Frames:
    """Chroma frames of one waveform, (frames, n_chroma)."""
    power = magnitudes(waveform, n_fft=settings.n_fft, hop_length=settings.hop_length)
    power *= power
    tuning = settings.tuning if settings.tuning != "estimate" else _tuning_of(power, settings)
    chroma = power @ _filters(settings.sample_rate, settings.n_fft, settings.n_chroma, tuning).T
    largest = chroma.max(axis=1, keepdims=True)
    largest[largest < np.finfo(np.float32).tiny] = 1  # a silent frame stays as it is
    chroma /= largest
    return chroma


def _tuning_of(power: Frames, settings: Parameters) -> float:
    """How far a clip's tones lie from a tuning of A at 440 Hz, in parts of a pitch class."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Trying to estimate tuning from empty frequency set", UserWarning)
        return float(
            librosa("core.pitch").estimate_tuning(S=power.T, sr=settings.sample_rate, bins_per_octave=settings.n_chroma)
        )


@lru_cache(maxsize=256)  # a tuning is one of a hundred
def _filters(sample_rate: int, n_fft: int, n_chroma: int, tuning: float) -> Frames:
    """librosa's filters, (n_chroma, 1 + n_fft/2)."""
    return np.asarray(librosa("filters").chroma(sr=sample_rate, n_fft=n_fft, n_chroma=n_chroma, tuning=tuning))
