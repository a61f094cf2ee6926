"""The base of every block of settings in a study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from features.stacks import parts_of

#: Setting → others of its block, and those values of them beside which it has an effect: one such value is enough,
#: alone or in a stack (features.stacks), if that other setting has an effect itself.
Effects = Mapping[str, Mapping[str, Sequence[object]]]


class Settings(BaseModel):
    """Frozen; unknown keys are refused; numbers are never parsed from text."""

    ONLY_BESIDE: ClassVar[Effects] = {}

    #: Settings that change no training, only what is made of it: a trial tries them all on one training. Each with the
    #: values that stand for a range of it.
    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {}

    #: Further ones that change no training because nothing is trained: a trial tries them all only if it closes its
    #: scoring for each machine type. Otherwise each combination of them is a trial of its own.
    SCORING_OF_EACH: ClassVar[Mapping[str, Sequence[object]]] = {}

    #: Settings of which a value other than the default is refused where it has no effect; others cause a warning.
    #: Texts of recipes name them only where they change something.
    NEVER_IDLE: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def counts_beside(cls, setting: str) -> Mapping[str, Sequence[object]]:
        """The entry of `ONLY_BESIDE` for a setting, here or in a base class; empty if the setting always counts."""
        found = (vars(base)["ONLY_BESIDE"].get(setting) for base in cls.__mro__ if "ONLY_BESIDE" in vars(base))
        return next(filter(None, found), {})

    @classmethod
    def scoring_alone(cls) -> Mapping[str, Sequence[object]]:
        """The settings in which the detectors of one training may differ, each with the values of a range of it."""
        return {**cls.SCORING_ONLY, **cls.SCORING_OF_EACH}

    @property
    def idle(self) -> frozenset[str]:
        """The settings that have no effect beside the values of the others."""

        def counts(setting: str) -> bool:
            beside = {k: v for k, v in self.counts_beside(setting).items() if k in type(self).model_fields}
            return not beside or any(
                counts(key) and any(part in values for part in parts_of(getattr(self, key)))
                for key, values in beside.items()
            )

        return frozenset(setting for setting in type(self).model_fields if not counts(setting))

    @property
    def changing_nothing(self) -> frozenset[str]:
        """The settings of `NEVER_IDLE` that have their default here, or no effect beside the other settings."""
        fields = type(self).model_fields
        default = {name for name in self.NEVER_IDLE if getattr(self, name) == fields[name].default}
        return frozenset(default | (self.NEVER_IDLE & self.idle))
