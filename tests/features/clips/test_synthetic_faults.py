"""Faults made out of recordings of a machine that is well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.corpus import read_corpus
from features.clips.synthetic_corpus import FAULTS
from features.clips.synthetic_faults import GRADES, KINDS, FaultKind, faulty_clip, with_fault
from features.clips.wav import Signal, read_header, signal_of
from features.errors import CorpusError, StoreError

RATE = 16000
RISING = (0.05, *GRADES, 1.5)


def noise(samples: int = RATE, *, channels: int = 1, level: float = 0.05, seed: int = 0) -> Signal:
    return np.random.default_rng(seed).normal(0, level, (samples, channels)).astype(np.float32)


def tone(frequency: float, samples: int = RATE) -> Signal:
    return (0.1 * np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)).astype(np.float32)[:, np.newaxis]


def rms(signal: Signal) -> float:
    return float(np.sqrt(np.mean(np.asarray(signal, dtype=np.float64) ** 2)))


def faulty(signal: Signal, kind: FaultKind, grade: float, *, seed: int = 0) -> Signal:
    return with_fault(signal, kind, grade, sample_rate=RATE, seed=seed)


def pitch(signal: Signal) -> float:
    """The strongest frequency, Hz."""
    windowed = signal[:, 0] * np.hanning(len(signal))
    return float(np.abs(np.fft.rfft(windowed)).argmax() * RATE / len(signal))


def test_the_faults_are_none_of_those_that_the_made_sounds_have() -> None:
    assert not set(KINDS) & set(FAULTS)


@pytest.mark.parametrize("kind", KINDS)
def test_grade_0_leaves_a_recording_as_it_is(kind: FaultKind) -> None:
    signal = noise(channels=2)
    np.testing.assert_allclose(faulty(signal, kind, 0.0), signal, atol=1e-7)


@pytest.mark.parametrize("kind", ["knock", "whine", "band loss", "noise"])
@pytest.mark.parametrize("seed", range(3))
def test_the_higher_the_grade_the_more_is_changed(kind: FaultKind, seed: int) -> None:
    signal = noise()
    changes = [rms(faulty(signal, kind, grade, seed=seed) - signal) for grade in RISING]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1] / 2


@pytest.mark.parametrize(("grade", "expected"), [(0.0, 1000), (0.25, 1020), (0.5, 1040), (1.0, 1080)])
def test_speed_raises_every_frequency_by_8_percent_of_the_grade(grade: float, expected: float) -> None:
    assert pitch(faulty(tone(1000), "speed", grade)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("grade", "decibels"), [(0.25, -3.0), (0.5, -6.0), (1.0, -12.0)])
def test_band_loss_damps_an_octave_and_nothing_else(grade: float, decibels: float) -> None:
    signal = noise()
    before, after = (
        np.abs(np.fft.rfft(part[:, 0].astype(np.float64))) for part in (signal, faulty(signal, "band loss", grade))
    )
    change = 20 * np.log10(after / before)
    damped = np.flatnonzero(change < decibels + 0.1)

    assert change.min() == pytest.approx(decibels, abs=0.05)
    assert damped[-1] / damped[0] == pytest.approx(2, rel=0.05)  # its flanks are a little damped, too
    beside = np.r_[change[: int(damped[0] / 1.3)], change[int(damped[-1] * 1.3) :]]
    assert np.abs(beside).max() < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_tones_of_a_whine_are_as_strong_as_the_recording_around_them(seed: int) -> None:
    signal = noise()
    added = faulty(signal, "whine", 1.0, seed=seed) - signal

    spectrum = 2 * np.abs(np.fft.rfft(added[:, 0].astype(np.float64))) ** 2 / len(added) ** 2
    fundamental = np.flatnonzero(spectrum > 0.1 * spectrum.max())[0] / (len(added) / RATE)
    # White noise: the share of its power in a third of an octave is the share of its width.
    around = rms(signal) ** 2 * fundamental * (2 ** (1 / 6) - 2 ** (-1 / 6)) / (RATE / 2)
    near = slice(int(fundamental) - 20, int(fundamental) + 20)
    assert 10 * np.log10(spectrum[near].sum() / around) == pytest.approx(0, abs=1.5)


@pytest.mark.parametrize(("grade", "added"), [(0.25, 0.5), (0.5, 1.0), (1.0, 2.0)])
def test_noise_is_as_loud_as_its_grade_says_against_the_recording_in_its_band(grade: float, added: float) -> None:
    signal = noise(4 * RATE)
    hiss = np.abs(np.fft.rfft((faulty(signal, "noise", grade) - signal)[:, 0].astype(np.float64)))
    own = np.abs(np.fft.rfft(signal[:, 0].astype(np.float64)))
    inside = np.flatnonzero(hiss > 0.05 * np.median(hiss[hiss > 0.2 * hiss.max()]))
    band = slice(inside[0], inside[-1] + 1)
    # The recording's flanks are counted here whole: it comes to a little less than it says.
    assert np.sqrt(np.sum(hiss[band] ** 2) / np.sum(own[band] ** 2)) == pytest.approx(added, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_a_knock_strikes_and_rests(seed: int) -> None:
    signal = noise(2 * RATE)
    struck = np.abs(faulty(signal, "knock", 1.0, seed=seed) - signal)[:, 0]
    assert struck.max() > 4 * np.sqrt(np.mean(struck**2))  # a steady sound has less than that
    assert np.mean(struck > 0.3 * struck.max()) < 0.25


@pytest.mark.parametrize("kind", ["knock", "whine", "noise"])
def test_a_fault_is_the_same_one_in_every_grade(kind: FaultKind) -> None:
    signal = noise(channels=2)
    np.testing.assert_allclose(faulty(signal, kind, 1.0) - signal, 4 * (faulty(signal, kind, 0.25) - signal), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_one_fault_and_another_another(kind: FaultKind) -> None:
    signal = noise()
    once, again, other = (faulty(signal, kind, 0.5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.array_equal(once, other) == (kind == "speed")  # of which nothing is drawn


@pytest.mark.parametrize("kind", KINDS)
def test_silence_stays_silence_and_so_does_a_silent_channel(kind: FaultKind) -> None:
    half_silent = noise(channels=2) * np.array([1, 0], dtype=np.float32)
    assert not faulty(np.zeros((RATE, 1), dtype=np.float32), kind, 1.0).any()
    assert not faulty(half_silent, kind, 1.0)[:, 1].any()


@settings(max_examples=30, deadline=None, database=None)
@given(
    kind=st.sampled_from(KINDS),
    grade=st.floats(0, 2),
    samples=st.integers(1, 2000),
    channels=st.integers(1, 3),
    sample_rate=st.sampled_from([1000, 8000, 16000, 44100]),
    seed=st.integers(0, 2**32),
)
def test_length_channels_and_range_stay_however_short_the_recording(
    kind: FaultKind, grade: float, samples: int, channels: int, sample_rate: int, seed: int
) -> None:
    signal = noise(samples, channels=channels, level=0.5, seed=seed)
    made = with_fault(signal, kind, grade, sample_rate=sample_rate, seed=seed)
    assert made.shape == signal.shape
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert np.abs(made).max() <= max(1.0, np.abs(signal).max())


@settings(max_examples=30, deadline=None, database=None)
@given(st.sampled_from(KINDS), st.sampled_from(GRADES), st.floats(1e-3, 0.1), st.integers(0, 100))
def test_a_fault_is_as_loud_as_the_recording_is(kind: FaultKind, grade: float, gain: float, seed: int) -> None:
    signal = noise(2000, level=1.0, seed=seed).clip(-3, 3) / 3
    quiet = faulty((0.1 * gain * signal).astype(np.float32), kind, grade, seed=seed) / (0.1 * gain)
    loud = faulty((0.1 * signal).astype(np.float32), kind, grade, seed=seed) / 0.1
    np.testing.assert_allclose(quiet, loud, atol=1e-4 * np.abs(loud).max())


class TestAClipWithAFault:
    @pytest.fixture
    def clip(self, tmp_path: Path) -> Clip:
        """Two channels, a quarter of a second."""
        folder = tmp_path / "sounds" / "fan" / "train"
        folder.mkdir(parents=True)
        soundfile.write(folder / "normal_id_00_00000000.wav", noise(4000, channels=2), RATE, "PCM_16")
        return read_corpus(tmp_path / "sounds").clips[0]

    def test_is_an_anomalous_test_clip_of_the_same_machine_with_a_file_of_its_own(self, clip: Clip) -> None:
        made = faulty_clip(clip, "knock", 0.5)

        assert (clip.label, made.label) == (NORMAL, ANOMALY)
        assert made.name == f"faults/knock 0.5/{clip.name}"
        assert replace(clip, path=made.path, name=made.name, digest=made.digest, split="test", label=ANOMALY) == made
        header = read_header(made.path)
        assert (header.sample_rate, header.samples, header.channels) == (RATE, clip.samples, 2)

    def test_is_what_is_said_of_its_recording_to_the_last_bit(self, clip: Clip) -> None:
        made = faulty_clip(clip, "noise", 1.0)
        recording = signal_of(clip.path.read_bytes())
        expected = faulty(recording, "noise", 1.0, seed=int(clip.digest[:16], 16))
        np.testing.assert_array_equal(signal_of(made.path.read_bytes()), expected)

    def test_has_the_same_bytes_in_every_cache(
        self, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = faulty_clip(clip, "whine", 0.25)
        monkeypatch.setenv("OFFKEY_CACHE", str(tmp_path / "elsewhere"))
        there = faulty_clip(clip, "whine", 0.25)
        assert (here.digest, here.path.name) == (there.digest, there.path.name)
        assert here.path != there.path

    def test_is_made_once_and_leaves_nothing_behind(self, clip: Clip) -> None:
        made = [faulty_clip(clip, kind, grade) for kind in KINDS for grade in GRADES]
        written = {one.path: one.path.stat().st_ino for one in made}
        again = [faulty_clip(clip, kind, grade) for kind in KINDS for grade in GRADES]

        assert again == made
        assert len(written) == len(KINDS) * len(GRADES)
        assert {path: path.stat().st_ino for path in made[0].path.parent.iterdir()} == written

    def test_of_a_recording_that_changed_is_refused(self, clip: Clip) -> None:
        soundfile.write(clip.path, noise(4000, channels=2, seed=1), RATE, "PCM_16")
        with pytest.raises(CorpusError, match="normal_id_00_00000000.wav changed after the corpus was read"):
            faulty_clip(clip, "speed", 1.0)

    def test_of_a_recording_that_is_gone_is_refused(self, clip: Clip) -> None:
        clip.path.unlink()
        with pytest.raises(CorpusError, match="can no longer be read"):
            faulty_clip(clip, "speed", 1.0)

    def test_that_cannot_be_written_says_where_and_what_to_do(self, clip: Clip, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file where the cache should be")
        with pytest.raises(StoreError, match=r"cannot be written or read: .*\$OFFKEY_CACHE names another folder"):
            faulty_clip(clip, "speed", 1.0)
