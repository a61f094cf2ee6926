"""Which family gets the next trial: shares of time, first trials, and the end of a study."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.sampling.families import LEAST_CHARGE, families_by_claim
from search.storage.optuna_rows import seconds_of
from search.storage.study_rows import Remaining

FAMILIES = ("vae", "cae", "stat")

COMPLETE, PRUNED, RUNNING, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL


def trial(
    family: str,
    value: float | None = None,
    *,
    seconds: float | None = 10.0,
    state: TrialState = COMPLETE,
    families: Sequence[str] = FAMILIES,
) -> FrozenTrial:
    """A trial that took so many seconds; one that is pruned without a value has failed."""
    return create_trial(
        state=state,
        value=value,
        params={"family": family},
        distributions={"family": CategoricalDistribution(families)},
        user_attrs={} if seconds is None else {"seconds": seconds},
    )


def several(family: str, count: int, *, value: float = 0.6, seconds: float = 10.0) -> list[FrozenTrial]:
    return [trial(family, value, seconds=seconds) for _ in range(count)]


def course(
    aucs: Mapping[str, float | None], seconds: Mapping[str, float], *, hours: float, most: int = 10**6
) -> list[FrozenTrial]:
    """The trials of one worker in that time; each family has the same value in all of its trials, or fails."""
    trials: list[FrozenTrial] = []
    families, clock = tuple(aucs), 0.0
    while len(trials) < most:
        family = families_by_claim(families, trials)[0]
        clock += seconds[family]
        if clock > 3600 * hours:
            break
        value = aucs[family]
        state = PRUNED if value is None else COMPLETE
        trials.append(trial(family, value, seconds=seconds[family], state=state, families=families))
    return trials


def spent(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    by_family: dict[str, float] = defaultdict(float)
    for one in trials:
        by_family[one.params["family"]] += seconds_of(one)
    return by_family


@pytest.mark.parametrize(
    "seconds",
    [
        {"vae": 10.0, "cae": 10.0, "stat": 10.0},
        {"vae": 40.0, "cae": 10.0, "stat": 9.0},
        {"vae": 12.0, "cae": 60.0, "stat": 20.0},
    ],
)
def test_the_kth_best_family_gets_one_kth_of_the_time_of_the_best(seconds: dict[str, float]) -> None:
    time = spent(course({"vae": 0.7, "cae": 0.9, "stat": 0.8}, seconds, hours=5))

    assert time["cae"] / time["stat"] == pytest.approx(2, rel=0.05)
    assert time["cae"] / time["vae"] == pytest.approx(3, rel=0.05)


def test_families_whose_trials_take_equally_long_get_shares_of_the_trials() -> None:
    trials = course({"vae": 0.7, "cae": 0.9, "stat": 0.8}, dict.fromkeys(FAMILIES, 10.0), hours=1100 / 3600)

    assert Counter(one.params["family"] for one in trials) == {"cae": 60, "stat": 30, "vae": 20}


def test_a_slow_family_has_its_first_trial_and_waits_until_quick_ones_have_had_as_long() -> None:
    trials = course({"vae": 0.7, "cae": 0.7, "stat": 0.7}, {"vae": 20.0, "cae": 100.0, "stat": 20.0}, hours=1)
    numbers = [number for number, one in enumerate(trials) if one.params["family"] == "cae"]

    assert numbers[0] < len(FAMILIES)
    assert numbers[1] >= 1 + 2 * 100 / 20


def test_a_quick_family_gets_no_thousand_trials() -> None:
    aucs = {"vae": 0.7, "cae": 0.7, "stat": 0.9}
    trials = course(aucs, {"vae": 60.0, "cae": 60.0, "stat": 0.01}, hours=2)
    given = Counter(one.params["family"] for one in trials)

    typical = (60 + 60 + 0.01) / 3
    most = (60 / typical) / LEAST_CHARGE * 2 * (given["vae"] + 1)  # it is the best: twice the time of the others
    assert 5 * given["vae"] < given["stat"] <= most
    assert 2 * 3600 - sum(spent(trials).values()) <= 60, "and the time is not its own"


def test_a_family_that_fails_at_once_does_not_use_up_the_trials() -> None:
    trials = course({"vae": 0.7, "cae": 0.9, "stat": None}, {"vae": 60.0, "cae": 60.0, "stat": 0.0}, hours=9, most=200)

    assert 2 <= Counter(one.params["family"] for one in trials)["stat"] <= 60


@settings(max_examples=60, deadline=None, database=None)
@given(
    aucs=st.lists(st.floats(0.5, 1.0) | st.none(), min_size=3, max_size=3),
    seconds=st.lists(st.floats(0.0, 1000.0), min_size=3, max_size=3),
    count=st.integers(0, 12),
)
def test_all_families_are_listed_and_all_have_a_trial_before_any_has_two(
    aucs: list[float | None], seconds: list[float], count: int
) -> None:
    by_family = dict(zip(FAMILIES, aucs, strict=True))
    trials = course(by_family, dict(zip(FAMILIES, seconds, strict=True)), hours=math.inf, most=count)

    assert sorted(families_by_claim(FAMILIES, trials)) == sorted(FAMILIES)
    assert len({one.params["family"] for one in trials[:3]}) == min(count, 3)


A_TRIAL_OF_EACH = [trial("vae", 0.6, seconds=30), trial("cae", 0.6, seconds=50), trial("stat", 0.6, seconds=45)]


@pytest.mark.parametrize(
    ("earlier", "by_claim"),
    [
        ([], ["vae", "cae", "stat"]),
        ([trial("vae", 0.9)], ["cae", "stat", "vae"]),
        # Each running trial counts: workers that begin together begin with different families.
        (
            [trial("vae", seconds=None, state=RUNNING), trial("cae", seconds=None, state=RUNNING)],
            ["stat", "vae", "cae"],
        ),
        # It counts as long as its family's ended ones took, or as it has run if that is longer.
        (
            [*A_TRIAL_OF_EACH, trial("vae", state=RUNNING, seconds=1)],
            ["stat", "cae", "vae"],
        ),
        (
            [*A_TRIAL_OF_EACH, trial("vae", state=RUNNING, seconds=1), trial("stat", state=RUNNING, seconds=70)],
            ["cae", "vae", "stat"],
        ),
        # A pruned one is as good as what it came to.
        (
            [trial("vae", 0.6), trial("cae", 0.5, state=PRUNED), trial("stat", 0.7, state=PRUNED)],
            ["stat", "vae", "cae"],
        ),
        # One that only fails comes last, and its turn comes all the same.
        ([trial("vae", state=PRUNED), trial("cae", 0.6), trial("stat", 0.7)], ["stat", "cae", "vae"]),
        ([trial("vae", state=FAIL), *several("cae", 4), *several("stat", 4, value=0.7)], ["vae", "stat", "cae"]),
        # Families are compared by equally many of their first trials: a fourth one's luck does not count.
        (
            [
                trial("vae", 0.7, seconds=40),
                *several("stat", 2, value=0.8, seconds=20),
                *several("cae", 3),
                trial("cae", 0.95),
            ],
            ["stat", "vae", "cae"],
        ),
    ],
)
def test_the_family_furthest_behind_its_share_comes_next(earlier: list[FrozenTrial], by_claim: list[str]) -> None:
    assert families_by_claim(FAMILIES, earlier) == by_claim


def test_with_several_objectives_all_families_get_the_same_time() -> None:
    def of(family: str, seconds: float) -> FrozenTrial:
        return create_trial(
            values=[0.9, 1.0],
            params={"family": family},
            distributions={"family": CategoricalDistribution(FAMILIES)},
            user_attrs={"seconds": seconds},
        )

    assert families_by_claim(FAMILIES, [of("vae", 30), of("cae", 10), of("stat", 20)]) == ["cae", "stat", "vae"]


def test_a_trial_of_an_earlier_version_has_the_time_from_its_start_to_its_end() -> None:
    old = trial("vae", 0.5, seconds=None)
    old.datetime_start = datetime(2026, 1, 1)
    old.datetime_complete = old.datetime_start + timedelta(seconds=90)

    assert seconds_of(old) == 90


#: Equal in rank and in time, so that claims go by the list; trials of cae take longest.
EVEN = [
    *several("vae", 4, seconds=30),
    *several("cae", 2, seconds=60),
    *several("stat", 10, seconds=12),
]


@pytest.mark.parametrize(
    ("remaining", "by_claim"),
    [
        (None, ["vae", "cae", "stat"]),
        (Remaining(trials=8, workers=4), ["vae", "cae", "stat"]),
        (Remaining(trials=7, workers=4), ["cae", "vae", "stat"]),  # all are due: the longest first
        (Remaining(trials=2, workers=4), ["cae", "vae", "stat"]),
        (Remaining(trials=1, workers=4), ["vae", "cae", "stat"]),  # cae is not due any more
        (Remaining(trials=1, workers=1), ["vae", "cae", "stat"]),
        (Remaining(trials=99, workers=4, seconds=60.0), ["vae", "cae", "stat"]),
        (Remaining(trials=99, workers=4, seconds=59.0), ["vae", "stat"]),
        (Remaining(trials=7, workers=4, seconds=29.0), ["stat"]),
        (
            Remaining(trials=99, workers=4, seconds=5.0),
            ["vae", "cae", "stat"],
        ),  # it has begun: a race, or a first trial
    ],
)
def test_at_the_end_the_longest_of_the_last_trials_begin_first_and_none_that_outlasts_the_hours(
    remaining: Remaining | None, by_claim: list[str]
) -> None:
    assert families_by_claim(FAMILIES, EVEN, remaining) == by_claim


def test_a_family_that_has_ended_no_trial_is_taken_to_fit() -> None:
    earlier = [*several("vae", 2, seconds=60), trial("cae", state=RUNNING, seconds=50), *several("stat", 2)]

    assert families_by_claim(FAMILIES, earlier, Remaining(trials=9, workers=1, seconds=20)) == ["stat", "cae"]


@settings(max_examples=60, deadline=None, database=None)
@given(
    aucs=st.lists(st.floats(0.5, 1.0), min_size=3, max_size=3),
    seconds=st.lists(st.floats(1.0, 300.0), min_size=3, max_size=3),
    workers=st.integers(2, 6),
    budget=st.integers(12, 40),
)
def test_the_last_trials_are_of_the_same_families_as_without_an_order(
    aucs: list[float], seconds: list[float], workers: int, budget: int
) -> None:
    took = dict(zip(FAMILIES, seconds, strict=True))
    earlier = course(dict(zip(FAMILIES, aucs, strict=True)), took, hours=math.inf, most=budget)
    remaining = Remaining(trials=2 * workers - 1, workers=workers)
    due = set()
    simulated = list(earlier)
    for _ in range(remaining.trials):
        due.add(family := families_by_claim(FAMILIES, simulated)[0])
        simulated.append(trial(family, seconds=None, state=RUNNING))

    first, *_ = families_by_claim(FAMILIES, earlier, remaining)
    assert first in due
    assert took[first] == max(took[family] for family in due)


def test_no_worker_trains_a_long_trial_alone_at_the_end() -> None:
    """Two workers and the last three trials: 60 s beside 30 + 30 s, instead of 30 beside 30 and then 60 alone."""
    earlier = several("vae", 3, seconds=30) + several("cae", 2, seconds=60)

    def ends(*, ordered: bool) -> float:
        trials, busy = list(earlier), [0.0, 0.0]
        for left in (3, 2, 1):
            begins = heapq.heappop(busy)
            remaining = Remaining(trials=left, workers=2) if ordered else None
            family = families_by_claim(("vae", "cae"), trials, remaining)[0]
            trials.append(trial(family, seconds=None, state=RUNNING))
            heapq.heappush(busy, begins + {"vae": 30.0, "cae": 60.0}[family])
        return max(busy)

    assert (ends(ordered=False), ends(ordered=True)) == (90, 60)
