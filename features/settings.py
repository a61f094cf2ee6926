"""The base of every block of settings in a study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

#: Setting → others of its block, and those values of them beside which it has an effect: one such value is enough,
#: alone or in a stack (features.stacks).
Effects = Mapping[str, Mapping[str, Sequence[object]]]


class Settings(BaseModel):
    """Frozen; unknown keys are refused; numbers are never parsed from text."""

    ONLY_BESIDE: ClassVar[Effects] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def counts_beside(cls, setting: str) -> Mapping[str, Sequence[object]]:
        """The entry of `ONLY_BESIDE` for a setting, here or in a base class; empty if the setting always counts."""
        found = (vars(base)["ONLY_BESIDE"].get(setting) for base in cls.__mro__ if "ONLY_BESIDE" in vars(base))
        return next(filter(None, found), {})
