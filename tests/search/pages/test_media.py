"""Sounds of a bounded size: which part is kept, and whether it was cut."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from search.pages.media import flac

RATE = 16000


@pytest.mark.parametrize(("seconds", "is_cut"), [(2, False), (20, True)])
def test_a_sound_is_its_beginning_for_as_long_as_the_size_allows(seconds: int, is_cut: bool) -> None:
    noise = np.random.default_rng(1).uniform(-1, 1, seconds * RATE).astype(np.float32)  # nothing to compress

    sound = flac(noise, RATE, most_bytes=100_000)

    assert sound.is_cut == is_cut
    assert len(sound.content) <= 100_000
    kept, rate = soundfile.read(io.BytesIO(sound.content), dtype="float32")
    assert rate == RATE
    assert sound.seconds == len(kept) / RATE
    assert sound.seconds > 2.5 if is_cut else sound.seconds == 2
    np.testing.assert_allclose(kept, noise[: len(kept)], atol=2**-15)
