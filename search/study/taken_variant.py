"""What a trial's parameters do not say themselves: which of them it chose after its training, of how many combinations.

When a trial ends, its worker keeps this as a system attribute, and in words as a user attribute, which the dashboard
shows. So tables of trials need neither the study's families nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

_KEPT = "variant"

#: The user attribute with the variant in words. The dashboard's page shows the first six attributes by name at once.
_SHOWN = "chosen"


@dataclass(frozen=True)
class TakenVariant:
    """The settings that a trial chose after its training."""

    values: Mapping[str, Any]  # by their names without the family's
    tried: int  # combinations that were scored on this training, this one included

    @property
    def in_words(self) -> str:
        """The variant, for example `pooling top, windows quiet (one of 24 tried on this training)`."""
        settings = ", ".join(f"{name} {value}" for name, value in self.values.items())
        return f"{settings} (one of {self.tried} tried on this training)"

    @property
    def user_attributes(self) -> dict[str, str]:
        return {_SHOWN: self.in_words}

    @property
    def system_attributes(self) -> dict[str, Any]:
        return {_KEPT: {"values": dict(self.values), "tried": self.tried}}


def taken_variant(trial: FrozenTrial) -> TakenVariant | None:
    """Return the variant that a trial took; None if it had no choice, or has not ended."""
    kept = trial.system_attrs.get(_KEPT)
    return None if kept is None else TakenVariant(kept["values"], kept["tried"])
