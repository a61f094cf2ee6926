"""Scores by a weighted sum of Gaussian kernels: what support vector machines learn.

    score = Σ weight · exp(-γ · |point - support|²) + offset     over the support vectors, each with its weight

γ = 1 / (dim · v), v the mean variance of a dimension of the normal clips: scikit-learn's rule `scale`, for points
around their mean. From one place, v = 1.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from models.scoring.covariance import places_of
from models.scoring.densities.density import PointScorer
from models.scoring.densities.parts import in_parts
from models.scoring.scores import Array
from models.settings import DensitySettings

#: At scikit-learn's own 1e-3 the last digits of a score depend on the way to the solution, and so on the CPU.
TOLERANCE = 1e-6


class KernelMachine(PointScorer):
    """A support vector machine, kept as the arrays that its scores need."""

    support: Tensor  # (vectors, dim) float64
    coefficients: Tensor  # (vectors,) float64, minus the weights
    intercept: Tensor  # () float64, minus the offset
    gamma: Tensor  # () float64

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__(settings)
        self.register_learnt("support", "coefficients", "intercept", "gamma")

    def keep_machine(self, support: Array, coefficients: Array, intercept: float, gamma: float) -> None:
        """Keeps a machine whose decision function, Σ coefficient · kernel + intercept, is minus the score."""
        self.keep(
            support=torch.from_numpy(support),
            coefficients=torch.from_numpy(coefficients),
            intercept=torch.tensor(intercept, dtype=torch.float64),
            gamma=torch.tensor(gamma, dtype=torch.float64),
        )

    def _scores_of(self, points: Array) -> Array:
        support, coefficients = self.support.numpy(), self.coefficients.numpy()
        intercept, gamma = self.intercept.item(), self.gamma.item()

        def of_part(part: Array) -> Array:
            kernel = np.exp(-gamma * cdist(part, support, "sqeuclidean"))
            return np.asarray(-(kernel @ coefficients) - intercept)

        return in_parts(points, len(support), of_part)


def gamma_of(points: Array) -> float:
    """γ, by the points of normal clips."""
    variance = float(np.mean((points - points.mean(axis=0)) ** 2)) if places_of(points) > 1 else 1.0
    return float(1 / (points.shape[1] * variance))
