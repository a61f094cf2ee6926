"""One vector of a clip from its windows': each statistic is a few lines of numpy, whatever the batches were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pydantic import ValidationError

from models import ae, cae, classifier, stat, vae
from models.scoring.statistics import Statistics, Windows, clip_statistics, input_levels, statistics_of, whitened
from models.settings import STATISTICS, DensitySettings

Array = npt.NDArray[np.float64]
Clips = Sequence[Windows]

NAMES = ("vectors", "levels")


def windows_of(length: int, dim: int = 3, *, seed: int = 0) -> Windows:
    """Some values are alike, and some levels."""
    rng = np.random.default_rng([length, seed])
    vectors = np.round(rng.normal(size=(length, dim)), 1).astype(np.float32)
    return Windows(vectors, np.round(rng.normal(-40, 2, length)).astype(np.float32))


def statistic_of(windows: Windows, statistic: str, **others: Any) -> Array:
    return statistics_of(windows, Statistics.of(stat.Settings(statistic=statistic, **others)))


def of_clips(clips: Clips, sizes: Sequence[int], **model: Any) -> Array:
    """The statistics of clips by way of batches of these sizes."""
    vectors, levels = (torch.from_numpy(np.concatenate([getattr(clip, name) for clip in clips])) for name in NAMES)
    owners = torch.tensor([index for index, clip in enumerate(clips) for _ in range(len(clip))])
    batches = zip(*(torch.split(values, list(sizes)) for values in (vectors, levels, owners)), strict=True)
    (found,) = clip_statistics(batches, clip_count=len(clips), each=[Statistics.of(stat.Settings(**model))])
    return found


def mean_by_level(windows: Windows, share: float, *, loudest: bool) -> Array:
    """From the definition, window by window."""
    count = max(int(np.ceil(round(share * len(windows), 9))), 1)
    sign = -1 if loudest else 1
    order = sorted(range(len(windows)), key=lambda window: (sign * windows.levels[window], window))
    return np.asarray(np.mean([windows.vectors[window].astype(np.float64) for window in order[:count]], axis=0))


def mean_by_rank(vectors: Array, decay: float) -> Array:
    weights = np.array([decay**rank for rank in range(len(vectors))])
    return np.array([np.average(sorted(column, reverse=True), weights=weights) for column in vectors.T])


#: Each statistic from numpy alone: of float64 vectors, with `share` and `decay`.
DEFINITIONS: dict[str, Callable[[Windows, Array, float, float], Array]] = {
    "mean": lambda windows, x, share, decay: mean_by_rank(x, decay),
    "median": lambda windows, x, share, decay: np.asarray(np.median(x, axis=0)),
    "quantile": lambda windows, x, share, decay: np.asarray(np.quantile(x, share, axis=0)),
    "minimum": lambda windows, x, share, decay: x.min(axis=0),
    "maximum": lambda windows, x, share, decay: x.max(axis=0),
    "quiet": lambda windows, x, share, decay: mean_by_level(windows, share, loudest=False),
    "loud": lambda windows, x, share, decay: mean_by_level(windows, share, loudest=True),
    "deviation": lambda windows, x, share, decay: x.std(axis=0),
    "change": lambda windows, x, share, decay: np.diff(x, axis=0).std(axis=0) if len(x) > 1 else 0 * x[0],
}


def test_every_statistic_has_a_definition_here() -> None:
    assert tuple(DEFINITIONS) == STATISTICS


@pytest.mark.parametrize("length", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("share", [1e-9, 0.07, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_statistic_is_its_definition(statistic: str, share: float, length: int) -> None:
    windows = windows_of(length)
    for decay in (0.0, 0.5, 0.97, 1.0):
        expected = DEFINITIONS[statistic](windows, windows.vectors.astype(np.float64), share, decay)
        found = statistic_of(windows, statistic, share=share, decay=decay)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stack", ["quantile+maximum", "change+mean+quiet", "+".join(STATISTICS)])
def test_a_stack_has_one_statistic_after_another_in_the_order_of_their_names(stack: str) -> None:
    windows = windows_of(20)
    parts = [statistic_of(windows, name, share=0.2, decay=0.9) for name in stack.split("+")]
    np.testing.assert_array_equal(statistic_of(windows, stack, share=0.2, decay=0.9), np.concatenate(parts))


def test_of_equally_loud_windows_the_earlier_ones_count() -> None:
    windows = Windows(np.arange(4, dtype=np.float32)[:, None], np.array([-50, -40, -40, -40], dtype=np.float32))
    assert statistic_of(windows, "loud", share=0.5).tolist() == [1.5]
    assert statistic_of(windows, "quiet", share=0.5).tolist() == [0.5]


@pytest.mark.parametrize(("share", "length", "counted"), [(0.07, 100, 7), (0.3, 50, 15), (0.31, 50, 16), (1e-9, 5, 1)])
def test_a_share_that_is_a_whole_number_of_windows_is_that_many(share: float, length: int, counted: int) -> None:
    ramp = np.arange(length, dtype=np.float32)
    windows = Windows(ramp[:, None], ramp)
    assert statistic_of(windows, "quiet", share=share).tolist() == [ramp[:counted].mean()]


def test_a_level_is_the_mean_of_a_window_s_inputs_of_any_shape() -> None:
    inputs = torch.from_numpy(np.random.default_rng(0).normal(-40, 9, (5, 1, 8, 6)).astype(np.float32))
    expected = inputs.numpy().astype(np.float64).mean(axis=(1, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(input_levels(inputs).numpy(), expected)
    np.testing.assert_array_equal(input_levels(inputs.reshape(5, 48)).numpy(), expected)


CLIPS = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(
    lambda lengths: [windows_of(length, seed=index) for index, length in enumerate(lengths)]
)
ALL = {"statistic": "+".join(STATISTICS), "share": 0.3, "decay": 0.8, "whiten": 3}


@settings(max_examples=50, deadline=None, database=None)
@given(clips=CLIPS, data=st.data())
def test_batches_may_cut_clips_anywhere(clips: Clips, data: st.DataObject) -> None:
    total = sum(map(len, clips))
    cuts = sorted(data.draw(st.sets(st.integers(1, total - 1)))) if total > 1 else []
    sizes = np.diff([0, *cuts, total]).tolist()
    np.testing.assert_array_equal(of_clips(clips, sizes, **ALL), of_clips(clips, [total], **ALL))


@settings(max_examples=50, deadline=None, database=None)
@given(clips=CLIPS, data=st.data())
def test_a_clip_has_the_same_statistics_alone_and_among_others_in_any_order(clips: Clips, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(clips))))
    moved = of_clips([clips[index] for index in order], [sum(map(len, clips))], **ALL)
    for row, index in zip(moved, order, strict=True):
        np.testing.assert_array_equal(row, of_clips([clips[index]], [len(clips[index])], **ALL)[0])


def test_several_statistics_of_one_pass_are_those_of_a_pass_each() -> None:
    clips = [windows_of(length) for length in (5, 1, 30)]
    each: list[dict[str, Any]] = [{}, {"decay": 0.5}, {"statistic": "quiet+median", "share": 0.4}, ALL]
    vectors, levels = (torch.from_numpy(np.concatenate([getattr(c, name) for c in clips])) for name in NAMES)
    batch = vectors, levels, torch.tensor([0] * 5 + [1] + [2] * 30)

    together = clip_statistics([batch], clip_count=3, each=[Statistics.of(stat.Settings(**model)) for model in each])

    for found, model in zip(together, each, strict=True):
        np.testing.assert_array_equal(found, of_clips(clips, [36], **model))


VECTORS = st_numpy.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)
)


@settings(max_examples=50, deadline=None, database=None)
@given(vectors=VECTORS, low=st.floats(0.01, 1), high=st.floats(0.01, 1))
def test_quantiles_rise_with_their_share_from_the_minimum_to_the_maximum(
    vectors: npt.NDArray[np.float32], low: float, high: float
) -> None:
    windows = Windows(vectors, vectors.mean(axis=1))
    low, high = min(low, high), max(low, high)
    ascending = [
        statistic_of(windows, "minimum"),
        statistic_of(windows, "quantile", share=low),
        statistic_of(windows, "quantile", share=high),
        statistic_of(windows, "maximum"),
    ]
    assert (np.diff(ascending, axis=0) >= -1e-9).all()
    np.testing.assert_array_equal(statistic_of(windows, "quantile", share=1), statistic_of(windows, "maximum"))
    np.testing.assert_array_equal(statistic_of(windows, "quantile", share=0.5), statistic_of(windows, "median"))
    np.testing.assert_array_equal(statistic_of(windows, "mean", decay=0), statistic_of(windows, "maximum"))


@settings(max_examples=50, deadline=None, database=None)
@given(vectors=VECTORS, share=st.floats(0.01, 1), data=st.data())
def test_frames_are_on_average_no_louder_in_quiet_windows_than_in_all_and_in_loud_ones(
    vectors: npt.NDArray[np.float32], share: float, data: st.DataObject
) -> None:
    windows = Windows(vectors, input_levels(torch.from_numpy(vectors)).numpy())
    quiet, every, loud = (
        statistic_of(windows, statistic, share=share).mean() for statistic in ("quiet", "mean", "loud")
    )
    assert quiet <= every + 1e-4 and every <= loud + 1e-4
    order = data.draw(st.permutations(range(len(vectors))))
    moved = Windows(windows.vectors[order], windows.levels[order])
    if len(set(windows.levels)) == len(windows):
        assert statistic_of(moved, "quiet", share=share) == pytest.approx(statistic_of(windows, "quiet", share=share))


@settings(max_examples=50, deadline=None, database=None)
@given(vectors=VECTORS, shift=st.floats(-50, 50, width=32))
def test_deviation_and_change_ignore_the_level(vectors: npt.NDArray[np.float32], shift: float) -> None:
    for statistic in ("deviation", "change"):
        there, shifted = (
            statistic_of(Windows(values, values.mean(axis=1)), statistic)
            for values in (vectors, vectors + np.float32(shift))
        )
        np.testing.assert_allclose(shifted, there, atol=1e-3)
        assert (there >= 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_dimension_with_a_value_that_is_not_finite_has_no_statistic(statistic: str, value: float) -> None:
    windows = windows_of(9)
    windows.vectors[3, 1] = value
    assert np.isnan(statistic_of(windows, statistic)).tolist() == [False, True, False]


def test_there_must_be_windows() -> None:
    with pytest.raises(ValueError, match="no windows"):
        clip_statistics([], clip_count=2, each=[Statistics.of(stat.Settings())])


@pytest.mark.parametrize("bands", [3, 5, 15, 41])
@pytest.mark.parametrize("parts", [1, 2])
def test_whitening_subtracts_the_running_median_of_each_part_whose_ends_are_repeated(parts: int, bands: int) -> None:
    statistics = np.random.default_rng(0).normal(size=(4, 16 * parts))
    half = bands // 2
    for row, found in zip(statistics, whitened(statistics, parts=parts, bands=bands), strict=True):
        for part, own in zip(np.split(row, parts), np.split(found, parts), strict=True):
            padded = np.pad(part, half, mode="edge")
            medians = [np.median(padded[band : band + bands]) for band in range(16)]
            np.testing.assert_array_equal(own, part - medians)


def test_without_whitening_statistics_stay_as_they_are() -> None:
    statistics = np.random.default_rng(0).normal(size=(2, 5))
    np.testing.assert_array_equal(whitened(statistics, parts=1, bands=0), statistics)


@pytest.mark.parametrize("family", [ae, cae, classifier, stat, vae], ids=lambda family: family.__name__)
def test_every_family_with_densities_takes_the_plain_mean_unless_told_otherwise(family: Any) -> None:
    chosen = family.Settings()
    assert (chosen.statistics, chosen.decay, chosen.bands_of_median) == (("mean",), 1.0, 0)
    stacked = family.Settings(statistic=["quantile", "maximum"])
    assert (stacked.statistic, stacked.statistics) == ("quantile+maximum", ("quantile", "maximum"))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"statistic": "qantile"}, "each statistic must be one of mean, .* but got 'qantile'; did you mean quantile?"),
        ({"statistic": ""}, "each statistic must be one of mean, .* but got ''"),
        ({"statistic": "quantile+"}, "must stand between two names, but got 'quantile\\+': write quantile, or name"),
        ({"statistic": "+"}, "must stand between two names, but got '\\+': write mean, or name another statistic"),
        ({"statistic": ["mean", "loud", "mean"]}, r"each statistic may stand once, but got mean\+loud\+mean"),
        ({"statistic": 3}, "should be a valid string"),
        ({"share": 0.0}, "greater than 0"),
        ({"share": 1.01}, "less than or equal to 1"),
        ({"whiten": 1}, "odd number from 3, .* but got 1: write 3"),
        ({"whiten": 14}, "odd number from 3, .* but got 14: write 15"),
        ({"whiten": -3}, "greater than or equal to 0"),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        stat.Settings.model_validate(content)


def test_a_setting_without_effect_makes_no_other_reading() -> None:
    assert Statistics.of(vae.Settings(score="knn", share=0.25)) == Statistics.of(vae.Settings(score="knn"))
    assert Statistics.of(stat.Settings(statistic="quiet", decay=0.5)) == Statistics.of(stat.Settings(statistic="quiet"))


@pytest.mark.parametrize(
    ("chosen", "idle"),
    [
        (vae.Settings(), {"statistic", "share", "decay"}),  # no density judges
        (vae.Settings(statistic="quiet"), {"statistic", "share", "decay"}),
        (vae.Settings(score="knn"), {"share"}),
        (vae.Settings(score="knn", statistic="maximum+quiet"), {"decay"}),
        (stat.Settings(statistic="mean+quantile"), set()),
        (stat.Settings(statistic="change"), {"share", "decay"}),
    ],
)
def test_a_setting_counts_beside_a_stack_that_has_its_value(chosen: DensitySettings, idle: set[str]) -> None:
    assert chosen.idle & {"statistic", "share", "decay"} == idle
