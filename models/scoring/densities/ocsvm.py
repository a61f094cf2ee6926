"""A one-class support vector machine.

Schölkopf et al., "Estimating the Support of a High-Dimensional Distribution" (2001), with a Gaussian kernel:

    score = ρ - Σ α exp(-γ · |point - support|²)     over the support vectors, each with its α

The score is minus scikit-learn's decision function: below 0 where normal clips lie, ρ far from all of them. `nu` is
roughly the share of normal clips that may lie outside. It helps where normal clips do not lie around one mean. It
does not order clips that lie far outside: all have the score ρ.
"""

from __future__ import annotations

from models.scoring.densities.density import Density
from models.scoring.densities.kernel_machine import TOLERANCE, KernelMachine, gamma_of
from models.scoring.scores import Array
from models.settings import DensitySettings


class OneClassSvm(KernelMachine, Density):
    """A kernel density of the clips at the edge alone: the others have no weight."""

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__(settings)
        self.nu = settings.nu

    def _fit(self, points: Array) -> None:
        from sklearn.svm import OneClassSVM  # here: it takes a second to load

        centred = points - points.mean(axis=0)  # squares of distances far from the origin lose digits
        gamma = gamma_of(points)
        machine = OneClassSVM(nu=self.nu, gamma=gamma, tol=TOLERANCE).fit(centred)
        self.keep_machine(points[machine.support_], machine.dual_coef_[0], machine.intercept_[0], gamma)
