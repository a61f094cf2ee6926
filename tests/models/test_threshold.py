from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.threshold import normal_quantile

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
        (0.0, 21),  # nothing exceeds the highest score
        (0.04, 21),  # a rate below 1/n cannot be told
        (0.05, 20),  # one of 21 exceeds it: 4.8 %
        (0.1, 19),  # two: 9.5 %
        (0.5, 11),  # the median
    ],
)
def test_of_the_scores_1_to_21(rate: float, threshold: float) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 22.0))
    assert normal_quantile(scores, false_alarm_rate=rate) == threshold


def test_of_one_clip_it_is_that_clips_score() -> None:
    assert normal_quantile(np.array([0.25]), false_alarm_rate=0.5) == 0.25
