"""Which variant a trial takes: by the evidence of the study, not by this trial's luck.

table : (variants,) float, the value of each variant of one training; NaN where a variant has no scores.

The best of many variants on few clips is best by luck in part. So a trial takes the variant with the best weighted mean
over all trainings of its family in the study. Its own table counts less than another's: the luck that would choose the
variant also raises the trial's value. Replays over random splits (benchmarks/variants.py, docs/results.md) show that
the optimism is at most half of that of the highest value, and that the held-out AUC is no lower. The rule of one
standard error, by which variants near the best would give way to the defaults, lowers the held-out AUC there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]

#: Of the trial's own table; that of another training counts 1.
OWN_WEIGHT = 0.25


def choose(own: Table, others: Sequence[Table], changes: Sequence[int]) -> int:
    """Return the position of the variant that a trial takes, by its own table and those of other trainings.

    `changes` counts for each variant how many of its settings differ from their defaults: of equal variants the one
    with the fewest is taken. Raises ValueError if no variant has a value.
    """
    candidates = np.flatnonzero(np.isfinite(own)).tolist()
    if not candidates:
        raise ValueError("no variant has a value")
    rows = np.array([row for row in (own, *others) if np.isfinite(row[candidates]).any()])
    # A training lifts all of its variants: what counts is a variant's distance from the mean of its training.
    centred = np.ma.masked_invalid(rows - np.nanmean(rows[:, candidates], axis=1, keepdims=True))
    weights = np.array([OWN_WEIGHT, *np.ones(len(rows) - 1)])
    means = np.ma.average(centred, axis=0, weights=weights)
    # Equal variants may differ in the last digits of their means.
    return max(candidates, key=lambda variant: (round(float(means[variant]), 9), -changes[variant], -variant))
