"""The range that holds the true value of a metric in 95 % of cases; search.evaluation.confidence computes it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.scoring.scores import Scores


class Interval(NamedTuple):
    """The range that holds a metric's true value in 95 % of cases; in JSON a list of two numbers."""

    low: float
    high: float

    @classmethod
    def of(cls, resampled: Scores) -> Interval:
        """Return the middle 95 % of a metric's resamples, (resamples,)."""
        low, high = np.quantile(resampled, [0.025, 0.975])
        return cls(float(low), float(high))

    def includes(self, value: float) -> bool:
        """Whether this value lies in the interval."""
        return self.low <= value <= self.high
