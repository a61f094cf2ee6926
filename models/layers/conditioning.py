"""Telling a network whose sound it is given: the machine ID as a one-hot vector behind its inputs, as in Sohn et al.,
"Learning Structured Output Representation using Deep Conditional Generative Models" (2015).

    values (batch, dim), machine IDs (batch,)  →  (batch, dim + IDs seen in training)
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from features.settings import Effects
from features.windows.excerpts import Batch
from models.labels import Labels
from models.settings import FamilySettings


class ConditionalSettings(FamilySettings):
    """Families whose network may be told machine IDs."""

    conditional: bool = Field(False, description="whether the network is told each clip's machine ID")

    # One that hears a single ID learns nothing from being told so.
    ONLY_BESIDE: ClassVar[Effects] = {"conditional": {"per_id": [False]}}

    @property
    def knows_ids(self) -> bool:
        return self.conditional


def told(settings: ConditionalSettings, labels: Labels) -> int:
    """How many machine IDs the network tells apart; 0 where it is told none."""
    return len(labels.ids) if settings.conditional else 0


def with_ids(values: Tensor, batch: Batch, ids: int) -> Tensor:
    """The values and, where there are `ids` to tell apart, behind them which one each row has, (batch, dim + ids)."""
    if ids == 0:
        return values
    return torch.cat([values, functional.one_hot(batch.known_ids, ids).to(values.dtype)], dim=1)
