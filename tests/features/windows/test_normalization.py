from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from features.store.files import FrameStore
from features.windows.normalization import bin_limits


def store_of(*clips: npt.NDArray[np.float32]) -> FrameStore:
    offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in clips])]).astype(np.int64)
    return FrameStore(frames=np.concatenate(clips), offsets=offsets)


values = st.floats(-1000, 1000, width=32)


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=values), min_size=1))
def test_limits_are_four_deviations_around_each_bins_mean(clips: list[npt.NDArray[np.float32]]) -> None:
    lowest, highest = bin_limits(store_of(*clips), range(len(clips)))
    frames = np.concatenate(clips).astype(np.float64)
    reach = 4 * frames.std(axis=0)
    changing = reach > 1e-2
    np.testing.assert_allclose((lowest + highest) / 2, frames.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose((highest - lowest)[changing] / 2, reach[changing], rtol=1e-3)
    assert (lowest < highest).all()


def test_only_the_clips_that_are_named_count() -> None:
    heard, other = np.ones((5, 2), np.float32), np.full((5, 2), 100, np.float32)
    lowest, highest = bin_limits(store_of(other, heard, other), [1])
    np.testing.assert_array_equal(lowest, [0.5, 0.5])
    np.testing.assert_array_equal(highest, [1.5, 1.5])


def test_a_small_change_on_a_high_level_is_not_lost_in_rounding() -> None:
    frames = np.float32(1e4) + np.random.default_rng(0).choice(np.array([-0.01, 0.01], np.float32), (1000, 1))
    lowest, highest = bin_limits(store_of(frames.astype(np.float32)), [0])
    np.testing.assert_allclose(highest - lowest, 8 * frames.std(dtype=np.float64), rtol=0.05)


def test_a_bin_that_changes_by_no_more_than_rounding_does_not_change() -> None:
    frames = np.full((1000, 1), -100, np.float32)
    frames[0] = np.nextafter(np.float32(-100), np.float32(0))
    lowest, highest = bin_limits(store_of(frames), [0])
    np.testing.assert_allclose([lowest[0], highest[0]], [-100.5, -99.5], atol=1e-4)
