"""Points, a few at a time: distances of all of them from all others would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.scoring.scores import Array

#: Distances held at a time.
_MOST_DISTANCES = 4_000_000


def in_parts(points: Array, others: int, compute: Callable[[Array], Array]) -> Array:
    """Return what `compute` gives of all points, by parts of them: it takes their distances from so many `others`."""
    size = max(_MOST_DISTANCES // others, 1)
    return np.concatenate([compute(points[start : start + size]) for start in range(0, len(points), size)])
