"""One density for each machine ID, and perhaps one for clips of all others.

points : (clips, dim) float64, embeddings.
ids    : (clips,) int, the position of each clip's machine ID; -1 for one never trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from features.errors import UnservedError
from models.scoring.covariance import ShrunkCovariance
from models.scoring.densities.density import Density, PointScorer, one_thread
from models.scoring.densities.exposure import Exposure
from models.scoring.densities.gmm import Gmm
from models.scoring.densities.mahalanobis import Mahalanobis
from models.scoring.densities.nearest import Knn, Lof
from models.scoring.densities.ocsvm import OneClassSvm
from models.scoring.scores import Array
from models.scoring.standardization import standardised
from models.settings import Backend, DensitySettings

Ids = npt.NDArray[np.integer]

_BACKENDS: dict[Backend, type[Mahalanobis | Gmm | Knn | Lof | OneClassSvm | Exposure]] = {
    "mahalanobis": Mahalanobis,
    "gmm": Gmm,
    "knn": Knn,
    "lof": Lof,
    "ocsvm": OneClassSvm,
    "exposure": Exposure,
}


def density_of(settings: DensitySettings) -> PointScorer:
    """A fresh density of the kind that `score` names, or a fresh boundary."""
    if settings.backend is None:
        raise ValueError("a density was asked for, but the score is the network's own")
    return _BACKENDS[settings.backend](settings)


class DensityOfEachId(nn.ModuleList):
    """A density for each machine ID, in their order; with `unknown_id: shared` a last one, of the points of all."""

    def __init__(self, settings: DensitySettings, ids: Sequence[str]) -> None:
        super().__init__(density_of(settings) for _ in range(len(ids) + (settings.unknown_id == "shared")))
        self.settings = settings
        self.ids = tuple(ids)

    def fit(self, points: Array, ids: Ids, *, faults: tuple[Array, Ids] | None = None) -> None:
        """Learns from normal clips, at least one of each machine ID.

        `faults` are the points of clips with synthetic faults, and their IDs: exposure learns from them, too.
        Raises UnservedError where those of an ID do not suffice.
        """
        own = [points[ids == index] for index in range(len(self.ids))]
        tied = self._tied(own)
        for index, (density, part) in enumerate(zip(self._each(), [*own, points], strict=False)):
            is_shared = index == len(self.ids)
            try:
                if isinstance(density, Exposure):
                    assert faults is not None
                    density.fit_against(part, faults[0] if is_shared else faults[0][faults[1] == index])
                elif tied is not None and not is_shared:
                    assert isinstance(density, Mahalanobis)
                    density.fit_tied(part, tied)
                else:
                    assert isinstance(density, Density)
                    density.fit(part)
            except UnservedError as error:
                raise UnservedError(f"{'all machine IDs' if is_shared else self.ids[index]}: {error}") from error

    def scores_of(self, points: Array, ids: Ids) -> Array:
        """The score of each point by its machine ID's density, (clips,): higher is more anomalous."""
        scores, densities = np.empty(len(ids)), list(self._each())
        for index in np.unique(ids):  # -1: the last one, which is for all
            scores[ids == index] = densities[int(index)].scores_of(points[ids == index])
        return scores

    def _each(self) -> Iterator[PointScorer]:
        for density in self:
            assert isinstance(density, PointScorer)
            yield density

    def _tied(self, own: list[Array]) -> ShrunkCovariance | None:
        """The covariance that all machine IDs share, if they share one."""
        if self.settings.backend != "mahalanobis" or self.settings.covariance != "tied":
            return None
        with one_thread():
            return ShrunkCovariance.tied([standardised(part) if self.settings.standardize else part for part in own])
