"""Clips that look wrong: silent, clipped, offset, of an unusual length or level, there twice, or nearly.

None of these is an error: a suspicious clip is read like any other, and what to do about it is the user's choice.

signal : (samples, channels) float32, full scale is [-1, 1).
level : RMS around the mean, in dB of full scale.

Labels are not used. Levels are compared among training clips alone: whether a test clip is
louder because its machine is faulty is for the detector to decide.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import joblib
import numpy as np
import numpy.typing as npt

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.clips.near_duplicates import comparable, near_duplicates
from features.clips.wav import UnreadableWav, signal_of
from features.progress import Progress

SuspicionKind = Literal[
    "silent",
    "clipped",
    "offset",
    "level",
    "length",
    "sample rate",
    "channels",
    "duplicate",
    "near-duplicate",
    "unreadable",
]

#: Below this a recording is silent: -80 dB of full scale, some three steps of 16 bits.
_SILENT = 1e-4
#: A clip is clipped from this share of cut-off samples on: at full scale, and below it.
_CLIPPED_AT_FULL_SCALE, _CLIPPED_BELOW = 1e-4, 1e-2
#: The peak that counts as full scale, and the least peak of a clipped clip: near silence, equal samples are the rule.
_FULL_SCALE, _LEAST_CLIPPED_PEAK = 0.99, 0.1
#: Equal extreme samples in a row that make a flat top.
_FLAT_TOP = 3
#: A robust z-score (median and MAD) beyond this is far off, if it is some decibels too.
_FAR, _LEAST_DISTANCE, _LEAST_SPREAD = 6.0, 6.0, 0.5  # z, dB, dB
#: The usual level of a machine ID needs this many training clips.
_LEAST_CLIPS = 8


@dataclass(frozen=True)
class Suspicion:
    """A possible fault of a clip."""

    name: str
    kind: SuspicionKind
    reason: str  # a phrase, with the numbers


@dataclass(frozen=True, kw_only=True)
class _Measures:
    """Measures of one clip's samples; where channels differ, those of the worst."""

    peak: float  # around the mean, of the channel that has the smallest
    channels: int
    level: float
    offset: float  # largest |mean|, over the RMS around it
    mean: float
    clipped: float  # share of samples that are cut off at the extremes
    longest_top: int  # samples
    highest: float  # largest |sample|
    digest: bytes  # of the samples and the rate, whatever they are encoded in


def inspect(corpus: Corpus, *, progress: Progress | None = None) -> list[Suspicion]:
    """Suspicious clips, in the order of their names. Reads every clip, and those that are compared a second time."""
    steps = len(corpus.clips) + len(comparable(corpus.clips))
    measured: dict[str, _Measures | str] = {}
    for clip, of_clip in zip(
        corpus.clips,
        joblib.Parallel(n_jobs=-1, prefer="threads", batch_size=16, return_as="generator")(
            joblib.delayed(_measure)(clip) for clip in corpus.clips
        ),
        strict=True,
    ):
        measured[clip.name] = of_clip
        if progress is not None:
            progress(len(measured), steps)
    read = {name: measures for name, measures in measured.items() if isinstance(measures, _Measures)}
    found = [Suspicion(name, "unreadable", str(why)) for name, why in measured.items() if name not in read]
    for name, measures in read.items():
        found += _of_samples(name, measures)
    found += _unlike_their_machine(corpus.clips)
    found += _of_unusual_level(corpus.clips, read)
    digests = {name: m.digest for name, m in read.items() if m.peak >= _SILENT}
    found += _duplicates(corpus.clips, digests)

    def compared(done: int, _: int) -> None:
        if progress is not None:
            progress(len(corpus.clips) + done, steps)

    for pair in near_duplicates(corpus.clips, progress=compared):
        one, other = digests.get(pair.clip.name), digests.get(pair.other.name)
        if one is not None and other is not None and one != other:  # silent and identical clips are reported already
            leak = "; it is tested on though that was trained on" if pair.other.split == "train" else ""
            found.append(Suspicion(pair.clip.name, "near-duplicate", f"{pair.relation}{leak}"))
    return sorted(found, key=lambda suspicion: suspicion.name)


def leaks(corpus: Corpus) -> list[tuple[Clip, Clip]]:
    """Pairs of a training and a test clip with the same contents, one for each such test clip. Reads no file."""
    trained = {clip.digest: clip for clip in reversed(corpus.clips) if clip.split == "train"}
    return [(trained[clip.digest], clip) for clip in corpus.clips if clip.split == "test" and clip.digest in trained]


def _measure(clip: Clip) -> _Measures | str:
    """A clip's measures, or why it has none."""
    try:
        signal = signal_of(clip.path.read_bytes())
    except UnreadableWav as error:
        return str(error)
    except OSError as error:
        return f"can no longer be read ({error.strerror})"
    mean = signal.mean(axis=0, dtype=np.float64)
    around = signal - mean.astype(np.float32)
    peaks = np.abs(around).max(axis=0)
    rms = np.sqrt(np.mean(np.square(around, dtype=np.float64), axis=0))
    offsets = np.abs(mean) / np.maximum(rms, np.finfo(np.float32).tiny)
    worst = int(offsets.argmax())
    tops = [_flat_tops(channel) for channel in np.ascontiguousarray(signal.T)]
    clipped, longest_top = max(tops)
    return _Measures(
        peak=float(peaks.min()),
        channels=len(peaks),
        level=_decibels(max(float(rms.max()), float(np.finfo(np.float32).tiny))),
        offset=float(offsets[worst]),
        mean=float(mean[worst]),
        clipped=clipped,
        longest_top=longest_top,
        highest=float(np.abs(signal).max()),
        digest=hashlib.sha256(f"{clip.sample_rate} {signal.shape}".encode() + signal.tobytes()).digest(),
    )


def _flat_tops(channel: npt.NDArray[np.float32]) -> tuple[float, int]:
    """Share of samples that are cut off at the extremes, and the longest row of them. `channel` is (samples,).

    Below full scale only rows count: single samples may have the same value by chance.
    """
    cut, longest = 0, 0
    for extreme in (channel.max(), channel.min()):
        at = np.concatenate([[False], channel == extreme, [False]])
        edges = np.flatnonzero(at[1:] != at[:-1])  # where rows start and end, by turns
        rows = edges[1::2] - edges[::2]
        if abs(extreme) < _FULL_SCALE:
            rows = rows[rows >= _FLAT_TOP]
        cut += int(rows.sum())
        longest = max(longest, int(rows.max(initial=0)))
    return (cut / len(channel) if cut >= _FLAT_TOP else 0.0), longest


def _of_samples(name: str, measures: _Measures) -> Iterator[Suspicion]:
    if measures.peak < _SILENT:
        level = "every sample is the same" if measures.peak == 0 else f"peak {_decibels(measures.peak):.0f} dBFS"
        where = "silent" if measures.channels == 1 else f"silent in at least one of {measures.channels} channels"
        yield Suspicion(name, "silent", f"{where}: {level}")
        return
    enough = _CLIPPED_AT_FULL_SCALE if measures.highest >= _FULL_SCALE else _CLIPPED_BELOW
    if measures.clipped >= enough and measures.highest >= _LEAST_CLIPPED_PEAK:
        yield Suspicion(
            name,
            "clipped",
            f"clipped: {100 * measures.clipped:.2g} % of its samples are cut off at {measures.highest:.2f}, "
            f"up to {measures.longest_top} in a row",
        )
    if measures.offset >= 1:
        yield Suspicion(
            name,
            "offset",
            f"a constant offset of {measures.mean:.2g} is {measures.offset:.2g} times as large as the sound (RMS)",
        )


def _unlike_their_machine(clips: Sequence[Clip]) -> Iterator[Suspicion]:
    """Clips of another sample rate, other channels or another length than most of their machine's."""
    of_machine: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.split != "supplemental":
            of_machine[clip.machine].append(clip)
    for machine, group in of_machine.items():
        for clip, usual in _unlike_most(group, lambda clip: clip.sample_rate):
            yield Suspicion(
                clip.name, "sample rate", f"{clip.sample_rate} Hz; most clips of {machine} have {usual:g} Hz"
            )
        for clip, usual in _unlike_most(group, lambda clip: clip.channels):
            yield Suspicion(clip.name, "channels", f"channels: {clip.channels}; most clips of {machine} have {usual:g}")
        for clip, usual in _unlike_most(group, _seconds):
            yield Suspicion(clip.name, "length", f"{_seconds(clip):g} s; most clips of {machine} last {usual:g} s")


def _of_unusual_level(clips: Sequence[Clip], measured: dict[str, _Measures]) -> Iterator[Suspicion]:
    of_id: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        if clip.split == "train" and clip.name in measured and measured[clip.name].peak >= _SILENT:
            of_id[clip.id_name].append(clip.name)
    for id_name, names in of_id.items():
        if len(names) < _LEAST_CLIPS:
            continue
        levels = np.array([measured[name].level for name in names])
        usual = float(np.median(levels))
        spread = max(1.4826 * float(np.median(np.abs(levels - usual))), _LEAST_SPREAD)
        for name, level in zip(names, levels, strict=True):
            z = (level - usual) / spread
            if abs(z) >= _FAR and abs(level - usual) >= _LEAST_DISTANCE:
                yield Suspicion(
                    name,
                    "level",
                    f"its level of {level:.0f} dBFS is far from the {usual:.0f} dBFS of training clips of {id_name} "
                    f"(robust z {z:+.1f})",
                )


def _duplicates(clips: Sequence[Clip], digests: dict[str, bytes]) -> Iterator[Suspicion]:
    """Clips with the samples of an earlier clip. Between train and test that is a leak; the test clip is reported."""
    first: dict[bytes, Clip] = {}
    for clip in sorted(clips, key=lambda clip: clip.split != "train"):
        digest = digests.get(clip.name)
        if digest is None:
            continue
        other = first.setdefault(digest, clip)
        if other is clip:
            continue
        leak = " and is tested on though it was trained on" if (other.split, clip.split) == ("train", "test") else ""
        yield Suspicion(clip.name, "duplicate", f"has the same samples as {other.name}{leak}")


def _seconds(clip: Clip) -> float:
    return round(clip.seconds, 3)


def _unlike_most(clips: Sequence[Clip], value: Callable[[Clip], float]) -> Iterator[tuple[Clip, float]]:
    """The clips that differ from the value of more than half of all clips, each with that value."""
    values = [value(clip) for clip in clips]
    usual, count = Counter(values).most_common(1)[0]
    if 2 * count > len(clips):
        yield from ((clip, usual) for clip, own in zip(clips, values, strict=True) if own != usual)


def _decibels(amplitude: float) -> float:
    return 20 * float(np.log10(amplitude))
