"""Masked autoencoder for distribution estimation: Germain, Gregor, Murray and Larochelle (2015).

    values of a window (batch, D)  D = context · bins, each predicted from those before it in an ordering
      → h_dim → …                  as many hidden layers as `layers`, ReLU
      → densities (batch, D)       of each value a Gaussian, or a mixture of `components`

Orderings are drawn with the weights and kept. A hidden layer should not be much smaller than D: a unit depends
on the first values of an ordering, and serves those after them.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from models.labels import Labels
from models.layers.masked import MaskedModel, MaskedSettings
from models.layers.scale import Scale


class Settings(MaskedSettings):
    """The density of context windows, value after value; the score is the negative log-likelihood."""

    family: Literal["made"] = "made"
    orderings: int = Field(4, ge=1, description="orders of the values, drawn at random")


class Model(MaskedModel):
    """Predicts each value of a window from those before it in several orders."""

    def __init__(self, settings: Settings, scale: Scale, labels: Labels) -> None:
        # On the CPU wherever the model goes: one seed, one set of orderings.
        orderings = torch.stack([torch.randperm(settings.context * scale.bins) for _ in range(settings.orderings)])
        super().__init__(settings, orderings, 1, scale, labels)
