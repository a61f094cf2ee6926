"""The variational autoencoder of the DCASE 2020 student entry, after Kingma and Welling, "Auto-Encoding
Variational Bayes" (2014).

    inputs (batch, D)  D = context · bins, scaled to [0, 1]
      → h_dim → h_dim → µ (batch, z_dim), log σ² (batch, z_dim)
      z = µ + σ·ε in training, z = µ in scoring
      → h_dim → h_dim → reconstruction (batch, D) in (0, 1)

With 5 frames of 128 mels, h_dim 400 and z_dim 20 that is 640-400-400-20-400-400-640: 858,280 parameters. A conditional
one is given the machine ID, too, on both sides: behind the inputs and behind z.
"""

from __future__ import annotations

from typing import Literal

import torch
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


class Settings(WindowSettings, ConditionalSettings, ReconstructionSettings):
    """A dense variational autoencoder on context windows."""

    family: Literal["vae"] = "vae"
    layers: int = Field(2, ge=1, description="hidden layers of the encoder, and as many of the decoder")
    h_dim: int = Field(400, ge=1, description="units in each hidden layer")
    z_dim: int = Field(20, ge=1, description="latent dimensions")
    kld_weight: float = Field(
        0.01,
        ge=0,
        description="weight of the Kullback-Leibler divergence in the loss, beside a window's summed squared error: "
        "the β of a β-VAE",
    )
    score: Literal["reconstruction", "mahalanobis", "gmm", "knn", "lof", "ocsvm", "exposure"] = Field(
        "reconstruction", description="a window's reconstruction error, or a density of its clip's µ"
    )


class Model(ReconstructingModel):
    """Reconstructs windows of healthy sound; what it reconstructs badly is anomalous."""

    def __init__(self, settings: Settings, scale: Scale, labels: Labels) -> None:
        super().__init__()
        inputs, hidden, latent = settings.context * scale.bins, settings.h_dim, settings.z_dim
        self.scale = scale
        self.kld_weight = settings.kld_weight
        self.ids = id_inputs(settings, labels)
        self.encoder = nn.Sequential(*_hidden_layers(inputs + self.ids, hidden, settings.layers))
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            *_hidden_layers(latent + self.ids, hidden, settings.layers), nn.Linear(hidden, inputs)
        )

    def loss(self, batch: Batch) -> Tensor:
        """Squared error summed over a window + kld_weight · KL divergence from N(0, 1), mean over windows."""
        target: Tensor = self.scale(batch.inputs)
        hidden = self.encoder(with_ids(target, batch, self.ids))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        squared_error = functional.mse_loss(self._decoded(latent, batch), target, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        loss: Tensor = (squared_error + self.kld_weight * divergence) / len(target)
        return loss

    def score(self, batch: Batch) -> Tensor:
        """Mean squared error of each window, reconstructed from µ: a sample of z would add noise to the score."""
        target: Tensor = self.scale(batch.inputs)
        return (self._reconstruction(target, batch) - target).square().mean(dim=1)

    def embed(self, batch: Batch) -> Tensor:
        """µ of each window, (batch, z_dim)."""
        return self._mean(self.scale(batch.inputs), batch)

    def residual(self, batch: Batch) -> Tensor:
        target: Tensor = self.scale(batch.inputs)
        error = self._reconstruction(target, batch) - target
        return log_error_of_bins(error.view(len(error), -1, self.scale.bins))

    def reconstruct(self, batch: Batch) -> Tensor:
        """The windows from µ, in the feature's units."""
        return self.scale.inverse(self._reconstruction(self.scale(batch.inputs), batch))

    def _reconstruction(self, target: Tensor, batch: Batch) -> Tensor:
        return self._decoded(self._mean(target, batch), batch)

    def _mean(self, target: Tensor, batch: Batch) -> Tensor:
        mean: Tensor = self.mean(self.encoder(with_ids(target, batch, self.ids)))
        return mean

    def _decoded(self, latent: Tensor, batch: Batch) -> Tensor:
        return torch.sigmoid(self.decoder(with_ids(latent, batch, self.ids)))


def _hidden_layers(inputs: int, width: int, layers: int) -> list[nn.Module]:
    sizes = [inputs, *[width] * layers]
    return [module for index in range(layers) for module in (nn.Linear(sizes[index], sizes[index + 1]), nn.ReLU())]
