"""The negative log-likelihood under a mixture of Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.scoring.covariance import places_of
from models.scoring.densities.density import Density
from models.scoring.scores import Array
from models.settings import DensitySettings

#: Of the mean variance, what each dimension of a Gaussian has beside its own: few points may agree by chance.
_REGULARISATION = 1e-3


class Gmm(Density):
    """At most as many Gaussians as there are pairs of places.

    Their covariances are full where each has more points than dimensions on average, else diagonal.
    """

    weights: Tensor  # (components,) float64
    means: Tensor  # (components, dim) float64
    precisions: Tensor  # Cholesky factors of the precisions: (components, dim, dim), or (components, dim) if diagonal

    def __init__(self, settings: DensitySettings) -> None:
        super().__init__(settings)
        self.components = settings.components
        self.register_learnt("weights", "means", "precisions")

    def _fit(self, points: Array) -> None:
        places = places_of(points)
        components = max(min(self.components, places // 2), 1)
        mixture = _mixture(
            n_components=components,
            covariance_type="full" if len(points) > components * points.shape[1] else "diag",
            reg_covar=_REGULARISATION * float(points.var(axis=0).mean()) if places > 1 else 1.0,
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


def _mixture(**settings: Any) -> Any:
    from sklearn.mixture import GaussianMixture  # here: it takes a second to load

    return GaussianMixture(**settings)
