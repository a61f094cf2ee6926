"""The `features:` block: what it allows, what frames depend on, and what a stack or a normalised clip is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from features.clips.corpus import read_corpus
from features.errors import CorpusError
from features.frames.feature_settings import KINDS, FeatureSettings, is_framed, settings_of

NOISE = np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32)

REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "more bands than bins": (
        {"n_mels": 129, "n_fft": 256},
        "n_mels ≤ n_fft / 2 must hold, but got n_mels = 129, n_fft",
    ),
    "more coefficients than bands": ({"kind": "mfcc", "n_mfcc": 41, "n_mels": 40}, "n_mfcc ≤ n_mels must hold"),
    "bands upside down": ({"fmin": 4000.0, "fmax": 300.0}, "fmin < fmax ≤ sample_rate / 2 must hold, but got fmin"),
    "bands beyond the clip's": ({"fmax": 8001.0}, "fmin < fmax ≤ sample_rate / 2 must hold"),
    "unknown key": ({"n_mel": 64}, "Extra inputs are not permitted"),
    "number as text": ({"n_mels": "64"}, "should be a valid integer"),
    "fraction": ({"hop_length": 512.5}, "should be a valid integer"),
    "truth value": ({"n_mels": True}, "should be a valid integer"),
    "no hop": ({"hop_length": 0}, "greater than 0"),
    "no bands": ({"n_mels": 0}, "greater than 0"),
    "tiny transform": ({"n_fft": 8, "n_mels": 2}, "greater than or equal to 16"),
    "negative rate": ({"sample_rate": -16000}, "greater than 0"),
    "power between": ({"power": 1.5}, "should be 1 or 2"),
    "another kind": ({"kind": "melody"}, "each kind must be one of logmel, mfcc, .* but got 'melody'"),
    "a kind twice": ({"kind": ["logmel", "logmel"]}, "each kind may stand once"),
    "a whole clip beside frames": (
        {"kind": "logmel+clip_spectrum"},
        r"clip_spectrum has one frame for each clip and cannot be stacked .* but got logmel\+clip_spectrum: give it",
    ),
    "no band": ({"kind": "clip_spectrum", "n_bands": 0}, "greater than 0"),
    "a kind and nothing": ({"kind": "logmel+"}, r"must stand between two names, but got 'logmel\+': write logmel, or"),
    "no kind": ({"kind": []}, "each kind must be one of"),
    "channel before the first": ({"channel": -1}, "channel ≥ 0 must hold"),
    "another channel": ({"channel": "left"}, "'mean'"),
    "out of tune by more than half": ({"kind": "chroma", "tuning": 0.5}, "-0.5 ≤ tuning < 0.5 must hold"),
    "another normalisation": ({"normalize": "batch"}, "'none', 'clip' or 'bin'"),
}


@pytest.mark.parametrize(("content", "rule"), REFUSED.values(), ids=REFUSED)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        FeatureSettings.model_validate(content)


def test_as_many_bands_as_half_the_transform_are_allowed() -> None:
    assert FeatureSettings(n_mels=128, n_fft=256).bins == 128


def test_a_rule_between_settings_holds_for_the_kinds_that_use_them_alone() -> None:
    assert FeatureSettings(kind="chroma", n_mels=400, n_fft=512).bins == 12
    assert FeatureSettings(kind="logmel", n_mfcc=400).bins == 128


def test_settings_cannot_be_changed_afterwards() -> None:
    features = FeatureSettings()
    with pytest.raises(ValidationError, match="frozen"):
        features.n_mels = 64  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["logmel+chroma", ["logmel", "chroma"]])
def test_a_stack_is_written_as_a_list_or_in_one_word(kind: Any) -> None:
    features = FeatureSettings.model_validate({"kind": kind})
    assert features.kind == "logmel+chroma"
    assert features == FeatureSettings(kind="logmel+chroma")


@pytest.mark.parametrize(
    ("kind", "bins"),
    [
        ("logmel", 64),
        ("mfcc", 13),
        ("chroma", 24),
        ("logspectrum", 257),
        ("rms", 1),
        ("zero_crossings", 1),
        ("centroid", 1),
        ("chroma+logmel+rms", 24 + 64 + 1),
    ],
)
def test_the_bins_of_a_stack_are_those_of_its_kinds_side_by_side(kind: str, bins: int) -> None:
    features = FeatureSettings(kind=kind, n_mels=64, n_mfcc=13, n_chroma=24, n_fft=512, hop_length=256)
    frames = features.frames(NOISE)
    assert features.bins == bins == frames.shape[1]
    first = 0
    for part in features.parts:
        np.testing.assert_array_equal(frames[:, first : first + part.bins], part.frames(NOISE))
        first += part.bins


@pytest.mark.parametrize(
    ("features", "unit"),
    [
        ({"kind": "logmel"}, "dB"),
        ({"kind": "logmel+logspectrum"}, "dB"),
        ({"kind": "logmel+chroma"}, ""),
        ({"kind": "centroid"}, "Hz"),
        ({"kind": "rms"}, ""),
        ({"kind": "logmel", "normalize": "bin"}, "dB"),
        ({"kind": "logmel", "normalize": "clip"}, ""),
    ],
)
def test_frames_have_a_unit_where_all_their_values_have_the_same(features: dict[str, Any], unit: str) -> None:
    assert FeatureSettings.model_validate(features).unit == unit


class TestClipNormalisation:
    FEATURES = FeatureSettings(kind="logmel+rms", n_mels=16, normalize="clip")

    def test_gives_each_kind_zero_mean_and_unit_variance_over_the_clip(self) -> None:
        frames = self.FEATURES.frames(NOISE)
        for part in (frames[:, :16], frames[:, 16:]):
            assert part.mean() == pytest.approx(0, abs=1e-5)
            assert part.std() == pytest.approx(1, abs=1e-5)

    def test_does_not_hear_how_loud_a_recording_is(self) -> None:
        np.testing.assert_allclose(self.FEATURES.frames(NOISE), self.FEATURES.frames(0.1 * NOISE), atol=1e-3)

    def test_makes_zeros_of_silence(self) -> None:
        frames = self.FEATURES.frames(np.zeros(4000, dtype=np.float32))
        np.testing.assert_array_equal(frames, np.zeros_like(frames))

    def test_lies_within_four_deviations(self) -> None:
        lowest, highest = self.FEATURES.limits
        np.testing.assert_array_equal(lowest, np.full(17, -4))
        np.testing.assert_array_equal(highest, np.full(17, 4))


@pytest.mark.parametrize("normalize", ["none", "bin"])
def test_frames_are_stored_as_they_are_unless_each_clip_is_normalised(normalize: str) -> None:
    features = FeatureSettings.model_validate({"normalize": normalize})
    assert not features.is_derived
    assert features.key == FeatureSettings().key
    assert FeatureSettings(normalize="clip").is_derived
    assert FeatureSettings(normalize="clip").key != FeatureSettings().key


CHANGES: dict[str, Any] = {
    "sample_rate": 22050,
    "channel": "mean",
    "n_fft": 2048,
    "hop_length": 100,
    "n_mels": 30,
    "fmin": 50.0,
    "fmax": 5000.0,
    "power": 1,
    "n_mfcc": 7,
    "n_chroma": 24,
    "n_bands": 100,
    "tuning": "estimate",
}


@pytest.mark.parametrize("setting", CHANGES)
@pytest.mark.parametrize("kind", [*KINDS, "logmel+chroma"])
def test_the_key_depends_on_what_a_kind_uses_and_on_nothing_else(kind: str, setting: str) -> None:
    changed = FeatureSettings.model_validate({"kind": kind, setting: CHANGES[setting]})
    assert (changed.key != FeatureSettings(kind=kind).key) == (setting in settings_of(kind))
    assert (setting in changed.model_dump()) == (setting in settings_of(kind))


def test_what_may_be_resampled_has_the_frames_of_what_need_not_be() -> None:
    assert FeatureSettings(resample=True).key == FeatureSettings().key


def test_parts_of_different_stacks_are_equal_where_their_frames_are() -> None:
    one = FeatureSettings(kind="logmel+chroma", n_mels=64, n_chroma=24)
    other = FeatureSettings(kind="logmel+mfcc", n_mels=64, n_mfcc=13, normalize="clip")
    assert one.parts[0].key == other.parts[0].key == FeatureSettings(n_mels=64).key


@settings(max_examples=30, deadline=None, database=None)
@given(
    kinds=st.one_of(
        st.lists(st.sampled_from(list(filter(is_framed, KINDS))), min_size=1, max_size=3, unique=True),
        st.just(["clip_spectrum"]),
    ),
    n_mels=st.integers(20, 100),
    normalize=st.sampled_from(["none", "clip", "bin"]),
)
def test_settings_are_what_they_were_after_a_way_through_a_file(kinds: list[str], n_mels: int, normalize: str) -> None:
    features = FeatureSettings.model_validate({"kind": kinds, "n_mels": n_mels, "normalize": normalize})
    again = FeatureSettings.model_validate(json.loads(json.dumps(features.model_dump(mode="json"))))
    assert again.key == features.key
    assert again.model_dump() == features.model_dump()


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_sound_lies_within_the_limits(kind: str) -> None:
    features = FeatureSettings(kind=kind)
    lowest, highest = features.limits
    for gain in (0.01, 1, 3):
        frames = features.frames(gain * NOISE)
        assert ((lowest <= frames) & (frames <= highest)).mean() > 0.999


class TestWhatAClipMustHave:
    @staticmethod
    def corpus_of(root: Path, *, channels: int = 1, rate: int = 16000) -> Any:
        folder = root / "fan" / "train"
        folder.mkdir(parents=True)
        sound = np.random.default_rng(1).normal(0, 0.1, (4000, channels))
        soundfile.write(folder / "normal_id_00_00000000.wav", sound[:, 0], 16000)
        soundfile.write(folder / "normal_id_00_00000001.wav", sound, rate)
        return read_corpus(root)

    @pytest.mark.parametrize(
        ("features", "told"),
        [
            ({}, r"00000001.wav has 8 channels: set features.channel to one of 0 to 7, or to mean"),
            ({"channel": 1}, r"features.channel is 1, counted from 0, but .*00000000.wav has 1 channels"),
        ],
    )
    def test_the_channel_that_is_listened_to(self, tmp_path: Path, features: dict[str, Any], told: str) -> None:
        corpus = self.corpus_of(tmp_path, channels=8)
        with pytest.raises(CorpusError, match=told):
            FeatureSettings.model_validate(features).require(corpus)

    @pytest.mark.parametrize("channel", [0, "mean"])
    def test_a_channel_that_all_clips_have_will_do(self, tmp_path: Path, channel: Any) -> None:
        FeatureSettings(channel=channel).require(self.corpus_of(tmp_path, channels=8))

    def test_the_sample_rate_unless_it_is_resampled(self, tmp_path: Path) -> None:
        corpus = self.corpus_of(tmp_path, rate=44100)
        with pytest.raises(CorpusError, match=r"features.sample_rate is 16000 Hz, but 1 of 2 clips differ"):
            FeatureSettings().require(corpus)
        features = FeatureSettings(resample=True)
        features.require(corpus)
        clip = corpus.clips[1]
        waveform = features.waveform(clip.path.read_bytes())
        assert clip.sample_rate == 44100
        assert len(features.frames(waveform)) == features.frames_of(clip)
