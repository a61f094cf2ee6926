"""What every family of models offers.

inputs : as they lie in the store, in the feature's units (`models.layers.scale` brings them to the unit interval):
         (batch, context · bins) float32 for families on windows, (batch, 1, bins, frames) for those on crops.
scores : (batch,) float32, higher is more anomalous.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn

from features.windows.excerpts import Batch
from models.settings import FamilySettings


class AnomalyModel(nn.Module, ABC):
    """A model of how a machine sounds when it is well."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The scalar that training minimises."""

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """The score of each window or crop, (batch,): higher is more anomalous."""

    def scoring_by(self, settings: FamilySettings) -> Self:
        """The same network with the window score that these settings name; itself if its family has one score."""
        return self

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings for a density, (batch, dim); for families with densities among their scores."""
        raise NotImplementedError

    def reconstruct(self, batch: Batch) -> Tensor | None:
        """The reconstruction of the inputs, in their shape and unit; None for a family that reconstructs nothing."""
        return None


class ReconstructingModel(AnomalyModel):
    """A model that reconstructs its inputs, so that a density can judge how badly it does."""

    @abstractmethod
    def residual(self, batch: Batch) -> Tensor:
        """How badly each bin is reconstructed, (batch, bins): log mean squared error."""
