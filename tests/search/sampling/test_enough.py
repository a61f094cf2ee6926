"""The rule by which a study ends itself, on made trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search.sampling.enough import EXPECTED, TOLD, Prospect, Values, prospect

#: The standard error of the difference of any two trials in these tests.
ERROR = 0.02


def noise(trial: int) -> Values:
    """Vectors whose differences all have the length `ERROR`."""
    return np.asarray(np.eye(400)[trial] * ERROR / np.sqrt(2))


def asked(values: Any, *, remaining: int, families: Any = None, first: int = 0, **changes: Any) -> Prospect | None:
    values = np.array(values, dtype=np.float64)
    families = np.zeros(len(values), dtype=np.int64) if families is None else np.array(families)
    drawn = np.arange(len(values)) >= first
    arguments = {"noise": noise, "remaining": remaining, "count": int(families.max()) + 1, **changes}
    return prospect(values, drawn, families, **arguments)


def plateau(trials: int, *, top: float = 0.9, spread: float = 0.003, seed: int = 0) -> Values:
    """Draws of a search that has nothing more to find."""
    return top + spread * np.random.default_rng(seed).standard_normal(trials)


def test_the_expectation_is_that_of_exponential_excesses_of_the_best_quarter() -> None:
    values = np.random.default_rng(1).uniform(0.6, 0.8, 40)

    found = asked(values, remaining=20)

    tail, threshold = np.sort(values)[-10:], np.sort(values)[-11]
    climb = max(0.0, values[20:].max() - values[:20].max()) * (20 / 20)
    x = values.max() + TOLD * ERROR - climb - threshold
    chance = (1 + x / (tail - threshold).sum()) ** -10  # of a draw above the threshold
    assert found is not None
    assert found.margin == pytest.approx(TOLD * ERROR)
    assert found.expected == pytest.approx(20 * 10 / 40 * chance)


@pytest.mark.parametrize(
    ("values", "remaining", "is_enough"),
    [
        (plateau(60), 50, True),
        (plateau(60), 65, False),  # more are left than have ended
        ([*plateau(55, top=0.8), *plateau(5)], 40, False),  # the best has just risen
        (np.linspace(0.5, 0.9, 60), 40, False),  # it climbs
        (np.random.default_rng(0).beta(2, 2, 60), 40, False),  # good ones are rare: the tail is long
        ([*plateau(30), *[np.nan] * 30], 40, True),  # half of them were pruned
        ([0.999, *plateau(59, top=0.7)], 40, True),  # no metric exceeds 1
        ([0.9] * 60, 40, True),  # settings without effect: one detector, again and again
    ],
)
def test_a_study_ends_only_where_what_is_left_cannot_be_told_from_the_best(
    values: Any, remaining: int, is_enough: bool
) -> None:
    found = asked(values, remaining=remaining)
    assert found is not None
    assert found.is_enough is is_enough


def test_a_family_that_has_not_had_its_share_or_may_still_win_keeps_the_study_going() -> None:
    decent, other = plateau(60), [0.5, 0.6, 0.55, 0.84, 0.7, 0.58]
    families = [0] * 60 + [1] * 6

    few = asked([*decent, *other[:4]], remaining=20, families=families[:64])
    wide = asked([*decent, *other], remaining=20, families=families)
    poor = asked([*decent, *plateau(6, top=0.6)], remaining=20, families=families)

    assert few is None
    assert wide is not None
    assert poor is not None
    assert wide.expected > EXPECTED > poor.expected


def test_trials_of_the_portfolio_can_lead_and_are_no_draws() -> None:
    first = [0.5, 0.95, 0.7]

    found = asked([*first, *plateau(40)], remaining=30, first=3)
    alone = asked(plateau(40), remaining=30)

    assert found is not None
    assert alone is not None
    assert found.since == 41
    assert found.expected < alone.expected, "the draws are further from the best"
    assert asked([*first, *plateau(9)], remaining=5, first=3) is None, "too few draws"


def test_nothing_is_said_where_clips_give_no_standard_error_or_no_trial_is_complete() -> None:
    assert asked(plateau(60), remaining=20, noise=lambda trial: None) is None
    assert asked([np.nan] * 60, remaining=20) is None
