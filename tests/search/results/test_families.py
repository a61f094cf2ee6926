"""Where a study's time went: the trials of each family, their time, and the best of them."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.results.families import family_trials

TREE: dict[str, Any] = {"model": [{"family": "vae"}, {"family": "stat"}, {"family": "stat", "name": "spectrum"}]}


def trial(
    number: int, name: str, value: float | None, seconds: float, *, state: TrialState = TrialState.COMPLETE
) -> FrozenTrial:
    made = create_trial(
        state=state,
        value=value,
        params={"family": name},
        distributions={"family": CategoricalDistribution(("vae", "stat", "spectrum"))},
        user_attrs={"seconds": seconds},
    )
    made.number = number
    return made


def rows(trials: list[FrozenTrial]) -> list[list[str]]:
    complete = [one for one in trials if one.state == TrialState.COMPLETE]
    finished = sorted(complete, key=lambda one: -(one.value or 0.0))
    return [family.row for family in family_trials(TREE, trials, finished)]


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (
            [],
            [["vae", "0", *"————"], ["stat", "0", *"————"], ["spectrum (stat)", "0", *"————"]],
        ),
        (
            [
                trial(0, "stat", 0.9, 0.3),
                trial(1, "vae", 0.7, 60.0),
                trial(2, "stat", 0.8, 0.1),
                trial(3, "vae", 0.6, 35.0, state=TrialState.PRUNED),
                trial(4, "vae", None, 4.6, state=TrialState.FAIL),
                trial(5, "spectrum", None, 30.0, state=TrialState.RUNNING),
            ],
            [
                ["vae", "3", "1 min 40 s", "100 %", "0.700", "1"],
                ["stat", "2", "0.4 s", "< 1 %", "0.900", "0"],
                ["spectrum (stat)", "0", *"————"],
            ],
        ),
        (
            [trial(0, "vae", 0.5, 10.0, state=TrialState.PRUNED), trial(1, "spectrum", 0.9, 30.0)],
            [
                ["spectrum (stat)", "1", "30 s", "75 %", "0.900", "1"],
                ["vae", "1", "10 s", "25 %", "—", "—"],
                ["stat", "0", *"————"],
            ],
        ),
    ],
    ids=["before", "time of all that have ended, the most first", "a family that was never complete"],
)
def test_each_family_has_its_trials_time_and_best(trials: list[FrozenTrial], expected: list[list[str]]) -> None:
    assert rows(trials) == expected


def test_a_study_of_one_family_has_no_table() -> None:
    assert family_trials({"model": {"family": "vae"}}, [], []) == ()
