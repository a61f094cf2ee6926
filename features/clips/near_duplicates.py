"""Test clips that repeat another clip's recording: cut elsewhere, at another gain, encoded anew, with noise added.

Sounds of one machine are alike, so waveforms are compared, not spectra: the phases of two recordings are independent
however alike they sound, those of one recording are not. Within a machine ID, each test clip is
compared with its training clips and with its other test clips, by the generalized cross-correlation with phase
transform (Knapp and Carter, 1976) from 100 to 2000 Hz:

1. of whole clips, at up to 4096 frequencies: a pair is a candidate from a coherence of 0.1 on, and from five times
   that of chance;
2. of four parts of the stretch that a candidate shares, each cut to size and in a Hann window (between the harmonics of
   a sound that has few, there is only their leakage): each part reaches 0.5, and twice its coherence at any other
   offset. Strokes of a machine
   that are all alike coincide in some parts; a sound that repeats itself coincides at many offsets.

coherence : 1 for equal phases, about 1/√frequencies for independent ones.

Measured on recordings of 16 machines (MIMII, −6 and 0 dB): of 44850 pairs 14 are candidates, each one take of a machine
mixed with two backgrounds, and no other pair has a coherence above 0.09. One of the 14 reaches 0.5: that is where "the
same recording" ends. Copies are detected

- always: at a tenth of the level, resampled to 8 or 44.1 kHz, as MP3, with a fifth or more in common, with white noise
  6 dB below the recording, and faster by 0.01 %;
- in 95 % of cases: with white noise 3 dB below, or of 8 bits; in 70 %: with noise as loud as the recording;
- never: faster by 0.03 %.

Some different recordings pass for copies: periodic sounds in step, with noise 40 dB below, and strokes that are equal
to the sample and drown all else. 1000 clips of 10 s of one machine ID, 200 of them tests, take one core 18 s and 30 MB.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import scipy.fft

from features.clips.clip import Clip
from features.clips.wav import UnreadableWav, Waveform, read_waveform
from features.progress import Progress

Phases = npt.NDArray[np.complex64]  # (frequencies,) of absolute value 1, or 0 where there is no sound

#: Hz. Machines, rooms and codecs all have sound here; above, a clock's drift of 0.01 % would part two copies.
_LOWEST, _HIGHEST = 100, 2000
#: Frequencies of a sketch. It takes them at even steps: that folds the offsets, and leaves the coherence as it is.
_SKETCHED = 4096
#: The coherence from which a pair is compared more closely: at least this, and this many times 1/√frequencies.
_CANDIDATE, _BEYOND_CHANCE = 0.1, 5.0
#: Each test clip is compared with at most this many others: the most coherent.
_MOST_CANDIDATES = 8
#: The number of parts, the least coherence of each, and how many times that at any other offset it must be.
_PARTS, _COHERENT, _UNIQUE = 4, 0.5, 2.0
#: Seconds: the least that two clips share, and the most by which a part's offset may differ from the whole's.
_SHORTEST, _SLACK = 0.1, 0.002
#: A spectrum is padded to this many times its length to find an offset to less than a sample.
_FINER = 4


@dataclass(frozen=True, kw_only=True)
class NearDuplicate:
    """A test clip, and another that has a part of its recording."""

    clip: Clip
    other: Clip  # a training clip, or another test clip
    start: float  # s, where the shared part begins in `clip`
    other_start: float  # s, where it begins in `other`
    seconds: float  # shared
    gain: float  # dB of `clip` over `other`
    coherence: float  # of the part that has the least

    @property
    def relation(self) -> str:
        """The relation of the two clips, as a phrase."""
        phrase = f"{self.seconds:.2f} s of it are the same recording as {self.other.name}"
        differences = []
        if abs(self.start - self.other_start) >= 0.0005:
            differences.append(f"from {self.start:.3f} s on what that has from {self.other_start:.3f} s on")
        if abs(self.gain) >= 0.1:
            differences.append(f"{abs(self.gain):.1f} dB {'louder' if self.gain > 0 else 'quieter'}")
        return ", ".join([phrase, *differences, f"coherence {self.coherence:.2f}"])


def near_duplicates(clips: Sequence[Clip], *, progress: Progress | None = None) -> list[NearDuplicate]:
    """Pairs of a test clip with a training clip, or with a later test clip, that share a recording.

    Reads the samples of machine IDs that have a test clip, as the mean of their channels. A clip that cannot be read
    has no duplicates. `progress` counts `comparable` clips.
    """
    found: list[NearDuplicate] = []
    total, done = len(comparable(clips)), 0
    for members in _by_id(clips).values():
        seconds = max(clip.seconds for clip in members)
        tests = sum(clip.split == "test" for clip in members)
        sketches = _parallel(joblib.delayed(_sketch_of)(clip, seconds) for clip in members)
        rows = np.zeros((len(members), _frequencies(seconds, sketched=True)), np.complex64)
        for row, sketch in enumerate(sketches):
            rows[row] = sketch
            if row >= tests:  # a test clip counts when it is compared
                done += 1
                if progress is not None:
                    progress(done, total)
        for of_clip in _parallel(joblib.delayed(_copies_of)(members, row, rows, seconds) for row in range(tests)):
            found += of_clip
            done += 1
            if progress is not None:
                progress(done, total)
    return sorted(found, key=lambda pair: (pair.clip.name, pair.other.name))


def comparable(clips: Sequence[Clip]) -> list[Clip]:
    """The clips that are compared: of machine IDs that have a test clip, without the supplemental ones."""
    return [clip for members in _by_id(clips).values() for clip in members]


def _by_id(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """Clips of each machine ID that can have copies, test clips first."""
    by_id: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.split != "test"):
        if clip.split != "supplemental" and clip.seconds >= _SHORTEST:
            by_id[clip.id_name].append(clip)
    return {name: members for name, members in by_id.items() if members[0].split == "test" and len(members) > 1}


def _copies_of(members: Sequence[Clip], row: int, sketches: Phases, seconds: float) -> list[NearDuplicate]:
    """The copies of one test clip among the clips after it. `sketches` is (clips, frequencies)."""
    peaks = np.array([_coherences(sketches[row], other).max() for other in sketches[row + 1 :]])
    enough = max(_CANDIDATE, _BEYOND_CHANCE / np.sqrt(sketches.shape[1]))
    found = []
    for other in np.argsort(-peaks, kind="stable")[:_MOST_CANDIDATES]:
        if peaks[other] >= enough:
            pair = _compared(members[row], members[row + 1 + other], seconds)
            if pair is not None:
                found.append(pair)
    return found


def _compared(clip: Clip, other: Clip, seconds: float) -> NearDuplicate | None:
    """The stretch that two clips share; None if they share nothing. `seconds` is at least the longer one's length."""
    try:
        waveforms = _waveform(clip), _waveform(other)
    except (UnreadableWav, OSError):
        return None
    rates = clip.sample_rate, other.sample_rate
    one, two = (_phases(of, rate, seconds) for of, rate in zip(waveforms, rates, strict=True))
    coherences = _coherences(one, two)
    offset = int(coherences.argmax()) * seconds / len(coherences)
    best: NearDuplicate | None = None
    for start in (offset, offset - seconds):  # offsets are cyclic
        begin, end = max(0.0, start), min(clip.seconds, other.seconds + start)
        if end - begin < _SHORTEST:
            continue
        shared = [
            waveform[round(at * rate) : round((at + end - begin) * rate)]
            for waveform, rate, at in zip(waveforms, rates, (begin, begin - start), strict=True)
        ]
        coherence = _of_parts(shared, rates, end - begin)
        if coherence < max(_COHERENT, 0.0 if best is None else best.coherence):
            continue
        levels = [float(part.std(dtype=np.float64)) for part in shared]
        best = NearDuplicate(
            clip=clip,
            other=other,
            start=begin,
            other_start=begin - start,
            seconds=end - begin,
            gain=20 * float(np.log10(levels[0] / levels[1])),
            coherence=coherence,
        )
    return best


def _of_parts(shared: Sequence[Waveform], rates: Sequence[int], seconds: float) -> float:
    """The least coherence of two aligned waveforms' parts; 0 if one of them has hardly less at another offset."""
    least = 1.0
    for of_both in zip(*(np.array_split(waveform, _PARTS) for waveform in shared), strict=True):
        one, other = (
            _phases(part * np.hanning(len(part)), rate, seconds / _PARTS)
            for part, rate in zip(of_both, rates, strict=True)
        )
        coherences = _coherences(one, other, finer=_FINER)
        slack = int(_SLACK * len(coherences) / (seconds / _PARTS)) + 1
        here = max(coherences[: slack + 1].max(), coherences[-slack:].max())
        unique = here >= _UNIQUE * coherences[slack + 1 : -slack].max(initial=0.0)
        least = min(least, float(here)) if unique else 0.0
    return least


def _coherences(one: Phases, other: Phases, *, finer: int = 1) -> npt.NDArray[np.float32]:
    """The coherence of two phases at all offsets of `one` against `other`, evenly over their time: (offsets,)."""
    offsets = finer * scipy.fft.next_fast_len(len(one))
    correlation = scipy.fft.ifft(one * other.conj(), n=offsets, overwrite_x=True)
    return np.asarray(np.abs(correlation) * np.float32(offsets / len(one)))


def _sketch_of(clip: Clip, seconds: float) -> Phases:
    """The sketch of a clip, (frequencies,): its phases at even steps; all 0 if the clip cannot be read."""
    try:
        return _phases(_waveform(clip), clip.sample_rate, seconds)[:: _stride(seconds)]
    except (UnreadableWav, OSError):
        return np.zeros(_frequencies(seconds, sketched=True), np.complex64)


def _phases(waveform: Waveform, sample_rate: int, seconds: float) -> Phases:
    """Phases of a waveform padded to this length (seconds): the same frequencies at any sample rate."""
    around = waveform - waveform.mean(dtype=np.float64).astype(np.float32)
    spectrum = scipy.fft.rfft(around.astype(np.float32), n=round(seconds * sample_rate))
    band = np.zeros(_frequencies(seconds), np.complex64)
    inside = spectrum[round(_LOWEST * seconds) : round(_LOWEST * seconds) + len(band)]
    band[: len(inside)] = inside
    magnitude = np.abs(band)
    return np.divide(band, magnitude, out=np.zeros_like(band), where=magnitude > 0)


def _frequencies(seconds: float, *, sketched: bool = False) -> int:
    every = round((_HIGHEST - _LOWEST) * seconds)
    return len(range(0, every, _stride(seconds))) if sketched else every


def _stride(seconds: float) -> int:
    return max(1, -(-round((_HIGHEST - _LOWEST) * seconds) // _SKETCHED))


def _waveform(clip: Clip) -> Waveform:
    return read_waveform(clip.path, channel="mean")


def _parallel(calls: Iterable[Any]) -> Iterator[Any]:
    """The results of the calls, in order."""
    results: Iterator[Any] = joblib.Parallel(n_jobs=-1, prefer="threads", batch_size=16, return_as="generator")(calls)
    return results
