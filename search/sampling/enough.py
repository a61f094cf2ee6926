"""The rule by which a study ends itself: no trial that is left can be told from the best by its validation clips.

values : (trials,) float, the ended trials' metric by number; NaN for a trial that is not complete or beyond a limit.
draws  : the trials whose settings the sampler suggested: all but the baseline and those of `search.first`.
noise  : (m,) float for each trial; the length of the difference of two is the standard error of the difference of
         their metrics (search.evaluation.noise).

A trial is told from the best one if it is ahead by more than `TOLD` standard errors of their difference: then the 95 %
interval of the difference of these two, taken alone, excludes 0. What is claimed of the best of many trials takes more
(search.evaluation.best_of_many): a study that waits for less ends later than it might. That error is taken to be the
median over the trials next to the best. A study knows enough once all of these hold:

1. The portfolio has ended, and each family has had `STARTUP` draws, all families together `FEWEST_DRAWS`.
2. Since the best value last rose by a standard error, at least as many trials have ended as are left. So no study ends
   before half of its trials.
3. The trials that are left are expected to hold at most `EXPECTED` that is told from the best.

The expectation adds up over the families, each with the share of the trials that it has had. A family's best quarter
lies above a threshold by excesses that are taken to be exponential, which is the longest tail of a metric that nears a
limit (Pickands, "Statistical inference using extreme order statistics", 1975). With k excesses of the sum S, the next
one is above x with the probability (1 + x/S)^-k: the exponential distribution with its mean unknown. Equal values
count once. A search that climbs goes on climbing: what the best of a family's later half gained over the best of its
earlier half, it may gain in each half as long to come.

Nobody can rule out a jump that nothing announces: benchmarks/stop.py has the rates of false stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search.sampling.families import STARTUP

Values = npt.NDArray[np.float64]

#: Standard errors by which a trial that is told from the best is ahead.
TOLD = 1.96

#: The most trials that may be expected to be told from the best among those that are left.
EXPECTED = 0.05

#: The fewest draws of all families together: TPE draws as many at random.
FEWEST_DRAWS = 2 * STARTUP

#: A family's tail is the best 1/4 of its complete draws.
_TAIL = 4

#: How many trials next to the best give the standard error of a difference.
_NEXT = 20


@dataclass(frozen=True)
class Prospect:
    """What the trials that are left may bring."""

    remaining: int  # trials that have not ended
    since: int  # trials that have ended since the best value last rose by a standard error
    margin: float  # how far ahead of the best a trial must be to be told from it
    expected: float  # how many of the remaining trials are expected to be

    @property
    def is_enough(self) -> bool:
        """Whether the study may end."""
        return self.since >= self.remaining and self.expected <= EXPECTED


def may_be_enough(ended: int, remaining: int) -> bool:
    """Whether a study with so many trials might end by the second condition; cheap to ask."""
    return ended > remaining


def prospect(
    values: Values,
    drawn: npt.NDArray[np.bool_],
    families: npt.NDArray[np.int64],
    noise: Callable[[int], Values | None],
    *,
    remaining: int,
    count: int = 1,
) -> Prospect | None:
    """Return what the trials that are left may bring, by those that have ended; None if these are too few to say.

    drawn    : (trials,) which trials are draws
    families : (trials,) the family of each trial, from 0 to `count` - 1; -1 if it is not known
    noise    : returns the noise of a complete trial, by its position in `values`
    """
    draws_of = np.bincount(families[drawn & (families >= 0)], minlength=count)
    complete = np.flatnonzero(np.isfinite(values))
    if draws_of.min() < STARTUP or draws_of.sum() < FEWEST_DRAWS or not len(complete):
        return None
    best = int(complete[np.argmax(values[complete])])
    error = _error(values, complete, best, noise)
    if error is None:
        return None
    margin = TOLD * error
    expected = 0.0
    for family in range(count):
        own = values[drawn & (families == family)]
        own = own[np.isfinite(own)]
        if len(own) == 1:
            return None
        if len(own) and values[best] + margin <= 1:  # no metric exceeds 1
            expected += _expected(own, values[best] + margin, share=remaining / int(drawn.sum()))
    first_near = int(np.flatnonzero(values >= values[best] - error)[0])
    return Prospect(remaining=remaining, since=len(values) - 1 - first_near, margin=margin, expected=expected)


def _error(
    values: Values, complete: npt.NDArray[np.int64], best: int, noise: Callable[[int], Values | None]
) -> float | None:
    """The standard error of the difference from the best: the median over the trials next to it with other scores."""
    of_best = noise(best)
    if of_best is None:
        return None
    nearest = [int(i) for i in complete[np.argsort(-values[complete], kind="stable")] if i != best][:_NEXT]
    errors = [float(np.linalg.norm(other - of_best)) for i in nearest if (other := noise(i)) is not None]
    errors = [error for error in errors if error > 0]
    return float(np.median(errors)) if errors else None


def _expected(own: Values, bar: float, *, share: float) -> float:
    """How many of a family's trials to come are expected above `bar`.

    `own` are its complete draws in their order, at least two; `share` is the ratio of all trials to come to all draws.
    """
    # Settings without effect give a detector once more: repeats would make the tail seem shorter than it is.
    own = own[np.sort(np.unique(own, return_index=True)[1])]
    if len(own) == 1:
        return 0.0 if own[0] < bar else share
    half = len(own) // 2
    climb = max(0.0, float(own[half:].max() - own[:half].max())) * 2 * share
    size = min(max(2, math.ceil(len(own) / _TAIL)), len(own) - 1)
    threshold, *tail = np.sort(own)[-size - 1 :]
    total = float(np.sum(np.array(tail) - threshold))
    excess = max(0.0, bar - climb - threshold)
    return float(share * size * (1 + excess / total) ** -size)
