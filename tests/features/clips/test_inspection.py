from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from features.clips.corpus import read_corpus
from features.clips.inspection import Suspicion, inspect, leaks

RATE = 16000
SAMPLES = 4000
Samples = npt.NDArray[Any]


def noise(seed: int = 0, *, level: float = 0.05, samples: int = SAMPLES) -> Samples:
    return np.random.default_rng(seed).normal(0, level, samples)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Writes a clip below the root; nine ordinary training clips of the same machine lie there already."""

    def write(name: str, samples: Samples, *, rate: int = RATE, subtype: str = "PCM_16") -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype)

    for number in range(9):
        write(f"fan/train/normal_id_00_{number:08d}.wav", noise(100 + number))
    return write


def found(root: Path) -> list[tuple[str, str]]:
    return [(suspicion.name, suspicion.reason) for suspicion in inspect(read_corpus(root))]


def square(level: float) -> Samples:
    """Noise with one row of ten equal samples at the top: 0.25 % of it."""
    samples = np.clip(noise(level=level / 8), -0.9 * level, 0.9 * level)
    samples[2000:2010] = level
    return samples


def stereo(left: Samples, right: Samples) -> Samples:
    return np.stack([left, right], axis=1)


NAME = "fan/test/anomaly_id_00_00000000.wav"
SUSPICIOUS: dict[str, tuple[Samples, dict[str, Any], str]] = {
    "digital silence": (np.zeros(SAMPLES), {}, "silent: every sample is the same"),
    "a constant": (np.full(SAMPLES, 0.3), {"subtype": "FLOAT"}, "silent: every sample is the same"),
    "the last bit's noise": (np.resize([0, 1], SAMPLES).astype(np.int16), {}, "silent: peak -96 dBFS"),
    "clipped at full scale": (
        np.clip(noise(level=0.5), -1, 1), {},
        "clipped: 4.3 % of its samples are cut off at 1.00, up to 2 in a row",
    ),
    "clipped before the gain was lowered": (
        0.5 * np.clip(np.sin(np.arange(SAMPLES) / 20), -0.8, 0.8), {},
        "clipped: 41 % of its samples are cut off at 0.40, up to 26 in a row",
    ),
    "an offset": (
        noise() + 0.25, {}, "a constant offset of 0.25 is 5 times as large as the sound (RMS)",
    ),
    "another length": (noise(samples=SAMPLES // 2), {}, "0.125 s; most clips of fan last 0.25 s"),
    "another rate": (noise(samples=11025), {"rate": 44100}, "44100 Hz; most clips of fan have 16000 Hz"),
    "the samples of a training clip": (
        noise(103), {},
        "has the same samples as fan/train/normal_id_00_00000003.wav and is tested on though it was trained on",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("samples", "options", "reason"), SUSPICIOUS.values(), ids=SUSPICIOUS)
def test_a_clip_that_looks_wrong_is_named_with_the_numbers(
    tmp_path: Path, write: Callable[..., None], samples: Samples, options: dict[str, Any], reason: str
) -> None:
    write(NAME, samples, **options)
    assert found(tmp_path) == [(NAME, reason)]


ORDINARY: dict[str, tuple[Samples, dict[str, Any]]] = {
    "noise": (noise(), {}),
    "loud noise in a test clip, which may be what the detector is to find": (noise(level=0.2), {}),
    "quiet noise of 8 bits, where equal samples are the rule": (noise(level=0.02), {"subtype": "PCM_U8"}),
    "a single sample at full scale": (np.where(np.arange(SAMPLES) == 500, 1.0, noise()), {}),
    "one short flat top below full scale": (square(0.6), {}),
    "24 bits": (noise(), {"subtype": "PCM_24"}),
    "a small offset": (noise() + 0.02, {}),
}


@pytest.mark.parametrize(("samples", "options"), ORDINARY.values(), ids=ORDINARY)
def test_an_ordinary_clip_is_not_suspected(
    tmp_path: Path, write: Callable[..., None], samples: Samples, options: dict[str, Any]
) -> None:
    write(NAME, samples, **options)
    assert found(tmp_path) == []


@pytest.mark.parametrize(("level", "said"), [(0.5, "-6 dBFS"), (0.005, "-46 dBFS")], ids=["loud", "quiet"])
def test_a_training_clip_whose_level_is_far_from_the_others_is_named(
    tmp_path: Path, write: Callable[..., None], level: float, said: str
) -> None:
    name = "fan/train/normal_id_00_00000099.wav"
    write(name, np.clip(noise(level=level), -0.98, 0.98) if level < 0.1 else 0.7 * np.sin(np.arange(SAMPLES) / 3))
    [(suspect, reason)] = found(tmp_path)
    assert suspect == name
    assert reason.startswith(f"its level of {said} is far from the -26 dBFS of training clips of fan/00 (robust z ")


def test_too_few_clips_have_no_usual_level(tmp_path: Path, write: Callable[..., None]) -> None:
    for number in range(6):
        write(f"pump/train/normal_id_00_{number:08d}.wav", noise(number))
    write("pump/train/normal_id_00_00000099.wav", noise(7, level=0.001))
    assert found(tmp_path) == []


def test_lengths_that_all_differ_are_usual(tmp_path: Path, write: Callable[..., None]) -> None:
    for number in range(4):
        write(f"pump/train/normal_id_00_{number:08d}.wav", noise(number, samples=SAMPLES + 160 * number))
    assert found(tmp_path) == []


def test_a_channel_that_is_silent_or_too_many_are_named(tmp_path: Path, write: Callable[..., None]) -> None:
    write(NAME, stereo(noise(), np.zeros(SAMPLES)))
    assert found(tmp_path) == [
        (NAME, "silent in at least one of 2 channels: every sample is the same"),
        (NAME, "channels: 2; most clips of fan have 1"),
    ]


def test_the_same_samples_are_found_whatever_they_are_encoded_in(tmp_path: Path, write: Callable[..., None]) -> None:
    samples = (32767 * noise(5)).astype(np.int16)
    write("fan/test/a.wav", samples)
    write("fan/test/b.wav", samples.astype(np.float32) / 32768, subtype="FLOAT")
    assert found(tmp_path) == [("fan/test/b.wav", "has the same samples as fan/test/a.wav")]


@pytest.mark.parametrize(
    ("split", "leak"),
    [("train", "; it is tested on though that was trained on"), ("test", "")],
)
def test_a_test_clip_that_is_a_part_of_another_recording_is_named_with_what_they_share(
    tmp_path: Path, write: Callable[..., None], split: str, leak: str
) -> None:
    other = f"fan/{split}/normal_id_00_00000098.wav"
    write(other, noise(5, samples=SAMPLES + 1600)[:SAMPLES])
    write("fan/test/normal_id_00_00000099.wav", 0.5 * noise(5, samples=SAMPLES + 1600)[1600:])
    names = (other, "fan/test/normal_id_00_00000099.wav")
    one, two, starts = (*names[::-1], ("0.000", "0.100")) if split == "train" else (*names, ("0.100", "0.000"))
    assert found(tmp_path) == [
        (
            one,
            f"0.15 s of it are the same recording as {two}, from {starts[0]} s on what that has from {starts[1]} s on, "
            f"6.0 dB {'quieter' if split == 'train' else 'louder'}, coherence 1.00{leak}",
        )
    ]


def test_the_same_samples_are_said_to_be_that_and_nothing_less(tmp_path: Path, write: Callable[..., None]) -> None:
    write(NAME, noise(103))
    assert [suspicion.kind for suspicion in inspect(read_corpus(tmp_path))] == ["duplicate"]


def test_supplemental_clips_have_lengths_of_their_own(tmp_path: Path, write: Callable[..., None]) -> None:
    write("fan/supplemental/section_00_noise_0000.wav", noise(samples=100))
    assert found(tmp_path) == []


def test_a_clip_that_has_gone_is_said_to_be_and_the_others_are_inspected(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    write(NAME, np.zeros(SAMPLES))
    corpus = read_corpus(tmp_path)
    (tmp_path / "fan/train/normal_id_00_00000002.wav").unlink()
    assert inspect(corpus) == [
        Suspicion(NAME, "silent", "silent: every sample is the same"),
        Suspicion(
            "fan/train/normal_id_00_00000002.wav", "unreadable", "can no longer be read (No such file or directory)"
        ),
    ]


def test_progress_is_told_to_the_last_clip(tmp_path: Path, write: Callable[..., None]) -> None:
    write(NAME, noise())  # the ten of its ID are compared, once each has been measured
    calls: list[tuple[int, int]] = []
    inspect(read_corpus(tmp_path), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 20) for number in range(1, 21)]


class TestLeaks:
    def test_are_test_clips_with_the_contents_of_a_training_clip(
        self, tmp_path: Path, write: Callable[..., None]
    ) -> None:
        write("fan/train/normal_id_00_00000050.wav", noise(103))  # the same as number 3
        write("fan/test/normal_id_00_00000000.wav", noise(103))
        write("pump/test/id_00_00000000.wav", noise(104))  # of another machine
        write("fan/test/normal_id_00_00000001.wav", noise(1))
        assert [(trained.name, tested.name) for trained, tested in leaks(read_corpus(tmp_path))] == [
            ("fan/train/normal_id_00_00000003.wav", "fan/test/normal_id_00_00000000.wav"),
            ("fan/train/normal_id_00_00000004.wav", "pump/test/id_00_00000000.wav"),
        ]

    def test_are_none_among_clips_of_one_split_or_supplemental_ones(
        self, tmp_path: Path, write: Callable[..., None]
    ) -> None:
        write("fan/train/normal_id_00_00000050.wav", noise(103))
        write("fan/supplemental/section_00_machine_0000.wav", noise(103))
        write("fan/test/a.wav", noise(1))
        write("fan/test/b.wav", noise(1))
        assert leaks(read_corpus(tmp_path)) == []

    def test_are_found_without_reading_a_file(self, tmp_path: Path, write: Callable[..., None]) -> None:
        write(NAME, noise(103))
        corpus = read_corpus(tmp_path)
        for clip in corpus.clips:
            clip.path.unlink()
        assert len(leaks(corpus)) == 1
