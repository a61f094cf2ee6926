"""Back-ends: densities of normal clips' embeddings, one for each machine ID.

points : (clips, dim) float64.
scores : (clips,) float64, higher is more anomalous.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from models.learnt import Learnt
from models.settings import DensitySettings

Array = npt.NDArray[np.float64]


class Density(Learnt, ABC):
    """How likely a point is among those of normal clips."""

    @abstractmethod
    def fit(self, points: Array) -> None:
        """Learns from normal clips, at least one."""

    @abstractmethod
    def scores_of(self, points: Array) -> Array:
        """How unlikely each is, (clips,)."""


def density_of(settings: DensitySettings) -> Density:
    """A fresh density of the kind that `score` names."""
    raise NotImplementedError
