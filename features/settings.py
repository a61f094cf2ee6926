"""The base of every block of settings in a study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

#: Setting → another one of its block, and those values of it beside which it has an effect.
Effects = Mapping[str, tuple[str, Sequence[object]]]


class Settings(BaseModel):
    """Frozen; unknown keys are refused; numbers are never parsed from text."""

    ONLY_BESIDE: ClassVar[Effects] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
