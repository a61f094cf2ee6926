"""Back-ends: densities of normal clips' embeddings, one for each machine ID.

points : (clips, dim) float64, in one unit: dimensions are not standardised. One that hardly varies over a few healthy
         clips would count most.
scores : (clips,) float64, higher is more anomalous.

    mahalanobis  distance from the mean, not squared, in standard deviations along each direction
    gmm          negative log-likelihood under a mixture of Gaussians
    knn          Euclidean distance to the nearest points, each divided by its point's distance from its own
                 neighbours: Wilkinghoff et al., "Local density-based anomaly score normalization for domain
                 generalization" (2025). For cosines a family normalises its embeddings
    lof          local outlier factor (Breunig et al. 2000)

Points that are alike are one place. One place has no spread: every score grows with the Euclidean distance
alone, as if each dimension had unit variance. From two, mahalanobis knows the spread and not its direction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from threadpoolctl import ThreadpoolController
from torch import Tensor

from models.scoring.covariance import ShrunkCovariance, places_of
from models.scoring.learnt_arrays import Learnt
from models.scoring.scores import Array
from models.settings import Backend, DensitySettings

#: Of the mean variance, what each dimension of a Gaussian has beside its own: few points may agree by chance.
_GMM_REGULARISATION = 1e-3

#: Of the mean distance between neighbours, the least that counts: points that are alike have none.
_LEAST_LOCAL_DISTANCE = 1e-3

#: Distances held at a time.
_MOST_DISTANCES = 4_000_000


class Density(Learnt, ABC):
    """A density of the points of normal clips."""

    def fit(self, points: Array) -> None:
        """Learns from normal clips, at least one."""
        with _one_thread():
            self._fit(points)

    def scores_of(self, points: Array) -> Array:
        """The score of each point, (clips,): higher is less likely."""
        with _one_thread():
            return self._scores_of(points)

    @abstractmethod
    def _fit(self, points: Array) -> None: ...

    @abstractmethod
    def _scores_of(self, points: Array) -> Array: ...


def density_of(settings: DensitySettings) -> Density:
    """A fresh density of the kind that `score` names."""
    if settings.backend is None:
        raise ValueError("a density was asked for, but the score is the network's own")
    return _DENSITIES[settings.backend](settings)


class Mahalanobis(Density):
    """Distances by a shrunk covariance (models.scoring.covariance)."""

    mean: Tensor  # (dim,) float64
    directions: Tensor  # (rank, dim) float64, orthonormal
    variances: Tensor  # (rank,) float64
    rest: Tensor  # () float64, variance in all other directions

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__()
        for name in ("mean", "directions", "variances", "rest"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def _fit(self, points: Array) -> None:
        learnt = ShrunkCovariance.of(points)
        self.keep(
            mean=torch.from_numpy(learnt.mean),
            directions=torch.from_numpy(learnt.directions),
            variances=torch.from_numpy(learnt.variances),
            rest=torch.tensor(learnt.rest, dtype=torch.float64),
        )

    def _scores_of(self, points: Array) -> Array:
        mean, directions, variances = self.mean.numpy(), self.directions.numpy(), self.variances.numpy()
        return ShrunkCovariance(mean, directions, variances, self.rest.item()).distances(points)


class Gmm(Density):
    """At most as many Gaussians as there are pairs of places.

    Their covariances are full where each has more points than dimensions on average, else diagonal.
    """

    weights: Tensor  # (components,) float64
    means: Tensor  # (components, dim) float64
    precisions: Tensor  # Cholesky factors of the precisions: (components, dim, dim), or (components, dim) if diagonal

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__()
        self.components = settings.components
        for name in ("weights", "means", "precisions"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def _fit(self, points: Array) -> None:
        places = places_of(points)
        components = max(min(self.components, places // 2), 1)
        mixture = _mixture(
            n_components=components,
            covariance_type="full" if len(points) > components * points.shape[1] else "diag",
            reg_covar=_GMM_REGULARISATION * float(points.var(axis=0).mean()) if places > 1 else 1.0,
            random_state=0,
        )
        mixture.fit(np.repeat(points, 2, axis=0) if len(points) == 1 else points)  # it wants two, alike or not
        self.keep(
            weights=torch.from_numpy(mixture.weights_),
            means=torch.from_numpy(mixture.means_),
            precisions=torch.from_numpy(mixture.precisions_cholesky_),
        )

    def _scores_of(self, points: Array) -> Array:
        mixture = _mixture(
            n_components=len(self.weights), covariance_type="full" if self.precisions.dim() == 3 else "diag"
        )
        mixture.weights_, mixture.means_ = self.weights.numpy(), self.means.numpy()
        mixture.precisions_cholesky_ = self.precisions.numpy()
        return np.asarray(-mixture.score_samples(points))


class Knn(Density):
    """Mean of the smallest relative distances, of as many points as there are `neighbours`, or as there are points."""

    reference: Tensor  # (points, dim) float64
    local: Tensor  # (points,) float64, each one's mean distance from its own neighbours; 1 where it does not count

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__()
        self.neighbours = settings.neighbours
        self.local_neighbours = settings.local_neighbours
        for name in ("reference", "local"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def _fit(self, points: Array) -> None:
        local = np.ones(len(points))
        if self.local_neighbours and places_of(points) > 1:
            # The first of the neighbours is the point itself, and adds nothing.
            count = min(self.local_neighbours, len(points) - 1)
            local = _smallest(points, points, local, count=count + 1).sum(axis=1) / count
            local = np.maximum(local, _LEAST_LOCAL_DISTANCE * local.mean())
        self.keep(reference=torch.from_numpy(points), local=torch.from_numpy(local))

    def _scores_of(self, points: Array) -> Array:
        reference = self.reference.numpy()
        count = min(self.neighbours, len(reference))
        return np.asarray(_smallest(points, reference, self.local.numpy(), count=count).mean(axis=1))


class Lof(Density):
    """At most as many neighbours as there are other places; from one place alone, the Euclidean distance."""

    reference: Tensor  # (places, dim) float64

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__()
        self.neighbours = settings.neighbours
        self.register_buffer("reference", torch.zeros(0, dtype=torch.float64))

    def _fit(self, points: Array) -> None:
        # More points in one place than neighbours would have no distance, and no density.
        self.keep(reference=torch.from_numpy(np.unique(points, axis=0)))

    def _scores_of(self, points: Array) -> Array:
        from sklearn.neighbors import LocalOutlierFactor  # here: it takes a second to load

        reference = self.reference.numpy()
        if len(reference) == 1:
            return np.asarray(cdist(points, reference)[:, 0])
        # Squares of distances far from the origin lose digits that those around it keep.
        centre = reference.mean(axis=0)
        factor = LocalOutlierFactor(n_neighbors=min(self.neighbours, len(reference) - 1), novelty=True)
        return np.asarray(-factor.fit(reference - centre).score_samples(points - centre))


_DENSITIES: dict[Backend, type[Mahalanobis | Gmm | Knn | Lof]] = {
    "mahalanobis": Mahalanobis,
    "gmm": Gmm,
    "knn": Knn,
    "lof": Lof,
}


def _one_thread() -> AbstractContextManager[Any]:
    """Sums depend on the number of threads in the last bits: a final training would not repeat its trial."""
    limits: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return limits


@cache
def _libraries() -> Any:
    """Those with threads, found once all that count here are loaded."""
    import sklearn.mixture  # noqa: F401  here: it takes a second

    return ThreadpoolController()


def _smallest(points: Array, reference: Array, local: Array, *, count: int) -> Array:
    """The smallest relative distances of each point, (points, count), in no order."""
    size = max(_MOST_DISTANCES // len(reference), 1)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return np.concatenate(
        [np.partition(cdist(part, reference) / local, count - 1, axis=1)[:, :count] for part in parts]
    )


def _mixture(**settings: Any) -> Any:
    from sklearn.mixture import GaussianMixture  # here: it takes a second to load

    return GaussianMixture(**settings)
