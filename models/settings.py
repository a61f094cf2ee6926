"""What study files say of models. Without torch: whoever only reads a study does not wait for it to load."""

from __future__ import annotations

from typing import Literal

from features.settings import Settings

#: How window scores become one clip score: models.pooling.
Pooling = Literal["mean", "max", "top", "gwrp"]


class FamilySettings(Settings):
    """The `model:` block of a study file: each family adds its own."""

    family: str
    context: int  # frames in one input vector
