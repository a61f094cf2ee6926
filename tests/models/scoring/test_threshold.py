from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gamma, norm

from models.scoring.threshold import fewest_clips, gamma_quantile, lowest_rate, normal_quantile, threshold_of
from models.settings import ScoringSettings

RATES = st.floats(0, 1, exclude_max=True)
SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@settings(max_examples=50, deadline=None, database=None)
@given(scores=SCORES, rate=RATES)
def test_no_larger_share_of_normal_clips_than_the_rate_exceeds_it(scores: list[float], rate: float) -> None:
    threshold = normal_quantile(np.array(scores), false_alarm_rate=rate)
    assert threshold in scores
    assert np.mean(np.array(scores) > threshold) <= rate


@settings(max_examples=50, deadline=None, database=None)
@given(scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60, unique=True), rate=RATES)
def test_it_is_no_stricter_than_the_rate_asks_for(scores: list[float], rate: float) -> None:
    threshold = normal_quantile(np.array(scores), false_alarm_rate=rate)
    assert np.mean(np.array(scores) > threshold) >= rate - 2 / len(scores)


@settings(max_examples=30, deadline=None, database=None)
@given(scores=SCORES, rates=st.tuples(RATES, RATES))
def test_fewer_false_alarms_take_a_threshold_at_least_as_high(scores: list[float], rates: tuple[float, float]) -> None:
    low, high = (normal_quantile(np.array(scores), false_alarm_rate=rate) for rate in sorted(rates, reverse=True))
    assert low <= high


@pytest.mark.parametrize(
    ("rate", "threshold"),
    [
        (0.0, 21),  # no threshold gives it: the highest score
        (0.04, 21),  # nor this: a new clip exceeds the highest of 21 with the probability 1/22
        (0.05, 21),  # 1/22 is 4.5 %
        (0.1, 20),  # 2/22 is 9.1 %, 3/22 would be 13.6 %
        (0.5, 11),  # 11/22, the median
    ],
)
def test_of_the_scores_1_to_21(rate: float, threshold: float) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 22.0))
    assert normal_quantile(scores, false_alarm_rate=rate) == threshold


@pytest.mark.parametrize(
    ("rate", "clips"), [(0.5, 1), (0.1, 9), (0.05, 19), (0.02, 49), (0.01, 99), (0.07, 14), (0.3, 3), (0.9, 1)]
)
def test_a_rate_takes_so_many_clips(rate: float, clips: int) -> None:
    assert fewest_clips(rate) == clips
    assert lowest_rate(clips) <= rate + 1e-12
    assert clips == 1 or lowest_rate(clips - 1) > rate


@pytest.mark.parametrize("clips", [9, 11, 15, 20, 49])
@pytest.mark.parametrize("normal", [norm(), gamma(2.0)], ids=["normal", "gamma"])
def test_new_normal_clips_are_above_at_most_as_often_as_promised(normal: Any, clips: int) -> None:
    # Of 11 clips, numpy's quantile "higher" is the second highest score, which 2/12 of new clips exceed.
    scores = normal.rvs(size=(4000, clips), random_state=clips)
    shares = normal.sf([normal_quantile(row, false_alarm_rate=0.1) for row in scores])
    assert np.mean(shares) == pytest.approx((0.1 * (clips + 1)) // 1 / (clips + 1), abs=0.005)


def test_of_one_clip_it_is_that_clips_score() -> None:
    assert normal_quantile(np.array([0.25]), false_alarm_rate=0.5) == 0.25


@pytest.mark.parametrize("normal", [gamma(1.0), gamma(4.0, loc=-30.0), norm()], ids=["exponential", "gamma", "normal"])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_a_gamma_keeps_the_rate_of_false_alarms(normal: Any, rate: float) -> None:
    scores = normal.rvs(size=400, random_state=0)
    threshold = gamma_quantile(scores, false_alarm_rate=rate)
    assert normal.sf(threshold) == pytest.approx(rate, abs=0.01 + 0.1 * rate)


def test_the_gamma_is_scipys_begun_where_it_is_likeliest_below_the_lowest_score() -> None:
    scores = np.random.default_rng(0).normal(-5, 3, 30)
    fits = [gamma.fit(scores, floc=scores.min() - origin * scores.std()) for origin in (0.1, 0.3, 1, 3, 10)]
    likeliest = max(fits, key=lambda fit: float(gamma.logpdf(scores, *fit).sum()))
    assert gamma_quantile(scores, false_alarm_rate=0.1) == pytest.approx(gamma.isf(0.1, *likeliest))


def test_one_normal_clip_that_stands_out_does_not_put_the_gammas_threshold_among_the_others() -> None:
    scores = np.append(np.random.default_rng(0).normal(size=99), 100.0)
    assert 1 < gamma_quantile(scores, false_alarm_rate=0.1) < 30


def test_a_gamma_tells_rates_below_what_the_clips_can() -> None:
    scores = np.random.default_rng(0).gamma(4, size=10)
    rare, rarer = (gamma_quantile(scores, false_alarm_rate=rate) for rate in (0.01, 0.001))
    assert scores.max() < rare < rarer
    assert normal_quantile(scores, false_alarm_rate=0.001) == scores.max()


@settings(max_examples=30, deadline=None, database=None)
@given(scores=SCORES, factor=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3), rate=st.floats(0.001, 0.5))
def test_a_gammas_threshold_follows_the_unit_and_origin_of_scores(
    scores: list[float], factor: float, offset: float, rate: float
) -> None:
    usual = gamma_quantile(np.array(scores), false_alarm_rate=rate)
    moved = gamma_quantile(np.array(scores) * factor + offset, false_alarm_rate=rate)
    size = factor * max(map(abs, scores)) + abs(offset)
    assert moved == pytest.approx(factor * usual + offset, abs=1e-6 * size + 1e-9)


@settings(max_examples=30, deadline=None, database=None)
@given(scores=SCORES, rates=st.tuples(RATES, RATES).filter(min))
def test_a_gammas_threshold_rises_with_the_false_alarms_that_are_not_wanted(
    scores: list[float], rates: tuple[float, float]
) -> None:
    low, high = (gamma_quantile(np.array(scores), false_alarm_rate=rate) for rate in sorted(rates, reverse=True))
    assert np.isfinite([low, high]).all()
    assert low <= high


@settings(max_examples=30, deadline=None, database=None)
@given(scores=SCORES, rate=st.floats(0.001, 0.25))
def test_a_gammas_threshold_lies_above_the_mean_of_normal_clips(scores: list[float], rate: float) -> None:
    threshold = gamma_quantile(np.array(scores), false_alarm_rate=rate)
    assert threshold >= np.mean(scores) - 1e-9 * max(map(abs, scores))


@pytest.mark.parametrize("scores", [[0.25], [1.0, 2.0], [0.1] * 9, [5.0, 5.0, 5.0, 5.0, 5.0]])
@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_where_no_gamma_can_be_fitted_it_is_the_empirical_quantile(scores: list[float], rate: float) -> None:
    expected = normal_quantile(np.array(scores), false_alarm_rate=rate)
    assert gamma_quantile(np.array(scores), false_alarm_rate=rate) == expected


@pytest.mark.parametrize(("threshold", "rate"), [("quantile", 0.1), ("gamma", 0.1), ("gamma", 0.02)])
def test_a_recipe_says_which_threshold_and_which_rate(threshold: Literal["quantile", "gamma"], rate: float) -> None:
    scores = np.random.default_rng(0).normal(size=50)
    expected = {"quantile": normal_quantile, "gamma": gamma_quantile}[threshold](scores, false_alarm_rate=rate)
    assert threshold_of(scores, ScoringSettings(threshold=threshold, false_alarm_rate=rate)) == expected
