"""Mahalanobis distances by a shrunk covariance, in NumPy: an analysis has them without the seconds torch takes to load.

points : (clips, dim) float64, in one unit: dimensions are not standardised here.

The covariance is (1 - s)·S + s·µ·1, S that of the points, µ their mean variance, s the shrinkage of Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices" (2004). Kept as its directions of more than the
least variance, at most as many as there are points: beside them it is s·µ. A matrix of dim by dim is never made.

Points that are alike are one place. One place has no spread: as if each dimension had unit variance. From
two, the spread is known and not its direction. Of groups with means of their own, one place of each says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.scoring.scores import Array

#: Of the mean variance, the least in any direction: Ledoit and Wolf's shrinkage vanishes where there is one dimension.
_LEAST_SHRINKAGE = 1e-6


@dataclass(frozen=True)
class ShrunkCovariance:
    """The covariance of some points around their mean."""

    mean: Array  # (dim,)
    directions: Array  # (rank, dim), orthonormal
    variances: Array  # (rank,)
    rest: float  # variance in all other directions

    @classmethod
    def of(cls, points: Array) -> ShrunkCovariance:
        """That of one point or more."""
        return replace(cls.tied([points]), mean=points.mean(axis=0))

    @classmethod
    def tied(cls, groups: Sequence[Array]) -> ShrunkCovariance:
        """That of all groups of points, each centred on its own mean; around the origin."""
        from sklearn.covariance import ledoit_wolf_shrinkage  # here: it takes a second to load

        centred = np.concatenate([points - points.mean(axis=0) for points in groups])
        places = 1 + sum(places_of(points) - 1 for points in groups)
        variance = float(np.mean(centred**2)) if places > 1 else 1.0
        if places > 2:
            shrinkage = max(ledoit_wolf_shrinkage(centred, assume_centered=True), _LEAST_SHRINKAGE)
            _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
        else:
            shrinkage, lengths, directions = 1.0, np.zeros(0), np.zeros((0, centred.shape[1]))
        return cls(
            mean=np.zeros(centred.shape[1]),
            directions=directions,
            variances=(1 - shrinkage) * lengths**2 / len(centred) + shrinkage * variance,
            rest=shrinkage * variance,
        )

    def distances(self, points: Array) -> Array:
        """The distance of each point from the mean in standard deviations along its own direction, (clips,)."""
        centred = points - self.mean
        along = centred @ self.directions.T  # (clips, rank)
        squared = (along**2 / self.variances).sum(axis=1)
        if len(self.directions) < centred.shape[1]:
            squared += ((centred - along @ self.directions) ** 2).sum(axis=1) / self.rest
        return np.asarray(np.sqrt(squared))


def places_of(points: Array) -> int:
    """The number of distinct points."""
    return len(np.unique(points, axis=0))
