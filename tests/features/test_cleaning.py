"""Training clips that do not sound like the rest of their machine ID: found by each method, and left out by share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from features.cleaning import OUTLYING, CleaningSettings, Method, clean, deviations
from features.cleaning import _robust_deviations as robust_deviations
from features.clips.corpus import Corpus, read_corpus
from features.frames.feature_settings import FeatureSettings

FEATURES = FeatureSettings(n_mels=16, n_fft=256, hop_length=128)
RATE, SAMPLES, CLIPS = 16000, 8000, 20


def machine(number: int) -> npt.NDArray[np.float64]:
    """A hum in noise, each recording a little different."""
    rng = np.random.default_rng(number)
    time = np.arange(SAMPLES) / RATE
    return (0.1 + 0.005 * rng.normal()) * np.sin(2 * np.pi * 200 * time) + 0.01 * rng.normal(size=SAMPLES)


def hiss(number: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(number).normal(0, 0.072, SAMPLES)  # as loud as the hum


def beeps(number: int) -> npt.NDArray[np.float64]:
    time = np.arange(SAMPLES) / RATE
    return machine(number) + 0.05 * np.sin(2 * np.pi * 3000 * time) * (time % 0.1 < 0.05)


def write(root: Path, sounds: dict[str, npt.NDArray[np.float64]]) -> Corpus:
    for name, sound in sounds.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, RATE, "PCM_16")
    return read_corpus(root)


def with_one(odd: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    sounds = {f"fan/train/normal_id_00_{number:08d}.wav": machine(number) for number in range(CLIPS)}
    return sounds | {"fan/train/normal_id_00_00000007.wav": odd}


ODD: dict[str, tuple[npt.NDArray[np.float64], Method, str, str]] = {
    "silence by its loudness": (0.001 * machine(7), "rms", "loudness (RMS): ", "below"),
    "a shout by its loudness": (5 * machine(7), "rms", "loudness (RMS): ", "above"),
    "hiss by its zero crossings": (hiss(7), "zero_crossings", "zero crossings: ", "above"),
    "hiss by its centroid": (hiss(7), "centroid", "spectral centroid: ", "above"),
    "a shout by the largest of the three": (5 * machine(7), "zscore", "loudness (RMS): ", "above"),
    "beeps by their neighbours": (beeps(7), "neighbours", "distance to its nearest neighbours", "above"),
}


@pytest.mark.parametrize(("odd", "method", "reason", "side"), ODD.values(), ids=ODD)
def test_the_clip_that_sounds_odd_lies_farthest_and_the_reason_says_by_what(
    tmp_path: Path, odd: npt.NDArray[np.float64], method: Method, reason: str, side: str
) -> None:
    corpus = write(tmp_path, with_one(odd))
    found = deviations(corpus.clips, corpus, method, FEATURES)
    assert [outlier.clip for outlier in found] == list(corpus.clips)
    worst = max(found, key=lambda outlier: outlier.deviation)
    assert worst.clip.path.name == "normal_id_00_00000007.wav"
    assert worst.deviation > OUTLYING
    assert worst.reason.startswith(reason)
    told = f"{worst.deviation:.1f} robust standard deviations {side} its machine ID's median"
    assert worst.reason.endswith(told)

    kept, dropped = clean(corpus.clips, corpus, CleaningSettings(method=method, drop=0.05), FEATURES)
    assert [outlier.clip.path.name for outlier in dropped] == ["normal_id_00_00000007.wav"]
    assert [*kept] == [clip for clip in corpus.clips if clip != worst.clip]


@pytest.mark.parametrize(("drop", "clips"), [(0.0, 0), (0.04, 0), (0.05, 1), (0.149, 2), (0.15, 3), (0.5, 10)])
def test_never_more_than_the_share_of_a_machine_id_is_dropped(tmp_path: Path, drop: float, clips: int) -> None:
    sounds = with_one(hiss(7)) | {f"fan/train/normal_id_02_{n:08d}.wav": 3 * machine(n) for n in range(CLIPS)}
    corpus = write(tmp_path, sounds)
    _, dropped = clean(corpus.clips, corpus, CleaningSettings(method="zscore", drop=drop), FEATURES)
    assert [outlier.clip.machine_id for outlier in dropped] == ["00"] * clips + ["02"] * clips


def test_a_machine_id_and_a_domain_are_compared_with_themselves_alone(tmp_path: Path) -> None:
    sounds = {f"fan/train/section_00_source_train_normal_{n:04d}.wav": machine(n) for n in range(CLIPS)}
    sounds |= {f"fan/train/section_00_target_train_normal_{n:04d}.wav": hiss(n) for n in range(4)}
    sounds |= {f"fan/train/section_01_source_train_normal_{n:04d}.wav": hiss(50 + n) for n in range(4)}
    corpus = write(tmp_path, sounds)
    found = deviations(corpus.clips, corpus, "centroid", FEATURES)
    assert max(outlier.deviation for outlier in found) < 10, "they would lie hundreds of deviations from each other"


def test_nothing_is_dropped_and_nothing_computed_without_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write(tmp_path / "clips", with_one(hiss(7)))
    monkeypatch.setenv("OFFKEY_CACHE", str(tmp_path / "cache"))
    assert clean(corpus.clips, corpus, CleaningSettings(), FEATURES) == (corpus.clips, ())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("method", ["zscore", "neighbours"])
@pytest.mark.parametrize("clips", [1, 2])
def test_an_id_with_hardly_any_clips_has_no_outlier(tmp_path: Path, method: Method, clips: int) -> None:
    corpus = write(tmp_path, {f"fan/train/normal_id_00_{n:08d}.wav": [machine, hiss][n](n) for n in range(clips)})
    assert all(outlier.deviation < OUTLYING for outlier in deviations(corpus.clips, corpus, method, FEATURES))


def test_clips_that_are_all_the_same_lie_nowhere_apart(tmp_path: Path) -> None:
    corpus = write(tmp_path, {f"fan/train/normal_id_00_{n:08d}.wav": machine(0) for n in range(5)})
    for method in ("zscore", "neighbours"):
        found = deviations(corpus.clips, corpus, method, FEATURES)
        assert [outlier.deviation for outlier in found] == [0] * 5


def test_short_frames_have_as_many_bands_as_they_can(tmp_path: Path) -> None:
    corpus = write(tmp_path, with_one(beeps(7)))
    features = FeatureSettings(kind="rms", n_fft=64, hop_length=64)
    found = deviations(corpus.clips, corpus, "neighbours", features)
    assert max(found, key=lambda outlier: outlier.deviation).clip.path.name == "normal_id_00_00000007.wav"


tables = arrays.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(-100, 100))


@settings(max_examples=50, deadline=None, database=None)
@given(tables, st.floats(0.1, 10), st.floats(-50, 50))
def test_robust_deviations_do_not_depend_on_units(table: npt.NDArray[np.float64], gain: float, offset: float) -> None:
    rounded = np.round(table, 1)
    np.testing.assert_allclose(
        robust_deviations(gain * np.round(rounded, 1) + offset), robust_deviations(rounded), rtol=1e-4, atol=1e-4
    )


def test_of_a_normal_distribution_they_are_the_standard_deviations() -> None:
    sample = np.random.default_rng(0).normal(7, 3, (100_000, 1))
    np.testing.assert_allclose(robust_deviations(sample), (sample - 7) / 3, atol=0.05)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"drop": 0.6}, "less than or equal to 0.5"),
        ({"drop": -0.1}, "greater than or equal to 0"),
        ({"method": "lof"}, "'zscore'"),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        CleaningSettings.model_validate(content)
