"""Which variant a trial takes: by the evidence of the study, not by this trial's luck.

table : (variants,) float, the value of each variant of one training; NaN where a variant has no scores.

The best of many variants on few clips is best by luck in part. So a variant is judged by its mean over all trainings of
its family in the study, this trial's included. Of the variants within one standard error of the best one's mean, the
trial takes the one with the fewest changes from the defaults. The standard error is that of the difference of the two
means: it comes from the clips, which all trainings share, and from the differences between trainings. The rule is that
of one standard error (Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees", 1984).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]

#: Returns the standard error of the difference of two variants of this trial, by its validation clips.
ErrorByClips = Callable[[int, int], float]


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
    centred = rows - np.nanmean(rows[:, candidates], axis=1, keepdims=True)
    means = {variant: float(np.nanmean(centred[:, variant])) for variant in candidates}
    best = max(candidates, key=lambda variant: (means[variant], -changes[variant], -variant))

    def error(variant: int) -> float:
        differences = rows[:, best] - rows[:, variant]
        differences = differences[np.isfinite(differences)]
        of_trainings = differences.std(ddof=1) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
        return math.hypot(error_by_clips(best, variant), of_trainings)

    nearest_first = sorted(candidates, key=lambda variant: (changes[variant], -means[variant], variant))
    return next(variant for variant in nearest_first if means[best] - means[variant] <= error(variant))
