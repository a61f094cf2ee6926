"""Every kind of feature with a frame each hop against librosa's own, over sounds, parameters and lengths."""

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

from features.clips.wav import Waveform
from features.frames.feature_settings import KINDS, FeatureSettings, is_framed
from features.frames.framing import Frames

FRAMED = [kind for kind in KINDS if is_framed(kind)]

#: How far from librosa a value may lie, by kind: dB, dB · √bands, of the largest pitch class, dB, of full scale,
#: crossings a sample, Hz.
TOLERANCES = {
    "logmel": 1e-3,
    "mfcc": 5e-3,
    "chroma": 2e-5,
    "logspectrum": 1e-3,
    "rms": 1e-6,
    "zero_crossings": 1e-7,
    "centroid": 1e-2,
}


def in_librosa(features: FeatureSettings, waveform: Waveform) -> Frames:
    """The reference, (frames, bins)."""
    spectral: dict[str, Any] = {"sr": features.sample_rate, "n_fft": features.n_fft, "hop_length": features.hop_length}
    framed: dict[str, Any] = {"frame_length": features.n_fft, "hop_length": features.hop_length}
    bands: dict[str, Any] = {
        "n_mels": features.n_mels,
        "fmin": features.fmin,
        "fmax": features.fmax,
        "power": features.power,
    }
    match features.kind:
        case "logmel":
            mel = librosa.feature.melspectrogram(y=waveform, **spectral, **bands)
            to_db = librosa.power_to_db if features.power == 2 else librosa.amplitude_to_db
            made = to_db(mel, top_db=None)
        case "mfcc" if features.power == 2:
            made = librosa.feature.mfcc(y=waveform, n_mfcc=features.n_mfcc, **spectral, **bands)
        case "mfcc":
            mel = librosa.feature.melspectrogram(y=waveform, **spectral, **bands)
            made = librosa.feature.mfcc(S=librosa.amplitude_to_db(mel, top_db=80.0), n_mfcc=features.n_mfcc)
        case "chroma":
            tuning = None if features.tuning == "estimate" else features.tuning
            made = librosa.feature.chroma_stft(y=waveform, n_chroma=features.n_chroma, tuning=tuning, **spectral)
        case "logspectrum":
            power = np.abs(librosa.stft(waveform, n_fft=features.n_fft, hop_length=features.hop_length)) ** 2
            made = librosa.power_to_db(power, top_db=None)
        case "rms":
            made = librosa.feature.rms(y=waveform, **framed)
        case "zero_crossings":
            made = librosa.feature.zero_crossing_rate(waveform, **framed)
        case _:
            made = librosa.feature.spectral_centroid(y=waveform, **spectral)
    return np.asarray(made.T)


def assert_as_in_librosa(features: FeatureSettings, waveform: Waveform) -> None:
    with warnings.catch_warnings():
        # librosa warns of clips shorter than n_fft, of bands narrower than a bin, of clips without a tone.
        warnings.simplefilter("ignore", UserWarning)
        reference = in_librosa(features, waveform)
    frames = features.frames(waveform)
    assert frames.dtype == np.float32
    assert frames.flags.c_contiguous
    atol = TOLERANCES[features.kind] * max(1, np.abs(waveform).max() if features.kind == "rms" else 1)
    np.testing.assert_allclose(frames, reference, rtol=0, atol=atol)


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


#: Settings that are tried with every sound; for log-mel and its coefficients, levels of power and of magnitudes.
VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in FRAMED},
    "logmel of magnitudes": {"kind": "logmel", "power": 1},
    "mfcc of magnitudes": {"kind": "mfcc", "power": 1},
    "logmel between 300 Hz and 6 kHz": {"kind": "logmel", "n_mels": 40, "fmin": 300.0, "fmax": 6000.0},
    "chroma out of tune": {"kind": "chroma", "tuning": 0.2},
    "chroma of quarter tones": {"kind": "chroma", "n_chroma": 24},
    "chroma, tuning estimated": {"kind": "chroma", "tuning": "estimate"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_frames_are_librosas_whatever_the_sound(variant: str) -> None:
    features = FeatureSettings.model_validate(VARIANTS[variant])
    for signal in SIGNALS.values():
        assert_as_in_librosa(features, signal(12000).astype(np.float32))


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


@pytest.mark.parametrize("kind", FRAMED)
@pytest.mark.parametrize(("sample_rate", "n_fft", "hop_length", "n_mels"), PARAMETERS)
def test_frames_are_librosas_whatever_the_parameters(
    kind: str, sample_rate: int, n_fft: int, hop_length: int, n_mels: int
) -> None:
    features = FeatureSettings(
        kind=kind, sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, n_mfcc=min(13, n_mels)
    )
    for signal in ("noise", "full-scale sine", "DC and a faint sine", "silence"):
        assert_as_in_librosa(features, SIGNALS[signal](8192).astype(np.float32))


@pytest.mark.parametrize("kind", FRAMED)
@pytest.mark.parametrize("n_fft", [1023, 1024])
def test_frames_are_librosas_whatever_the_length(kind: str, n_fft: int) -> None:
    for samples in (1, 2, 511, 512, 513, 1023, 1024, 1025, 64 * 512 - 1, 64 * 512):
        waveform = (noise(samples) + 0.5).astype(np.float32)
        assert_as_in_librosa(FeatureSettings(kind=kind, n_fft=n_fft, n_mels=64), waveform)


def test_silence_lies_at_librosas_floor() -> None:
    frames = FeatureSettings().frames(np.zeros(4000, dtype=np.float32))
    np.testing.assert_allclose(frames, -100, rtol=0, atol=1e-5)


def test_twice_the_amplitude_is_six_decibels_for_power_and_magnitude_alike() -> None:
    waveform = noise(4000).astype(np.float32)
    for features in (FeatureSettings(power=2), FeatureSettings(power=1)):
        gain = features.frames(2 * waveform) - features.frames(waveform)
        np.testing.assert_allclose(gain, 20 * np.log10(2), atol=1e-4)


def test_a_waveform_is_left_as_it_is_and_gives_the_same_frames_again() -> None:
    waveform = noise(5000).astype(np.float32)
    before = waveform.copy()
    features = FeatureSettings(kind="+".join(FRAMED))
    first, second = features.frames(waveform), features.frames(waveform)
    np.testing.assert_array_equal(waveform, before)
    np.testing.assert_array_equal(first, second)


@settings(max_examples=30, deadline=None, database=None)
@given(
    kind=st.sampled_from([*FRAMED, "logmel+chroma"]),
    samples=st.integers(1, 3000),
    n_fft=st.integers(16, 600),
    hop_length=st.integers(20, 700),
)
def test_the_frames_of_a_clip_are_as_many_as_foretold(kind: str, samples: int, n_fft: int, hop_length: int) -> None:
    features = FeatureSettings(kind=kind, n_fft=n_fft, hop_length=hop_length, n_mels=4, n_mfcc=3)
    frames = features.frames(noise(samples).astype(np.float32))
    assert frames.shape == (features.frame_count(samples), features.bins)
    assert np.isfinite(frames).all()


@pytest.mark.parametrize(
    ("samples", "frames"),
    # A clip of DCASE 2020: 10 s at 16 kHz; then the edges of a hop.
    [(160000, 313), (1, 1), (511, 1), (512, 2), (513, 2), (1024, 3)],
)
def test_frames_stand_a_hop_apart_with_the_first_on_the_first_sample(samples: int, frames: int) -> None:
    assert FeatureSettings().frame_count(samples) == frames
