"""The 95 % interval of a metric, from its resamples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from search.evaluation.interval import Interval


def test_it_is_the_middle_95_percent_of_the_resamples_in_whatever_order() -> None:
    resampled = np.random.default_rng(0).permutation(np.arange(2001) / 2000)

    assert Interval.of(resampled) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize(
    ("interval", "value", "expected"),
    [
        (Interval(-0.1, 0.2), 0.0, True),
        (Interval(0.0, 0.2), 0.0, True),
        (Interval(-0.2, 0.0), 0.0, True),
        (Interval(0.01, 0.2), 0.0, False),
        (Interval(-0.2, -0.01), 0.0, False),
    ],
)
def test_it_includes_its_ends_and_what_lies_between(interval: Interval, value: float, expected: bool) -> None:
    assert interval.includes(value) == expected


def test_it_is_a_pair_of_numbers_in_python_and_in_json() -> None:
    low, high = Interval(0.25, 0.75)

    assert (low, high) == (0.25, 0.75)
    assert json.dumps(Interval(low, high)) == "[0.25, 0.75]"
