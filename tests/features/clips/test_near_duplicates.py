"""Copies of a recording are found whatever was done to them; recordings that only sound alike are not taken for any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from features.clips.corpus import read_corpus
from features.clips.near_duplicates import NearDuplicate, comparable, near_duplicates
from features.clips.synthetic_corpus import synthesize

RATE = 16000
SECONDS = 2
Samples = npt.NDArray[Any]

TRAIN, TEST, OTHER = (f"fan/{split}/normal_id_00_{number:08d}.wav" for split, number in (
    ("train", 0), ("test", 1), ("test", 2)))  # fmt: skip


def machine(seed: int, *, seconds: float = SECONDS) -> Samples:
    """A recording of one machine: its sound is the same each time, its noise is not."""
    return synthesize("00", np.random.default_rng(seed), seconds=seconds)


def noise(seed: int, like: Samples, *, decibels: float) -> Samples:
    """White noise that is louder than a recording by so much."""
    return np.random.default_rng(seed).normal(0, like.std() * 10 ** (decibels / 20), len(like))


def write(root: Path, clips: dict[str, Samples], *, rate: int = RATE, subtype: str = "PCM_16") -> None:
    for name, samples in clips.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, samples, rate, subtype)


def found(root: Path) -> list[NearDuplicate]:
    return near_duplicates(read_corpus(root).clips)


RECORDING = machine(0, seconds=3)
WHOLE = RECORDING[: 2 * RATE]
COPIES: dict[str, tuple[Samples, dict[str, Any]]] = {
    "a tenth of the level": (0.1 * WHOLE, {}),
    "upside down, in 24 bits": (-WHOLE, {"subtype": "PCM_24"}),
    "in 8 bits": (WHOLE, {"subtype": "PCM_U8"}),
    "of 44.1 kHz": (scipy.signal.resample(WHOLE, 2 * 44100), {"rate": 44100}),
    "of 8 kHz": (scipy.signal.resample(WHOLE, 2 * 8000), {"rate": 8000}),
    "37 samples later": (RECORDING[37 : 37 + 2 * RATE], {}),
    "half a second later": (RECORDING[RATE // 2 : RATE // 2 + 2 * RATE], {}),
    "with half in common": (RECORDING[RATE : 3 * RATE], {}),
    "shorter": (WHOLE[RATE // 2 : -RATE // 2], {}),
    "with noise 10 dB below": (WHOLE + noise(1, WHOLE, decibels=-10), {}),
    "through a high-pass": (scipy.signal.lfilter([1, -0.95], [1], WHOLE), {}),
    "as one of two channels": (np.stack([WHOLE, WHOLE], axis=1), {}),
}


@pytest.mark.parametrize(("samples", "options"), COPIES.values(), ids=COPIES)
def test_a_copy_is_found_whatever_was_done_to_it(tmp_path: Path, samples: Samples, options: dict[str, Any]) -> None:
    write(tmp_path, {TRAIN: WHOLE})
    write(tmp_path, {TEST: samples}, **options)

    (pair,) = found(tmp_path)

    assert (pair.clip.name, pair.other.name) == (TEST, TRAIN)


def hum(seed: int) -> Samples:
    """Of a machine that is switched on at some time: the same waveform, from another sample on."""
    time = np.arange(SECONDS * RATE) / RATE + np.random.default_rng(seed).uniform()
    samples = 0.1 * scipy.signal.sawtooth(2 * np.pi * 25 * time)
    return np.asarray(samples + noise(seed, samples, decibels=-40))


def strokes(seed: int) -> Samples:
    """A stroke of 0.2 s, twice, at times of its own."""
    stroke = np.random.default_rng(99).normal(0, 0.1, RATE // 5) * np.hanning(RATE // 5)
    samples = np.random.default_rng(seed).normal(0, 0.5 * stroke.std(), SECONDS * RATE)
    for half, start in enumerate(np.random.default_rng(seed).integers(0, RATE - len(stroke), 2)):
        start += half * RATE
        samples[start : start + len(stroke)] += stroke
    return samples


ALIKE: dict[str, Callable[[int], Samples]] = {
    "recordings of one machine": machine,
    "one sound that repeats itself 25 times a second, with noise 40 dB below": hum,
    "strokes that are all alike, in other places, with noise 6 dB below": strokes,
    "noise of one spectrum": lambda seed: 0.05 * scipy.signal.lfilter([1], [1, -0.9], noise(seed, WHOLE, decibels=0)),
    "digital silence": lambda seed: np.zeros(SECONDS * RATE),
}


@pytest.mark.parametrize("sound", ALIKE.values(), ids=ALIKE)
def test_recordings_that_sound_alike_are_no_copies(tmp_path: Path, sound: Callable[[int], Samples]) -> None:
    for seed in range(4):
        write(tmp_path, {f"fan/train/normal_id_00_{seed:08d}.wav": sound(seed)})
        write(tmp_path, {f"fan/test/normal_id_00_{seed:08d}.wav": sound(100 + seed)})

    assert found(tmp_path) == []


@settings(max_examples=12, deadline=None, database=None)
@given(shift=st.integers(-RATE, RATE), gain=st.floats(-20, 10))
def test_where_the_shared_part_lies_and_how_loud_it_is_are_told(
    tmp_path_factory: pytest.TempPathFactory, shift: int, gain: float
) -> None:
    root = tmp_path_factory.mktemp("cut")
    start = max(0, -shift)
    write(root, {TRAIN: RECORDING[start : start + 2 * RATE]}, subtype="FLOAT")
    start += shift
    write(root, {TEST: 10 ** (gain / 20) * RECORDING[start : start + 2 * RATE]}, subtype="FLOAT")

    (pair,) = found(root)

    assert pair.other_start - pair.start == pytest.approx(shift / RATE, abs=0.0005)
    assert pair.seconds == pytest.approx(SECONDS - abs(shift) / RATE, abs=0.0005)
    assert pair.gain == pytest.approx(gain, abs=0.1)
    assert pair.coherence > 0.9


def test_a_phrase_says_how_two_clips_hang_together(tmp_path: Path) -> None:
    write(tmp_path, {TRAIN: RECORDING[: 2 * RATE], TEST: 0.5 * RECORDING[RATE : 3 * RATE]})

    (pair,) = found(tmp_path)

    assert pair.relation == (
        f"1.00 s of it are the same recording as {TRAIN}, from 0.000 s on what that has from 1.000 s on, 6.0 dB "
        "quieter, coherence 1.00"
    )


@pytest.mark.parametrize(
    ("one", "other", "pairs"),
    [
        (TRAIN, TEST, [(TEST, TRAIN)]),
        (TEST, OTHER, [(TEST, OTHER)]),
        (TRAIN, TRAIN.replace("0.wav", "9.wav"), []),  # that weighs a recording twice, and leaks nothing
        (TRAIN, TEST.replace("id_00", "id_02"), []),
        (TEST, "fan/supplemental/section_00_machine_0000.wav", []),
    ],
    ids=["train and test", "test and test", "train and train", "another ID", "supplemental"],
)
def test_test_clips_are_compared_with_clips_of_their_own_id(
    tmp_path: Path, one: str, other: str, pairs: list[tuple[str, str]]
) -> None:
    write(tmp_path, {one: WHOLE, other: 0.5 * WHOLE})

    assert [(pair.clip.name, pair.other.name) for pair in found(tmp_path)] == pairs


def test_labels_are_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path, {TRAIN: WHOLE, TEST.replace("normal", "anomaly"): 0.5 * WHOLE, OTHER.replace("normal_", ""): WHOLE})

    assert len(found(tmp_path)) == 3


def test_a_clip_that_cannot_be_read_any_more_has_no_copies_and_the_others_are_compared(tmp_path: Path) -> None:
    write(tmp_path, {TRAIN: WHOLE, TEST: 0.5 * WHOLE, OTHER: 0.5 * WHOLE})
    clips = read_corpus(tmp_path).clips
    (tmp_path / OTHER).unlink()

    assert [(pair.clip.name, pair.other.name) for pair in near_duplicates(clips)] == [(TEST, TRAIN)]


def test_clips_of_a_few_samples_and_of_other_lengths_are_compared_with_none(tmp_path: Path) -> None:
    write(tmp_path, {TRAIN: WHOLE[:100], TEST: WHOLE[:50], OTHER: WHOLE})

    assert found(tmp_path) == []


def test_progress_is_told_to_the_last_clip_that_is_compared(tmp_path: Path) -> None:
    write(tmp_path, {TRAIN: WHOLE, TEST: machine(1), OTHER: machine(2), "fan/train/normal_id_02_00000000.wav": WHOLE})
    clips = read_corpus(tmp_path).clips
    calls: list[tuple[int, int]] = []

    near_duplicates(clips, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(number, 3) for number in range(1, 4)]
    assert len(comparable(clips)) == 3
