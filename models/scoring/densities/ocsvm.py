"""A one-class support vector machine.

Schölkopf et al., "Estimating the Support of a High-Dimensional Distribution" (2001), with a Gaussian kernel:

    score = ρ - Σ α exp(-γ · |point - support|²)     over the support vectors, each with its α

The score is minus scikit-learn's decision function: below 0 where normal clips lie, ρ far from all of them. `nu` is
roughly the share of normal clips that may lie outside. γ = 1 / (dim · v), v the mean variance of a dimension:
scikit-learn's rule `scale`, for points around their mean. It helps where normal clips do not lie around one mean. It
does not order clips that lie far outside: all have the score ρ.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from models.scoring.covariance import places_of
from models.scoring.densities.density import Density
from models.scoring.densities.parts import in_parts
from models.scoring.scores import Array
from models.settings import DensitySettings

#: At scikit-learn's own 1e-3 the last digits of a score depend on the way to the solution, and so on the CPU.
_TOLERANCE = 1e-6


class OneClassSvm(Density):
    """A kernel density of the clips at the edge alone: the others have no weight."""

    support: Tensor  # (vectors, dim) float64
    coefficients: Tensor  # (vectors,) float64, above 0
    intercept: Tensor  # () float64, -ρ
    gamma: Tensor  # () float64

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__(settings)
        self.nu = settings.nu
        self.register_learnt("support", "coefficients", "intercept", "gamma")

    def _fit(self, points: Array) -> None:
        from sklearn.svm import OneClassSVM  # here: it takes a second to load

        centred = points - points.mean(axis=0)  # squares of distances far from the origin lose digits
        variance = float(np.mean(centred**2)) if places_of(points) > 1 else 1.0
        gamma = 1 / (points.shape[1] * variance)
        machine = OneClassSVM(nu=self.nu, gamma=gamma, tol=_TOLERANCE).fit(centred)
        self.keep(
            support=torch.from_numpy(points[machine.support_]),
            coefficients=torch.from_numpy(machine.dual_coef_[0]),
            intercept=torch.tensor(machine.intercept_[0], dtype=torch.float64),
            gamma=torch.tensor(gamma, dtype=torch.float64),
        )

    def _scores_of(self, points: Array) -> Array:
        support, coefficients = self.support.numpy(), self.coefficients.numpy()
        intercept, gamma = self.intercept.item(), self.gamma.item()

        def of_part(part: Array) -> Array:
            kernel = np.exp(-gamma * cdist(part, support, "sqeuclidean"))
            return np.asarray(-(kernel @ coefficients) - intercept)

        return in_parts(points, len(support), of_part)
