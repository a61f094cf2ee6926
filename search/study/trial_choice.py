"""What a trial's parameters do not say themselves: which variant it took, and which of them have no effect.

When a trial ends, its worker keeps this as system attributes, and the variant in words as a user attribute, which the
dashboard shows. So tables of trials need neither the study's families nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial

from search.study.branches import without_family
from search.study.effects import why_idle
from search.study.machine_types import parameter_of
from search.study.recipe import Recipe
from search.study.space import Space, in_branch
from search.study.study import Study

_VARIANT, _IDLE = "variant", "idle"

#: The user attribute with the variant in words. The dashboard's page shows the first six attributes by name at once.
_SHOWN = "chosen"


@dataclass(frozen=True)
class TakenVariant:
    """The settings that a trial chose after its training."""

    values: Mapping[str, Any]  # of the settings that have an effect here; their names without the family's
    tried: int  # combinations that were scored on this training, this one included

    @property
    def in_words(self) -> str:
        """The variant, for example `pooling top, windows quiet (one of 24 tried on this training)`."""
        settings = ", ".join(f"{name} {value}" for name, value in self.values.items())
        return f"{settings} (one of {self.tried} tried on this training)"


@dataclass(frozen=True)
class Choice:
    """The variant that a trial took, and the names of its parameters that have no effect beside the others."""

    variant: TakenVariant | None = None  # None if nothing was left to choose after the training
    idle: frozenset[str] = field(default_factory=frozenset)

    @property
    def user_attributes(self) -> dict[str, str]:
        return {} if self.variant is None else {_SHOWN: self.variant.in_words}

    @property
    def system_attributes(self) -> dict[str, Any]:
        variant, idle = self.variant, sorted(self.idle)
        kept = {} if variant is None else {_VARIANT: {"values": dict(variant.values), "tried": variant.tried}}
        return {**kept, **({_IDLE: idle} if idle else {})}


def choice_of(study: Study, number: int, params: Mapping[str, Any], *, chosen: Mapping[str, Any], tried: int) -> Choice:
    """Return the choice of a trial that ends with these parameters; `chosen` are those that it chose among `tried`."""
    trial = FixedTrial(dict(params), number=number)
    tree = study.space.close(trial)
    recipe, family = Recipe.model_validate(tree), params.get("family", study.space.families[0])
    closed = Space(tree=tree, families=(family,), settings=())
    settings = [setting for setting in study.space.settings if setting.name in params]
    idle = frozenset(s.name for s in settings if why_idle(in_branch(s.path), closed, [recipe]))
    given = study.tried_first.get(number, {})
    values = {name: value for name, value in chosen.items() if name not in idle and name not in given}
    return Choice(TakenVariant(without_family(values, family), tried) if tried > 1 else None, idle)


def choice_for_each_type(
    study: Study,
    number: int,
    params: Mapping[str, Any],
    machines: Sequence[str],
    *,
    chosen: Mapping[str, Any],
    tried: int,
) -> Choice:
    """Return the choice of a trial that closes its scoring for each of these machine types, as `choice_of` does."""
    values: dict[str, Any] = {}
    idle: set[str] = set()
    for machine in machines:
        own = {name: parameter_of(machine, name) for name in study.space.distributions()}
        own = {name: key for name, key in own.items() if key in chosen}
        of_type = {name: chosen[key] for name, key in own.items()}
        choice = choice_of(study, number, {**params, **of_type}, chosen=of_type, tried=tried)
        idle |= {own.get(name, name) for name in choice.idle}
        of_variant = {} if choice.variant is None else choice.variant.values
        values |= {parameter_of(machine, name): value for name, value in of_variant.items()}
    return Choice(TakenVariant(values, tried) if tried > 1 else None, frozenset(idle))


def taken_variant(trial: FrozenTrial) -> TakenVariant | None:
    """Return the variant that a trial took; None if it had no choice, or has not ended."""
    kept = trial.system_attrs.get(_VARIANT)
    return None if kept is None else TakenVariant(kept["values"], kept["tried"])


def effective_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters of a trial without those of which it is known that they have no effect."""
    idle = trial.system_attrs.get(_IDLE, ())
    return {name: value for name, value in trial.params.items() if name not in idle}
