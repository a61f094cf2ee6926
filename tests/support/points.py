"""Points, and densities that were fitted to some."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.scoring.densities.density import Density
from models.scoring.densities.each_id import density_of
from models.scoring.scores import Array
from models.stat import Settings


def points_of(count: int, dim: int, *, seed: int = 0) -> Array:
    """Correlated, and off the origin."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + 5)


def fitted(points: Array, **chosen: Any) -> Density:
    density = density_of(Settings(**chosen))
    density.fit(points)
    return density
