"""Points with each dimension in its own standard deviations, in NumPy.

points : (clips, dim) float64.

    (point - mean) / deviation     as scikit-learn's StandardScaler: deviations are those of the points, not estimates

A dimension that varies less than a thousandth as much as usual does not vary: by its own deviation it would be all that
counts. It is divided by the usual deviation instead, the root of the mean variance, so that a clip which differs there
counts as it would anywhere else. Points that are alike are one place: they keep their unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scoring.covariance import places_of
from models.scoring.scores import Array

#: Of the root of the mean variance, the least deviation of a dimension that varies.
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Standardization:
    """The mean and the deviation of each dimension of some points."""

    mean: Array  # (dim,)
    deviations: Array  # (dim,), above 0

    @classmethod
    def of(cls, points: Array) -> Standardization:
        """Return that of one point or more."""
        mean, deviations = points.mean(axis=0), points.std(axis=0)
        if places_of(points) == 1:
            return cls(mean, np.ones_like(mean))
        usual = np.sqrt(np.mean(deviations**2))
        return cls(mean, np.where(deviations < _LEAST_DEVIATION * usual, usual, deviations))

    def applied_to(self, points: Array) -> Array:
        """Return points in these deviations from this mean, (clips, dim)."""
        return np.asarray((points - self.mean) / self.deviations)


def standardised(points: Array) -> Array:
    """Return points in their own deviations from their mean, (clips, dim)."""
    return Standardization.of(points).applied_to(points)
