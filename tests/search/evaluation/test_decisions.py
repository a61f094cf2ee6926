"""What thresholds decide, in counts with the intervals of Clopper and Pearson."""

from __future__ import annotations

import pytest
from scipy.stats import beta

from search.evaluation.decisions import Decisions, share_interval


@pytest.mark.parametrize(("count", "of"), [(3, 60), (41, 44), (0, 20), (20, 20), (0, 1), (1, 1)])
def test_a_share_has_the_interval_of_clopper_and_pearson(count: int, of: int) -> None:
    low = beta.ppf(0.025, count, of - count + 1) if count else 0
    high = beta.ppf(0.975, count + 1, of - count) if count < of else 1

    assert share_interval(count, of) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        (
            Decisions(60, 3, 44, 41),
            "Of 60 normal test clips 3 were called faulty (5.0 %, 95 % interval 1.0 % to 13.9 %), of 44 faulty ones 41 "
            "were found (93.2 %, 95 % interval 81.3 % to 98.6 %)",
        ),
        (Decisions(1, 1, 0, 0), "Of 1 normal test clip 1 was called faulty (100.0 %, 95 % interval 2.5 % to 100.0 %)"),
        (Decisions(0, 0, 3, 0), "Of 3 faulty test clips 0 were found (0.0 %, 95 % interval 0.0 % to 70.8 %)"),
        (Decisions(0, 0, 0, 0), "No test clip has a threshold"),
    ],
)
def test_decisions_are_a_sentence(decisions: Decisions, words: str) -> None:
    assert decisions.in_words == words


def test_the_decisions_of_machine_ids_add_up() -> None:
    assert Decisions.together([Decisions(1, 0, 2, 1), Decisions(10, 5, 20, 7)]) == Decisions(11, 5, 22, 8)
    assert Decisions.together([]) == Decisions(0, 0, 0, 0)
