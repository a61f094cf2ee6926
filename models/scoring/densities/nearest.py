"""Densities by the nearest of the normal clips.

    knn  distance to the nearest points, each divided by its point's distance from its own neighbours: Wilkinghoff et
         al., "Local density-based anomaly score normalization for domain generalization" (2025)
    lof  local outlier factor (Breunig et al. 2000)

`distance` of knn: Euclidean, or cosine, 1 - cos of the angle at the origin, as Wilkinghoff, "Self-supervised learning
for anomalous sound detection" (2024), compares embeddings. It helps where a fault changes which dimensions stand out,
and clips differ in how much they do. The origin is the mean of the machine ID's points where they are standardised. A
point at the origin has no direction: its distance from every other one is 1/2.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from features.errors import UnservedError
from models.scoring.covariance import places_of
from models.scoring.densities.density import Density
from models.scoring.densities.parts import in_parts
from models.scoring.scores import Array
from models.settings import DensitySettings

#: Of the mean distance between neighbours, the least that counts: points that are alike have none.
_LEAST_LOCAL_DISTANCE = 1e-3

#: The least cosine distance between neighbours that counts, of angles of a millionth: below, it is rounding alone.
_LEAST_COSINE_DISTANCE = 1e-12


class Knn(Density):
    """Mean of the smallest relative distances, of as many points as there are `neighbours`, or as there are points."""

    reference: Tensor  # (points, dim) float64; of unit length for cosines
    local: Tensor  # (points,) float64, each one's mean distance from its own neighbours; 1 where it does not count

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__(settings)
        self.neighbours = settings.neighbours
        self.local_neighbours = settings.local_neighbours
        self.is_cosine = settings.distance == "cosine"
        self.register_learnt("reference", "local")

    def _fit(self, points: Array) -> None:
        if self.is_cosine:
            points = _directions(points)
            if not points.any():
                raise UnservedError(
                    "model.distance: cosine compares directions, and no training clip has one: there are too few, or "
                    "they are alike. Train on more clips, or set model.distance: euclidean"
                )
        local = np.ones(len(points))
        if self.local_neighbours and places_of(points) > 1:
            # The first of the neighbours is the point itself, and adds nothing.
            count = min(self.local_neighbours, len(points) - 1)
            local = self._smallest(points, points, local, count=count + 1).sum(axis=1) / count
            least = max(_LEAST_LOCAL_DISTANCE * local.mean(), _LEAST_COSINE_DISTANCE if self.is_cosine else 0.0)
            local = np.maximum(local, least)
        self.keep(reference=torch.from_numpy(points), local=torch.from_numpy(local))

    def _scores_of(self, points: Array) -> Array:
        reference = self.reference.numpy()
        count = min(self.neighbours, len(reference))
        points = _directions(points) if self.is_cosine else points
        return np.asarray(self._smallest(points, reference, self.local.numpy(), count=count).mean(axis=1))

    def _smallest(self, points: Array, reference: Array, local: Array, *, count: int) -> Array:
        """The smallest relative distances of each point, (points, count), in no order."""

        def of_part(part: Array) -> Array:
            # Of unit vectors: 1 - cos is half the square of their distance, and keeps more digits of small angles.
            distances = cdist(part, reference, "sqeuclidean") / 2 if self.is_cosine else cdist(part, reference)
            return np.asarray(np.partition(distances / local, count - 1, axis=1)[:, :count])

        return in_parts(points, len(reference), of_part)


class Lof(Density):
    """At most as many neighbours as there are other places; from one place alone, the Euclidean distance."""

    reference: Tensor  # (places, dim) float64

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__(settings)
        self.neighbours = settings.neighbours
        self.register_learnt("reference")

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


def _directions(points: Array) -> Array:
    """The points at unit length, (points, dim); those at the origin stay there."""
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0))
