"""What every back-end does: it learns from points, standardised if `standardize` says so, and scores others alike.

Standardised, each dimension of a machine ID's points is in its own standard deviations from its mean
(models.scoring.standardization). It helps where dimensions vary unequally, as bands of a spectrum do: without it, those
that vary most are nearly all that a distance sees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from models.scoring.learnt_arrays import Learnt
from models.scoring.scores import Array
from models.scoring.standardization import Standardization
from models.settings import DensitySettings


class PointScorer(Learnt, ABC):
    """A back-end: gives each point a score."""

    point_mean: Tensor  # (dim,) float64; only if points are standardised, as the next one
    point_deviations: Tensor  # (dim,) float64

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__()
        self.standardizes = settings.standardize
        if self.standardizes:
            self.register_learnt("point_mean", "point_deviations")

    def register_learnt(self, *names: str) -> None:
        """Make room for float64 arrays."""
        for name in names:
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def scores_of(self, points: Array) -> Array:
        """The score of each point, (clips,): higher is more anomalous."""
        with one_thread():
            return self._scores_of(self._as_learnt(points))

    @abstractmethod
    def _scores_of(self, points: Array) -> Array: ...

    def _first_seen(self, points: Array) -> Array:
        """The points to learn from, standardised by themselves if that is set."""
        if self.standardizes:
            learnt = Standardization.of(points)
            self.keep(point_mean=torch.from_numpy(learnt.mean), point_deviations=torch.from_numpy(learnt.deviations))
        return self._as_learnt(points)

    def _as_learnt(self, points: Array) -> Array:
        if not self.standardizes:
            return points
        return Standardization(self.point_mean.numpy(), self.point_deviations.numpy()).applied_to(points)


class Density(PointScorer):
    """A density of the points of normal clips: less likely ones score higher."""

    def fit(self, points: Array) -> None:
        """Learns from normal clips, at least one. Raises UnservedError where the points do not suffice."""
        with one_thread():
            self._fit(self._first_seen(points))

    @abstractmethod
    def _fit(self, points: Array) -> None: ...


def one_thread() -> AbstractContextManager[Any]:
    """Sums depend on the number of threads in the last bits: a final training would not repeat its trial."""
    limits: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return limits


@cache
def _libraries() -> Any:
    """Those with threads, found once all that count here are loaded."""
    import sklearn.mixture  # noqa: F401  here: it takes a second

    return ThreadpoolController()
