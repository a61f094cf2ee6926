"""Points, and densities that were fitted to some."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.scoring.densities.density import Density, PointScorer
from models.scoring.densities.each_id import density_of
from models.scoring.densities.exposure import Exposure
from models.scoring.scores import Array
from models.stat import Settings


def points_of(count: int, dim: int, *, seed: int = 0) -> Array:
    """Correlated, and off the origin."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + 5)


def fitted(points: Array, *, faults: Array | None = None, **chosen: Any) -> PointScorer:
    """A back-end that has learnt from points, and from faults that it takes: usually far off, in one direction each."""
    scorer = density_of(Settings(**chosen))
    if isinstance(scorer, Exposure):
        scorer.fit_against(points, far_off(points) if faults is None else faults)
    else:
        assert isinstance(scorer, Density)
        scorer.fit(points)
    return scorer


def far_off(points: Array) -> Array:
    """Each point once more, four deviations away in one dimension after the other."""
    spread = points.std() or 1.0
    return np.asarray(points + 4 * spread * np.eye(points.shape[1])[np.arange(len(points)) % points.shape[1]])
