"""Which variant a trial takes: by the evidence of the study, not by this trial's luck.

table : (variants,) float, the value of each variant of one training; NaN where a variant has no scores.

The best of many variants on few clips is best by luck in part. So a variant is judged by its weighted mean over all
trainings of its family in the study. The trial's own table counts less than another's: the luck that would choose the
variant also raises the trial's value. Of the variants close to the best one's mean, the trial takes the one with the
fewest changes from the defaults. How close is measured in standard errors of the difference of the two variants by the
clips, after the rule of one standard error (Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees",
1984).

Both constants come from replays over random splits (benchmarks/variants.py, docs/results.md): the optimism is half of
that of the highest value, and the held-out AUC is no lower. A whole standard error lowers the held-out AUC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]

#: Returns the standard error of the difference of two variants of this trial, by its validation clips.
ErrorByClips = Callable[[int, int], float]

#: Of the trial's own table; that of another training counts 1.
OWN_WEIGHT = 0.25

#: Variants within so many standard errors of the best one count as equal.
STANDARD_ERRORS = 0.5


def choose(own: Table, others: Sequence[Table], changes: Sequence[int], error_by_clips: ErrorByClips) -> int:
    """Return the position of the variant that a trial takes, by its own table and those of other trainings.

    `changes` counts for each variant how many of its settings differ from their defaults. Raises ValueError if no
    variant has a value.
    """
    candidates = np.flatnonzero(np.isfinite(own)).tolist()
    if not candidates:
        raise ValueError("no variant has a value")
    rows = np.array([row for row in (own, *others) if np.isfinite(row[candidates]).any()])
    # A training lifts all of its variants: what counts is a variant's distance from the mean of its training.
    centred = np.ma.masked_invalid(rows - np.nanmean(rows[:, candidates], axis=1, keepdims=True))
    weights = np.array([OWN_WEIGHT, *np.ones(len(rows) - 1)])
    means = np.ma.average(centred, axis=0, weights=weights)
    best = max(candidates, key=lambda variant: (means[variant], -changes[variant], -variant))
    nearest_first = sorted(candidates, key=lambda variant: (changes[variant], -means[variant], variant))
    return next(
        variant
        for variant in nearest_first
        if means[best] - means[variant] <= STANDARD_ERRORS * error_by_clips(best, variant)
    )
