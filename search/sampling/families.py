"""Which family of a conditional space gets the next trial: families share time, not trials.

seconds  : how long workers have worked on a trial, over all its attempts.
expected : seconds that a trial of a family is expected to take: the median of its ended trials. A family without one is
           expected to take as long as the others do on average.
typical  : the mean of the families' expected seconds.
charge   : what a family pays for a trial: its seconds, but at least a third of a typical trial. One that has not ended
           pays at least what is expected of it; one that failed pays at least a typical trial.

The rules:

1. Each family gets one trial before any family gets a second one.
2. From then on, the family that is k-th best gets 1/k of the time of the best one. So a slow family does not hold up
   quick ones: after its first trial they work, by their ranks, until their times are in proportion. It gets its random
   trials (`STARTUP`) when its share of time has room for them.
3. By the least charge, a quick family gets at most three trials in the time of a typical one, and settings that fail
   at once do not use up a study's trials. A budget has trials, too: with a tenth in place of a third, a quick family
   that is decent at once takes most of 200 trials, and the slow one that would beat it never gets enough
   (benchmarks/conditional.py).
4. Two families are compared by equally many of their first trials: the best of fifty is higher than the best of two by
   luck alone, and slow families have few.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from optuna.trial import FrozenTrial

from search.storage.optuna_rows import seconds_of
from search.storage.study_rows import Remaining
from search.study.search_settings import keeps_to_limits

#: Random trials of a family before TPE samples its settings. TPE's own default of 10 is meant for a whole study.
STARTUP = 5

#: A trial is charged at least this share of a typical trial.
LEAST_CHARGE = 1 / 3


def families_by_claim(
    families: Sequence[str], trials: Sequence[FrozenTrial], remaining: Remaining | None = None
) -> list[str]:
    """The families in order of their claim to the next trial: first the one furthest behind its share of time.

    At the end of a study, by what is `remaining` of its budget when the trial begins:

    - If fewer trials are left than twice the workers, those of the slowest families begin first, so that no worker
      trains a long one alone at the end. Which families these trials are of does not change.
    - Families whose trials are expected to outlast the study's hours are left out, unless all are. A family that has
      not ended any trial is taken to fit.
    """
    by_family = {family: [t for t in trials if t.params.get("family") == family] for family in families}
    medians = _medians(by_family)
    expected = {family: medians.get(family, _mean(medians.values())) for family in families}
    typical = _mean(expected.values())
    ranks = _ranks(by_family)
    spent = {
        family: sum(_charge(trial, expected[family], typical) for trial in own) for family, own in by_family.items()
    }

    def claims() -> list[str]:
        return sorted(families, key=lambda family: spent[family] * ranks[family])

    by_claim = claims()
    if remaining is None:
        return by_claim
    if remaining.trials < 2 * remaining.workers:
        due = dict.fromkeys(families, False)
        for _ in range(remaining.trials):
            family = claims()[0]
            due[family] = True
            spent[family] += max(expected[family], LEAST_CHARGE * typical)
        by_claim.sort(key=lambda family: (not due[family], -expected[family] if due[family] else 0.0))
    left = math.inf if remaining.seconds is None else remaining.seconds
    return [family for family in by_claim if medians.get(family, 0.0) <= left] or by_claim


def _medians(by_family: Mapping[str, Sequence[FrozenTrial]]) -> dict[str, float]:
    ended = {family: [seconds_of(t) for t in trials if t.state.is_finished()] for family, trials in by_family.items()}
    return {family: statistics.median(seconds) for family, seconds in ended.items() if seconds}


def _mean(seconds: Iterable[float]) -> float:
    known = list(seconds)
    return (statistics.fmean(known) if known else 0.0) or 1.0  # whatever the unit, if nothing is known


def _charge(trial: FrozenTrial, expected: float, typical: float) -> float:
    least = LEAST_CHARGE * typical
    if not trial.state.is_finished():
        return max(seconds_of(trial), expected, least)
    return max(seconds_of(trial), least if trial.values else typical)


def _ranks(by_family: Mapping[str, Sequence[FrozenTrial]]) -> dict[str, int]:
    """1 for the best family, and 1 more for each family that is better. All are 1 with several objectives.

    A pruned trial's value is its last report. A trial that failed, or is beyond a limit of the study, has none.
    """
    values: dict[str, list[float]] = {}
    for family, trials in by_family.items():
        ended = [trial for trial in trials if trial.state.is_finished()]
        if any(len(trial.values or ()) > 1 for trial in ended):
            return dict.fromkeys(by_family, 1)
        values[family] = [trial.values[0] if trial.values and keeps_to_limits(trial) else -math.inf for trial in ended]

    def is_better(one: str, other: str) -> bool:
        count = min(len(values[one]), len(values[other]))
        return max(values[one][:count], default=-math.inf) > max(values[other][:count], default=-math.inf)

    return {family: 1 + sum(is_better(other, family) for other in values) for family in values}
