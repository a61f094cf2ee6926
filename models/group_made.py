"""Group masked autoencoder: Giri, Cheng, Helwani, Tenneti, Isik and Krishnaswamy, "Group Masked Autoencoder Based
Density Estimator for Audio Anomaly Detection" (DCASE workshop, 2020).

    values of a window (batch, context · bins)
      → h_dim → …                          as many hidden layers as `layers`, ReLU
      → densities (batch, context · bins)  of each value a Gaussian, or a mixture of `components`

All bins of a frame are predicted at once, from the frames before it in an ordering. Of five frames:

    each_last      1 2 3 4 0    2 3 4 0 1    3 4 0 1 2    4 0 1 2 3    0 1 2 3 4
    middle_last    3 4 0 1 2    the middle one from those on both sides: an interpolation
    in_time        0 1 2 3 4    each one from the past

With `each_last` every frame is predicted from every number of others just once: from none, …, from all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from features.windows.excerpts import Batch
from models.labels import Labels
from models.layers.masked import MaskedModel, MaskedSettings
from models.layers.scale import Scale
from models.settings import FamilySettings

Orderings = Literal["each_last", "middle_last", "in_time"]


class Settings(MaskedSettings):
    """The density of context windows, frame after frame; the score is a negative log-likelihood."""

    family: Literal["group_made"] = "group_made"
    orderings: Orderings = Field("each_last", description="orders of the frames: which of them come last")
    score: Literal["window", "last_frame"] = Field(
        "window", description="negative log-likelihood of all frames, or of the last ones, given all others"
    )

    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {"score": ()}


class Model(MaskedModel):
    """Predicts each frame of a window from those before it in one or several orders."""

    def __init__(self, settings: Settings, scale: Scale, labels: Labels) -> None:
        orderings = frame_orderings(settings.orderings, settings.context)
        super().__init__(settings, orderings, scale.bins, scale, labels)
        self.last_frames = orderings[:, -1].tolist()
        self.is_last_frame_scored = settings.score == "last_frame"

    def scoring_by(self, settings: FamilySettings) -> Self:
        other = copy.copy(self)
        assert isinstance(settings, Settings)
        other.is_last_frame_scored = settings.score == "last_frame"
        return other

    def score(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of a window's values, or of its last frames', nats, mean over the orderings."""
        if not self.is_last_frame_scored:
            return super().score(batch)
        likelihoods = []
        for ordering, last in enumerate(self.last_frames):
            of_frames = torch.split(self.likelihoods(batch, ordering), self.scale.bins, dim=1)
            likelihoods.append(of_frames[last].mean(dim=1))
        return -torch.stack(likelihoods).mean(dim=0)


def frame_orderings(orderings: Orderings, frames: int) -> Tensor:
    """The frames one after another, (orderings, frames) int64."""
    lasts = {"each_last": range(frames), "middle_last": [frames // 2], "in_time": [frames - 1]}[orderings]
    return torch.stack([torch.arange(frames).roll(-last - 1) for last in lasts])
