"""What the best of many trials proves, given that it is the best of many.

Of a hundred equally good trials, the best is ahead by chance alone. One rule says which trials the best is told from.
It allows for all of them: trial j is told from the best trial, b, if

    value_b − value_j  >  margin_j

Z_i is how a trial's value may err by the choice of the clips: the sum of its recordings' contributions
(search.evaluation.contributions), each with a random sign that all trials share. Between two equally good trials, the
difference of a recording's contributions is as likely to have either sign (Fisher 1935). margin_j is the larger of

    the 97.5 % quantile of max over i of (Z_i − Z_j), the distribution of the maximum if no trial is better than j
    (White 2000, Romano and Wolf 2005; as a comparison with the best: Hsu 1981). Correlated trials err alike, which
    lowers it.

    in a search, the standard deviation of (Z_b − Z_j) times the normal quantile of 1 − 0.025 / N for N trials
    (Bonferroni). A sampler that suggests settings near the best ones finds those whose errors are favourable. It
    reaches more than as many trials at random would, so that their correlation must not lower the margin.

A trial that is told from the best cannot be the best by chance. So the first quantile is computed twice: from all
trials, then from those that may be the best (Hansen 2005).

Guessing is a trial too: it has an AUC of 0.5, and never errs. Where all trials guess, labels say nothing of their
scores, so that contributions are computed without labels, and its margin is exact where clips are few
(search.evaluation.guessing). Beside guessing, N trials of a search count as N^1.5: by N
alone, simulated searches were called better than guessing too often (benchmarks.coverage). The power is not derived.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.scoring.scores import Scores
from search.evaluation.contributions import contributions_if_guessing, contributions_of
from search.evaluation.guessing import highest_by_chance
from search.evaluation.metrics import Metric
from search.evaluation.official import Year
from search.evaluation.truth import Truth

Errors = npt.NDArray[np.float32]

#: Draws of the signs.
_DRAWS = 1000

#: The probability beyond one end of a 95 % interval.
_TAIL = 0.025

#: For how many trials a search counts beside guessing: this power of their number.
_CLIMBING = 1.5

#: How many standard errors beyond the margin a lead must be for four of five searches to show it.
_POWER = 0.84


@dataclass(frozen=True)
class Lead:
    """How far the best trial is ahead of another one, and what the clips prove of it."""

    difference: float  # of the values
    margin: float  # a difference that chance alone does not reach
    alone: float  # the same if there were no other trials
    error: float  # the standard error of the difference

    @property
    def is_told(self) -> bool:
        """Whether the best trial is better than chance explains."""
        return self.difference > self.margin

    @property
    def detectable(self) -> float:
        """The smallest true lead that four of five searches of as many trials show with these clips."""
        return self.margin + _POWER * self.error

    @property
    def times_the_clips(self) -> float | None:
        """How many times as many clips show this lead, if it is the true one; None if there is no lead."""
        return (self.detectable / self.difference) ** 2 if self.difference > 0 else None


def leads(
    metric: Metric, scores: Scores, truth: Truth, *, year: Year | None = None, tried: int | None = None
) -> list[Lead]:
    """Return the lead of the best trial over each one, itself included.

    `scores` are those of all trials, (trials, clips), the best first. `tried` is the number of trials of a search, with
    those that were stopped; None if the trials did not depend on one another. Raises StudyError as `metric_of` does.
    """
    values, contributions = contributions_of(metric, scores, truth, year=year)
    return _leads(values, contributions, tried=tried or 1)


def lead_over_guessing(scores: Scores, truth: Truth, *, tried: int | None = None) -> Lead:
    """Return the lead of the best trial's AUC over guessing; `scores` and `tried` as in `leads`.

    Guessing has an AUC of 0.5 in the mean over machine IDs, and less in the lowest of them. So the AUC is compared,
    whatever the metric of a study.
    """
    values, contributions = contributions_if_guessing(scores, truth)
    guess = np.zeros((1, contributions.shape[1]))
    counts_as = (tried or 1) ** _CLIMBING
    highest = highest_by_chance(truth, _TAIL / counts_as)
    least = None if highest is None else highest - 0.5
    return _leads(np.r_[values, 0.5], np.vstack([contributions, guess]), tried=counts_as, least_of_last=least)[-1]


def _leads(values: Scores, contributions: Scores, *, tried: float, least_of_last: float | None = None) -> list[Lead]:
    """Return the lead over each trial. `least_of_last` replaces the margin that the last one has at least."""
    from scipy.stats import norm

    differences = values[0] - values
    signs = 2 * np.random.default_rng(0).integers(2, size=(contributions.shape[1], _DRAWS)) - 1
    # (trials, draws), in single precision: there may be thousands of trials
    errors: Errors = contributions.astype(np.float32) @ signs.astype(np.float32)
    of_leads = errors[0] - errors
    alone, deviations = np.quantile(of_leads, 1 - _TAIL, axis=1), of_leads.std(axis=1)
    least = np.maximum(alone, norm.isf(_TAIL / tried) * deviations)
    if least_of_last is not None:
        least[-1] = least_of_last
    margins = np.maximum(_of_maximum(errors, errors.max(axis=0)), least)
    may_be_best = differences <= margins
    margins = np.maximum(_of_maximum(errors, errors[may_be_best].max(axis=0)), least)
    columns = (differences, margins, alone, deviations)
    return [Lead(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _of_maximum(errors: Errors, highest: Errors) -> Scores:
    return np.asarray(np.quantile(highest - errors, 1 - _TAIL, axis=1))
