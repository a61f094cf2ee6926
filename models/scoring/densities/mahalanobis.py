"""The distance from the mean, not squared, in standard deviations along each direction (models.scoring.covariance).

`covariance` says whose spread counts:

    own   of the machine ID's own points
    tied  of all machine IDs' points, each centred on its own ID's mean, as in linear discriminant analysis (Fisher
          1936; Hastie et al., "The Elements of Statistical Learning", 4.3). Each ID keeps its own mean. It helps where
          IDs have few clips and vary in like ways. The density of clips of unknown IDs keeps the spread of all points:
          such clips have a mean of their own, which nobody knows

From one place, the score is the Euclidean distance. From two, the spread is known and not its direction.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from models.scoring.covariance import ShrunkCovariance
from models.scoring.densities.density import Density, one_thread
from models.scoring.scores import Array
from models.settings import DensitySettings


class Mahalanobis(Density):
    """Distances by a shrunk covariance."""

    mean: Tensor  # (dim,) float64
    directions: Tensor  # (rank, dim) float64, orthonormal
    variances: Tensor  # (rank,) float64
    rest: Tensor  # () float64, variance in all other directions

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__(settings)
        self.register_learnt("mean", "directions", "variances", "rest")

    def fit_tied(self, points: Array, covariance: ShrunkCovariance) -> None:
        """Learns the mean of its own normal clips; the covariance is that of all machine IDs."""
        with one_thread():
            self._keep(replace(covariance, mean=self._first_seen(points).mean(axis=0)))

    def _fit(self, points: Array) -> None:
        self._keep(ShrunkCovariance.of(points))

    def _keep(self, learnt: ShrunkCovariance) -> None:
        self.keep(
            mean=torch.from_numpy(learnt.mean),
            directions=torch.from_numpy(learnt.directions),
            variances=torch.from_numpy(learnt.variances),
            rest=torch.tensor(learnt.rest, dtype=torch.float64),
        )

    def _scores_of(self, points: Array) -> Array:
        mean, directions, variances = self.mean.numpy(), self.directions.numpy(), self.variances.numpy()
        return ShrunkCovariance(mean, directions, variances, self.rest.item()).distances(points)
