"""The machine ID of a sound as an input of a network: a one-hot vector behind the other inputs, as in Sohn et al.,
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
    """Families whose network may take machine IDs as an input."""

    conditional: bool = Field(False, description="whether the network gets each clip's machine ID")

    # With a single ID the input is constant: nothing to learn from.
    ONLY_BESIDE: ClassVar[Effects] = {"conditional": {"per_id": [False]}}

    @property
    def knows_ids(self) -> bool:
        return self.conditional


def id_inputs(settings: ConditionalSettings, labels: Labels) -> int:
    """The number of machine IDs that a network takes as inputs; 0 for one that takes none."""
    return len(labels.ids) if settings.conditional else 0


def with_ids(values: Tensor, batch: Batch, ids: int) -> Tensor:
    """The values, followed by each row's machine ID, one-hot: (batch, dim + ids)."""
    if ids == 0:
        return values
    return torch.cat([values, functional.one_hot(batch.known_ids, ids).to(values.dtype)], dim=1)
