"""The spectrum of a whole clip: against a few lines of numpy, over lengths, and where a clip is too short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.clips.wav import Waveform
from features.frames.feature_settings import FeatureSettings


def features_of(**changes: Any) -> FeatureSettings:
    return FeatureSettings.model_validate({"kind": "clip_spectrum", **changes})


def noise(samples: int) -> Waveform:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


def tone(samples: int) -> Waveform:
    """A quarter of full scale, in the middle of the 21st of 80 bands."""
    return np.asarray(0.25 * np.sin(2 * np.pi * 20.5 / 160 * np.arange(samples)), dtype=np.float32)


def in_numpy(waveform: Waveform, bands: int) -> np.ndarray[Any, Any]:
    """The reference, (1, bands): each bin of the Fourier transform is put into its band."""
    count = len(waveform)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(count) / count)
    power = np.abs(np.fft.rfft(waveform * window)) ** 2 / np.sum(window**2) * (0.75 * bands)
    band = np.minimum(2 * bands * np.arange(len(power)) // count, bands - 1)
    mean = np.bincount(band, weights=power, minlength=bands) / np.bincount(band, minlength=bands)
    return np.asarray(10 * np.log10(np.maximum(mean, 1e-10)))[np.newaxis]


@pytest.mark.parametrize("bands", [3, 100, 1024])
@pytest.mark.parametrize("samples", [2048, 5000, 16000, 16001, 3 * 7919])
def test_it_is_numpys(bands: int, samples: int) -> None:
    for waveform in (noise(samples), tone(samples), np.zeros(samples, dtype=np.float32)):
        frames = features_of(n_bands=bands).frames(waveform)

        assert frames.dtype == np.float32
        np.testing.assert_allclose(frames, in_numpy(waveform, bands), rtol=0, atol=1e-3)


@settings(max_examples=60, deadline=None, database=None)
@given(bands=st.integers(2, 70), more=st.integers(0, 300), normalize=st.sampled_from(["none", "clip", "bin"]))
def test_its_shape_does_not_depend_on_the_clips_length(bands: int, more: int, normalize: str) -> None:
    features, samples = features_of(n_bands=bands, normalize=normalize), 2 * bands - 2 + more

    frames = features.frames(noise(samples))

    assert frames.shape == (features.frame_count(samples), features.bins) == (1, bands)
    assert np.isfinite(frames).all()


@pytest.mark.parametrize("normalize", ["none", "clip"])
@pytest.mark.parametrize(("bands", "fewest"), [(1, 1), (2, 2), (80, 158), (1024, 2046)])
def test_a_clip_without_a_bin_for_each_band_has_no_frame(bands: int, fewest: int, normalize: str) -> None:
    features = features_of(n_bands=bands, normalize=normalize)

    assert features.frames(noise(fewest)).shape == (1, bands)
    assert features.frames(noise(fewest - 1)).shape == (0, bands)
    assert [features.frame_count(samples) for samples in (fewest, fewest - 1)] == [1, 0]


@pytest.mark.parametrize("sound", [noise, tone])
def test_levels_do_not_depend_on_the_clips_length(sound: Any) -> None:
    short, long = (features_of(n_bands=80).frames(sound(samples)) for samples in (32000, 320000))

    loud = short > short.max() - 10
    assert np.abs(short - long)[loud].max() < (0.1 if sound is tone else 1.5)


def test_levels_are_those_of_the_log_spectrum_on_average() -> None:
    waveform = noise(160000)
    of_frames = FeatureSettings(kind="logspectrum", n_fft=256).frames(waveform)
    mean = 10 * np.log10((10 ** (of_frames / 10)).mean())

    assert features_of(n_bands=128).frames(waveform).mean() == pytest.approx(mean, abs=0.1)


def test_a_tone_lies_in_its_band_alone() -> None:
    frames = features_of(n_bands=80).frames(tone(160000))[0]

    assert frames.argmax() == 20
    assert np.delete(frames, 20).max() < frames[20] - 80


def test_a_full_scale_sine_reaches_the_upper_limit() -> None:
    features = features_of(n_bands=80)

    assert features.frames(4 * tone(160000)).max() == pytest.approx(features.limits[1][0], abs=0.01)


def test_settings_of_frames_have_no_effect_on_it() -> None:
    assert features_of(n_fft=2048, hop_length=100, n_mels=7).key == features_of().key
