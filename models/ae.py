"""The autoencoder of the DCASE 2020 Task 2 baseline: Koizumi et al., "Description and Discussion on DCASE2020 Challenge
Task2: Unsupervised Anomalous Sound Detection for Machine Condition Monitoring" (2020).

    inputs (batch, D)  D = context · bins, scaled to [0, 1]
      → h_dim → h_dim → h_dim → h_dim → bottleneck (batch, z_dim)
      → h_dim → h_dim → h_dim → h_dim → reconstruction (batch, D)

Each dense layer but the last, the bottleneck included, is followed by batch normalisation and ReLU; the last is
linear. With 5 frames of 128 mels that is 640-128×4-8-128×4-640, and 269,992 numbers as Keras counts them: 267,928
parameters, and the running mean and variance of 1,032 units. The baseline takes levels in dB as they are; here the
inputs are scaled, as those of every family, and errors are smaller by the square of the range. A conditional one is
given the machine ID, too, on both sides: behind the inputs and behind the bottleneck.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from features.windows.excerpts import Batch
from models.anomaly_model import ReconstructingModel
from models.labels import Labels
from models.layers.conditioning import ConditionalSettings, id_inputs, with_ids
from models.layers.residual import log_error_of_bins
from models.layers.scale import Scale
from models.settings import ReconstructionSettings, WindowSettings

#: Keras's defaults, which the baseline uses: its momentum .99 is .01 of the new batch here. Running averages, by which
#: clips are scored, settle in some 500 steps: many epochs of a small corpus, a part of the first of the challenge's.
_MOMENTUM, _EPSILON = 0.01, 1e-3


class Settings(WindowSettings, ConditionalSettings, ReconstructionSettings):
    """A dense autoencoder with batch normalisation on context windows."""

    family: Literal["ae"] = "ae"
    layers: int = Field(4, ge=1, description="hidden layers before the bottleneck, and as many behind it")
    h_dim: int = Field(128, ge=1, description="units in each hidden layer")
    z_dim: int = Field(8, ge=1, description="units in the bottleneck")
    score: Literal["reconstruction", "mahalanobis", "gmm", "knn", "lof", "ocsvm", "exposure"] = Field(
        "reconstruction", description="a window's reconstruction error, or a density of its clip's bottleneck"
    )

    @property
    def fewest_in_batch(self) -> int:
        return 2


class Model(ReconstructingModel):
    """Reconstructs windows of healthy sound; what it reconstructs badly is anomalous."""

    def __init__(self, settings: Settings, scale: Scale, labels: Labels) -> None:
        super().__init__()
        inputs, hidden = settings.context * scale.bins, [settings.h_dim] * settings.layers
        self.scale = scale
        self.ids = id_inputs(settings, labels)
        self.encoder = nn.Sequential(*_normalised_layers(inputs + self.ids, *hidden, settings.z_dim))
        self.decoder = nn.Sequential(
            *_normalised_layers(settings.z_dim + self.ids, *hidden), nn.Linear(settings.h_dim, inputs)
        )

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error. Units are normalised over the batch in training: it needs at least two windows."""
        target: Tensor = self.scale(batch.inputs)
        return functional.mse_loss(self._reconstruction(target, batch), target)

    def score(self, batch: Batch) -> Tensor:
        """Mean squared error of each window."""
        target: Tensor = self.scale(batch.inputs)
        return (self._reconstruction(target, batch) - target).square().mean(dim=1)

    def embed(self, batch: Batch) -> Tensor:
        """The bottleneck as the decoder is given it, (batch, z_dim), at least 0."""
        return self._bottleneck(self.scale(batch.inputs), batch)

    def residual(self, batch: Batch) -> Tensor:
        target: Tensor = self.scale(batch.inputs)
        error = self._reconstruction(target, batch) - target
        return log_error_of_bins(error.view(len(error), -1, self.scale.bins))

    def reconstruct(self, batch: Batch) -> Tensor:
        """The windows in the feature's units; a linear output may lie outside of their limits."""
        return self.scale.inverse(self._reconstruction(self.scale(batch.inputs), batch))

    def _reconstruction(self, target: Tensor, batch: Batch) -> Tensor:
        reconstruction: Tensor = self.decoder(with_ids(self._bottleneck(target, batch), batch, self.ids))
        return reconstruction

    def _bottleneck(self, target: Tensor, batch: Batch) -> Tensor:
        bottleneck: Tensor = self.encoder(with_ids(target, batch, self.ids))
        return bottleneck


def _normalised_layers(*sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, eps=_EPSILON, momentum=_MOMENTUM), nn.ReLU()]
    return layers
