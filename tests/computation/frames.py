"""Numbers of every kind of feature, of frames brought to one scale, and of the bytes of a wav file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile

from features.clips.corpus import Corpus
from features.frames.feature_settings import FeatureSettings
from features.store.building import open_store
from features.windows.normalization import bin_limits
from tests.computation.case import Case, listed, spread_over, without_clips
from tests.computation.sounds import waveform

FEATURES: dict[str, dict[str, Any]] = {
    "logmel": {},
    "logmel of magnitudes": {"power": 1},
    "logmel from 300 to 6000 Hz": {"fmin": 300, "fmax": 6000},
    "logmel, normalize clip": {"normalize": "clip"},
    "mfcc": {"kind": "mfcc", "n_mfcc": 8},
    "mfcc of magnitudes": {"kind": "mfcc", "n_mfcc": 8, "power": 1},
    "chroma": {"kind": "chroma"},
    "chroma, tuning estimated": {"kind": "chroma", "tuning": "estimate"},
    "logspectrum": {"kind": "logspectrum"},
    "rms": {"kind": "rms"},
    "zero_crossings": {"kind": "zero_crossings"},
    "centroid": {"kind": "centroid"},
    "clip_spectrum": {"kind": "clip_spectrum", "n_bands": 200},
    "a stack": {"kind": "logmel+chroma+rms"},
    "a stack, normalize clip": {"kind": "logmel+centroid", "normalize": "clip"},
}


def settings(**changes: Any) -> FeatureSettings:
    return FeatureSettings.model_validate({"n_mels": 24, "n_fft": 512, "hop_length": 256, **changes})


def _frames(changes: dict[str, Any]) -> list[float]:
    features = settings(**changes)
    return [
        *spread_over(features.frames(waveform())),
        *(value for end in features.limits for value in listed(end[::8])),
    ]


def _resampled() -> list[float]:
    """The mean of two channels at 16 kHz, taken at 12 kHz."""
    file = io.BytesIO()
    soundfile.write(file, np.stack([waveform(), waveform()[::-1]], axis=1), 16000, "FLOAT", format="WAV")
    return spread_over(settings(sample_rate=12000, channel="mean", resample=True).waveform(file.getvalue()))


def _limits_of_bins(corpus: Corpus) -> list[float]:
    store = open_store(corpus.clips, settings(normalize="bin"))
    return [value for end in bin_limits(store, range(8)) for value in listed(end[::4])]


CASES: dict[str, Case] = {
    **{f"feature: {name}": without_clips(_frames, changes) for name, changes in FEATURES.items()},
    "features: two channels, resampled": without_clips(_resampled),
    "features: limits of bins over clips": _limits_of_bins,
}
