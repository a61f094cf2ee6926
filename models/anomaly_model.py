"""What every family of models gives.

inputs : (batch, context · bins) float32, in the feature's units, as they lie in the store; `models.scale` brings them
         to the unit interval.
scores : (batch,) float32, higher is more anomalous.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from features.windows import Batch


class AnomalyModel(nn.Module, ABC):
    """A model of how a machine sounds when it is well."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """What training minimises, a scalar."""

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """How unlike a healthy machine each window sounds, (batch,)."""

    def reconstruct(self, batch: Batch) -> Tensor | None:
        """What the model takes the windows for, in the inputs' shape and unit; None for a family that does not."""
        return None
