"""The 95 % interval of a figure, from its bootstrap resamples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.scoring.scores import Scores


class Interval(NamedTuple):
    """Where a figure lies in 95 % of the resamples; in JSON a list of two numbers."""

    low: float
    high: float

    @classmethod
    def of(cls, resampled: Scores) -> Interval:
        """The middle 95 % of a figure's resamples, (resamples,)."""
        low, high = np.quantile(resampled, [0.025, 0.975])
        return cls(float(low), float(high))

    def includes(self, value: float) -> bool:
        """Whether the figure may be this value."""
        return self.low <= value <= self.high
