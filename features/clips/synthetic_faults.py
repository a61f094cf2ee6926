"""Synthetic faults in grades, added to recordings of a healthy machine: for machines without recordings of faults.

signal : (samples, channels) float, full scale is [-1, 1]; the signal with a fault has the same shape.
grade  : strength of a fault, proportional to what it adds or takes away. Grade 0 leaves a recording as it is; at
         grade 1 most people would hear the fault.

    knock      something loose strikes 2 to 20 times a second, and a resonance rings; its mean power is that of the
               recording around its frequency
    whine      a tone that was not there, with up to three harmonics: each as strong as the recording around it
    band loss  an octave is damped by 12 dB (half of that in dB at grade 0.5): a part no longer moves, or is covered
    speed      the whole recording is 8 % faster: a motor has lost its load
    noise      two octaves hiss twice as loud as the recording there: a leak, a dry bearing

These numbers are for grade 1. "Around" a frequency means the third of an octave that is centred on it. Each level is
relative to the recording itself around the fault's frequency, so that faults fit any machine, loud or quiet, dull or
bright; a silent recording stays silent. Frequency and rate differ from recording to recording, and are the same in all
grades. No fault models a particular machine.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import joblib
import numpy as np
import numpy.typing as npt
import scipy.fft

from features.cache import cache_folder
from features.clips.clip import ANOMALY, Clip
from features.clips.verified_reading import read_clip
from features.clips.wav import Signal, signal_of
from features.digests import digest_of
from features.errors import StoreError

FaultKind = Literal["knock", "whine", "band loss", "speed", "noise"]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
GRADES = (0.25, 0.5, 1.0)

#: Raised with each change to the sound of a fault.
VERSION = 1

#: Frequencies are drawn from the five octaves below this share of half the sample rate.
_HIGHEST, _OCTAVES = 0.8, 5.0
#: What counts as around a frequency, and the flank of a band (octaves).
_AROUND, _FLANK = 1 / 3, 1 / 6
#: Strokes a second, how irregular they are (of a period), and how long a resonance rings (its quality factor).
_STROKES, _JITTER, _QUALITY = (2.0, 20.0), 0.02, 20.0
_DAMPED, _FASTER, _LOUDER = 12.0, 0.08, 2.0  # dB, share, amplitude: at grade 1

_Array = npt.NDArray[np.float64]


def with_fault(signal: Signal, kind: FaultKind, grade: float, *, sample_rate: int, seed: int) -> Signal:
    """The recording with a fault, (samples, channels) float32: cut off at full scale, as a recorder would.

    sample_rate : Hz
    seed : decides where in the spectrum the fault is, and all other random numbers; the same for all grades.
    """
    full_scale = max(1.0, float(np.abs(signal).max()))  # files of floats may exceed 1
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    faulty = _FAULTS[kind](signal.astype(np.float64), grade, sample_rate, rng)
    return np.clip(faulty, -full_scale, full_scale).astype(np.float32)


def faulty_clip(clip: Clip, kind: FaultKind, grade: float) -> Clip:
    """A clip's recording with a fault, as an anomalous test clip with a file of its own.

    The file lies in the cache, as `<cache>/faults/<key>.wav`; the key is a digest of the recording, kind, grade and
    `VERSION`. The first process that needs it writes it, whole or not at all. The random numbers depend on the
    recording alone.

    Raises CorpusError if the clip is no longer what it was when the corpus was read, StoreError if the file cannot be
    written.
    """
    key = digest_of([str(VERSION), clip.digest, kind, str(grade)])[:32]
    path = faults_folder() / f"{key}.wav"
    try:
        if path.exists():
            os.utime(path)  # a file in use is not old
        else:
            signal = read_clip(clip, signal_of)
            seed = int(clip.digest[:16], 16)
            _write(path, with_fault(signal, kind, grade, sample_rate=clip.sample_rate, seed=seed), clip.sample_rate)
        status = path.stat()
        digest = _digest_of_file(path, status.st_ino, status.st_size)
    except OSError as error:
        raise StoreError(
            f"The clips with faults in {path.parent} cannot be written or read: {error.strerror or error}. "
            "$OFFKEY_CACHE names another folder."
        ) from error
    name = f"faults/{kind} {grade:g}/{clip.name}"
    return replace(clip, path=path, name=name, digest=digest, split="test", label=ANOMALY)


def faulty_clips(wanted: Sequence[tuple[Clip, FaultKind, float]]) -> Iterator[Clip]:
    """Yields the faulty clip of each clip, kind and grade, in their order; all cores are at work."""
    clips: Iterator[Clip] = joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
        joblib.delayed(faulty_clip)(clip, kind, grade) for clip, kind, grade in wanted
    )
    return clips


def faults_folder() -> Path:
    """The folder of files with synthetic faults. A file that was removed is written again when it is needed."""
    return cache_folder() / "faults"


def faulty_files(*, unused_since: float = math.inf) -> list[Path]:
    """The files in that folder, partial ones too, that nobody has used since a time (seconds since 1970)."""
    if not faults_folder().is_dir():
        return []
    return [path for path in faults_folder().iterdir() if path.stat().st_mtime < unused_since]


@cache
def _digest_of_file(path: Path, inode: int, size: int) -> str:
    """The digest of a file that never changes: it is written once, and replaced only by an equal one."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, signal: Signal, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        from scipy.io import wavfile  # here, as below: most processes add no fault and need not load it

        with partial.open("wb") as file:
            # libsndfile writes the time into a file of floats: digests of equal sounds would differ.
            wavfile.write(file, sample_rate, signal)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def _knock(signal: _Array, grade: float, sample_rate: int, rng: np.random.Generator) -> _Array:
    from scipy.signal import fftconvolve

    samples = len(signal)
    frequency = _drawn_frequency(sample_rate, rng)
    period = sample_rate / rng.uniform(*_STROKES)
    times = np.arange(rng.uniform(0, min(period, samples)), samples, period)
    times = np.clip(times + rng.normal(0, _JITTER * period, len(times)), 0, samples - 1).astype(np.int64)
    strokes = np.bincount(times, weights=rng.uniform(0.7, 1.3, len(times)), minlength=samples)
    fade = _QUALITY / (np.pi * frequency)  # seconds
    time = np.arange(int(6 * fade * sample_rate) + 1) / sample_rate
    ring = np.exp(-time / fade) * np.sin(2 * np.pi * frequency * time)
    # Unit mean power over a long time: that of a short clip's few strokes would depend on where the clip ends.
    ring *= np.sqrt(period / np.sum(ring**2))
    sound = fftconvolve(strokes, ring)[:samples]
    return np.asarray(signal + grade * sound[:, np.newaxis] * _levels(signal, np.array([frequency]), sample_rate))


def _whine(signal: _Array, grade: float, sample_rate: int, rng: np.random.Generator) -> _Array:
    frequency = _drawn_frequency(sample_rate, rng, below=2)
    frequencies: _Array = frequency * np.arange(1.0, rng.integers(1, 5) + 1)  # at most two octaves up
    phases = rng.uniform(0, 2 * np.pi, len(frequencies))
    time = np.arange(len(signal))[:, np.newaxis] / sample_rate
    tones = np.sqrt(2) * np.sin(2 * np.pi * frequencies * time + phases)  # (samples, tones), of unit power
    return np.asarray(signal + grade * tones @ _levels(signal, frequencies, sample_rate))


def _band_loss(signal: _Array, grade: float, sample_rate: int, rng: np.random.Generator) -> _Array:
    low = _drawn_frequency(sample_rate, rng, below=1)
    damped = _band(len(signal), sample_rate, low, 2 * low)
    return _filtered(signal, 10 ** (-_DAMPED * grade / 20 * damped)[:, np.newaxis])


def _speed(signal: _Array, grade: float, sample_rate: int, rng: np.random.Generator) -> _Array:
    # The end of the recording, reversed, fills the time that is missing after it. A cosine series, unlike a Fourier
    # series, continues the recording by its mirror image at both ends, so that nothing rings there.
    samples = len(signal)
    extended = np.pad(signal, ((0, round(samples * _FASTER * grade)), (0, 0)), mode="symmetric")
    cosines = scipy.fft.dct(extended, axis=0)[:samples]
    return np.asarray(scipy.fft.idct(cosines, axis=0) * (samples / len(extended)))


def _noise(signal: _Array, grade: float, sample_rate: int, rng: np.random.Generator) -> _Array:
    low = _drawn_frequency(sample_rate, rng, below=2)
    band = _band(len(signal), sample_rate, low, 4 * low)
    frequencies = _frequencies(len(signal), sample_rate)
    # Within the band the hiss has about the recording's own colour.
    colour = band[:, np.newaxis] * _levels(signal, frequencies, sample_rate)
    colour /= np.sqrt(np.maximum(frequencies, frequencies[1] if len(frequencies) > 1 else 1.0))[:, np.newaxis]
    hiss = _filtered(rng.normal(0, 1, (len(signal), 1)), colour)
    own, drawn = (np.sqrt(np.mean(part**2, axis=0)) for part in (_filtered(signal, band[:, np.newaxis]), hiss))
    scale = np.divide(own, drawn, out=np.zeros_like(own), where=drawn > 0)
    return np.asarray(signal + grade * _LOUDER * hiss * scale)


_FAULTS: dict[FaultKind, Callable[[_Array, float, int, np.random.Generator], _Array]] = {
    "knock": _knock,
    "whine": _whine,
    "band loss": _band_loss,
    "speed": _speed,
    "noise": _noise,
}


def _drawn_frequency(sample_rate: int, rng: np.random.Generator, *, below: float = 0.0) -> float:
    """A random frequency (Hz), at least `below` octaves below the highest."""
    return float(_HIGHEST * sample_rate / 2 * 2 ** -rng.uniform(below, _OCTAVES))


def _frequencies(samples: int, sample_rate: int) -> _Array:
    """The frequencies of the bins of a Fourier transform, (bins,) Hz."""
    return np.asarray(scipy.fft.rfftfreq(samples, 1 / sample_rate))


def _band(samples: int, sample_rate: int, low: float, high: float) -> _Array:
    """The share of each bin of a Fourier transform in a band, (bins,) in [0, 1], with flanks beside the band."""
    octaves = np.log2(np.maximum(_frequencies(samples, sample_rate), 1e-3))
    start, end = np.log2([low, high])
    flank = np.interp(octaves, [start - _FLANK, start, end, end + _FLANK], [0, 1, 1, 0])
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * flank))


def _filtered(signal: _Array, gains: _Array) -> _Array:
    """The signal, (samples, channels), with gains (bins, channels or 1) of its Fourier transform's bins."""
    return np.asarray(scipy.fft.irfft(scipy.fft.rfft(signal, axis=0) * gains, n=len(signal), axis=0))


def _levels(signal: _Array, frequencies: _Array, sample_rate: int) -> _Array:
    """RMS of the signal around each frequency, (frequencies, channels)."""
    spectrum = scipy.fft.rfft(signal, axis=0)
    power = 2 * np.abs(spectrum) ** 2 / len(signal) ** 2
    power[0] = 0  # a constant offset is no sound
    # Each bin's power is spread over the bin's width: in short clips a band is narrower than one bin.
    edges = (np.arange(len(power) + 1) - 0.5) * sample_rate / len(signal)
    below = np.concatenate([np.zeros((1, signal.shape[1])), np.cumsum(power, axis=0)])
    half = 2 ** (_AROUND / 2)
    within = [
        np.interp(frequencies * half, edges, channel) - np.interp(frequencies / half, edges, channel)
        for channel in below.T
    ]
    return np.asarray(np.sqrt(np.maximum(np.stack(within, axis=1), 0)))
