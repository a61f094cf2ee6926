from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from features.logmel import LogMelSettings
from features.wav import Waveform

DECIBELS = 1e-3  # how far from librosa a level may lie


def in_librosa(features: LogMelSettings, waveform: Waveform) -> npt.NDArray[np.float32]:
    """The reference: (frames, n_mels) dB. Of magnitudes, levels are `amplitude_to_db`."""
    mel = librosa.feature.melspectrogram(
        y=waveform,
        sr=features.sample_rate,
        n_fft=features.n_fft,
        hop_length=features.hop_length,
        n_mels=features.n_mels,
        power=features.power,
    )
    to_db = librosa.power_to_db if features.power == 2 else librosa.amplitude_to_db
    return np.asarray(to_db(mel, top_db=None).T)


def assert_as_in_librosa(features: LogMelSettings, waveform: Waveform) -> None:
    with warnings.catch_warnings():
        # librosa warns of clips shorter than n_fft and of bands narrower than a bin; both are equal all the same.
        warnings.simplefilter("ignore", UserWarning)
        frames, reference = features.frames(waveform), in_librosa(features, waveform)
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames, reference, rtol=0, atol=DECIBELS)


def noise(samples: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, 0.1, samples)


def sine(samples: int, *, of_rate: float = 0.0623) -> npt.NDArray[np.float64]:
    return np.asarray(np.sin(2 * np.pi * of_rate * np.arange(samples)))


def in_16_bits(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.round(signal * 32767) / 32768)


def impulse(samples: int) -> npt.NDArray[np.float64]:
    sound = np.zeros(samples)
    sound[samples // 2] = 1
    return sound


SIGNALS: dict[str, Callable[[int], npt.NDArray[Any]]] = {
    "silence": np.zeros,
    "noise": noise,
    "faint noise": lambda n: noise(n) * 1e-5,
    "impulse": impulse,
    "sweep": lambda n: scipy.signal.chirp(np.arange(n), 0.001, n, 0.499),
    # A strong line beside nothing: where the rounding noise of a float32 Fourier transform would show.
    "full-scale sine": sine,
    "full-scale sine at a quarter of the rate": lambda n: sine(n, of_rate=0.25),
    "full-scale sine in 16 bits": lambda n: in_16_bits(sine(n)),
    "sine and noise 60 dB below": lambda n: 0.9 * sine(n) + 1e-2 * noise(n),
    "sine and noise 120 dB below": lambda n: 0.9 * sine(n) + 1e-5 * noise(n),
    "sine that comes and goes": lambda n: sine(n) * (np.arange(n) % 3000 < 1500),
    "one 16-bit step": lambda n: in_16_bits(sine(n) / 32767),
    "DC": np.ones,
    "DC and a faint sine": lambda n: 0.9 + 1e-3 * sine(n),
    "square wave": lambda n: np.sign(sine(n, of_rate=1 / 128) + 1e-9),
    "lowpassed noise": lambda n: scipy.signal.sosfilt(scipy.signal.butter(10, 0.02, output="sos"), noise(n)),
    "samples beyond full scale": lambda n: noise(n) * 1e3,
}


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("signal", SIGNALS)
def test_frames_are_librosas_whatever_the_sound(signal: str, power: int) -> None:
    features = LogMelSettings.model_validate({"power": power})
    assert_as_in_librosa(features, SIGNALS[signal](12000).astype(np.float32))


PARAMETERS = [
    # sample rate, n_fft, hop_length, n_mels
    (16000, 1024, 512, 64),
    (16000, 2048, 512, 128),
    (16000, 512, 160, 40),
    (16000, 400, 160, 80),  # no power of two
    (16000, 1023, 512, 128),  # odd
    (16000, 256, 512, 128),  # gaps between frames, bands without a bin
    (16000, 16, 8, 8),  # the smallest
    (8000, 256, 64, 32),
    (22050, 2048, 512, 128),
    (44100, 4096, 1024, 256),
    (48000, 1024, 480, 128),
]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("sample_rate", "n_fft", "hop_length", "n_mels"), PARAMETERS)
def test_frames_are_librosas_whatever_the_parameters(
    sample_rate: int, n_fft: int, hop_length: int, n_mels: int, power: int
) -> None:
    features = LogMelSettings.model_validate(
        {"sample_rate": sample_rate, "n_fft": n_fft, "hop_length": hop_length, "n_mels": n_mels, "power": power}
    )
    for signal in ("noise", "full-scale sine", "DC and a faint sine", "silence"):
        assert_as_in_librosa(features, SIGNALS[signal](8192).astype(np.float32))


@pytest.mark.parametrize("samples", [1, 2, 511, 512, 513, 1023, 1024, 1025, 64 * 512 - 1, 64 * 512])
@pytest.mark.parametrize("n_fft", [1023, 1024])
def test_frames_are_librosas_whatever_the_length(samples: int, n_fft: int) -> None:
    assert_as_in_librosa(LogMelSettings(n_fft=n_fft, n_mels=64), (noise(samples) + 0.5).astype(np.float32))


def test_silence_lies_at_librosas_floor() -> None:
    frames = LogMelSettings().frames(np.zeros(4000, dtype=np.float32))
    np.testing.assert_allclose(frames, -100, rtol=0, atol=1e-5)


def test_twice_the_amplitude_is_six_decibels_for_power_and_magnitude_alike() -> None:
    waveform = noise(4000).astype(np.float32)
    for features in (LogMelSettings(power=2), LogMelSettings(power=1)):
        gain = features.frames(2 * waveform) - features.frames(waveform)
        np.testing.assert_allclose(gain, 20 * np.log10(2), atol=1e-4)


def test_a_waveform_is_left_as_it_is_and_gives_the_same_frames_again() -> None:
    waveform = noise(5000).astype(np.float32)
    before = waveform.copy()
    first, second = LogMelSettings().frames(waveform), LogMelSettings().frames(waveform)
    np.testing.assert_array_equal(waveform, before)
    np.testing.assert_array_equal(first, second)


@settings(max_examples=30, deadline=None, database=None)
@given(
    samples=st.integers(1, 3000),
    n_fft=st.integers(16, 600),
    hop_length=st.integers(20, 700),
)
def test_the_frames_of_a_clip_are_as_many_as_foretold(samples: int, n_fft: int, hop_length: int) -> None:
    features = LogMelSettings(n_fft=n_fft, hop_length=hop_length, n_mels=4)
    frames = features.frames(noise(samples).astype(np.float32))
    assert frames.shape == (features.frame_count(samples), features.bins)
    assert np.isfinite(frames).all()


@pytest.mark.parametrize(
    ("samples", "frames"),
    # A clip of DCASE 2020: 10 s at 16 kHz; then the edges of a hop.
    [(160000, 313), (1, 1), (511, 1), (512, 2), (513, 2), (1024, 3)],
)
def test_frames_stand_a_hop_apart_with_the_first_on_the_first_sample(samples: int, frames: int) -> None:
    assert LogMelSettings().frame_count(samples) == frames


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "more bands than bins": (
        {"n_mels": 129, "n_fft": 256},
        "n_mels ≤ n_fft / 2 must hold, but got n_mels = 129, n_fft",
    ),
    "unknown key": ({"n_mel": 64}, "Extra inputs are not permitted"),
    "number as text": ({"n_mels": "64"}, "should be a valid integer"),
    "fraction": ({"hop_length": 512.5}, "should be a valid integer"),
    "truth value": ({"n_mels": True}, "should be a valid integer"),
    "no hop": ({"hop_length": 0}, "greater than 0"),
    "no bands": ({"n_mels": 0}, "greater than 0"),
    "tiny transform": ({"n_fft": 8, "n_mels": 2}, "greater than or equal to 16"),
    "negative rate": ({"sample_rate": -16000}, "greater than 0"),
    "power between": ({"power": 1.5}, "should be 1 or 2"),
    "other kind": ({"kind": "mfcc"}, "should be 'logmel'"),
}


@pytest.mark.parametrize(("content", "rule"), REFUSED.values(), ids=REFUSED)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        LogMelSettings.model_validate(content)


def test_as_many_bands_as_half_the_transform_are_allowed() -> None:
    assert LogMelSettings(n_mels=128, n_fft=256).bins == 128


def test_settings_cannot_be_changed_afterwards() -> None:
    features = LogMelSettings()
    with pytest.raises(ValidationError, match="frozen"):
        features.n_mels = 64  # type: ignore[misc]
