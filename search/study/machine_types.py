"""One training, another detector for each machine type: trials and recipes that close their scoring for each of them.

A trial keeps what it has taken for a machine type as parameters with the type's name in front, such as `fan.pooling`.
Its recipe has the same under `machine_types`: for each type, all settings of scoring that have an effect on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.settings import Settings
from models.member import Member, OfMachineType, members_in
from models.settings import FamilySettings, ScoringSettings
from search.study.recipe import OF_THE_WHOLE, Recipe
from search.study.space import Tree

#: The user attribute of a trial that closes its scoring for each machine type: these types, sorted.
MACHINE_TYPES = "machine_types"


def parameter_of(machine: str, name: str) -> str:
    """Return the parameter of a setting that is closed for a machine type."""
    return f"{machine}.{name}"


def of_machine_type(parameters: Mapping[str, Any], machine: str, names: Iterable[str]) -> dict[str, Any]:
    """Return a trial's parameters as if it had closed these settings for this machine type alone."""
    own = {name: parameter_of(machine, name) for name in names}
    return {**parameters, **{name: parameters[key] for name, key in own.items() if key in parameters}}


def routed(recipe: Recipe, machines: Sequence[str]) -> Recipe:
    """Return a recipe that scores the clips of each of these machine types by themselves, all in its own way."""
    return recipe.model_copy(update={"machine_types": {machine: OfMachineType() for machine in machines}})


def with_machine_types(by_machine: Mapping[str, Recipe]) -> Recipe:
    """Return the recipe that scores each machine type's clips as its recipe here does.

    The recipes differ in settings of scoring alone.
    """
    recipe = next(iter(by_machine.values()))
    of_types = {machine: _scoring_of(each.member) for machine, each in by_machine.items()}
    scoring = _with_default_scoring(recipe.scoring)
    if len({each.scoring.calibration for each in by_machine.values()}) == 1:
        # In an ensemble, the calibration is that of the whole.
        scoring = scoring.model_copy(update={"calibration": recipe.scoring.calibration})
        for own in of_types.values():
            del own["scoring"]["calibration"]
    return recipe.model_copy(
        update={
            "model": _with_default_scoring(recipe.model),
            "scoring": scoring,
            "machine_types": {machine: OfMachineType(**own) for machine, own in of_types.items()},
        }
    )


def _scoring_of(member: Member, *, is_whole: bool = True) -> Tree:
    """Return the settings of scoring that have an effect, by block; `is_whole` is False for a member of an ensemble."""
    idle = idle_scoring(member)
    of_the_whole = () if is_whole else OF_THE_WHOLE["scoring"]
    tree: Tree = {
        "model": _counting(member.model, idle["model"]),
        "scoring": _counting(member.scoring, idle["scoring"].union(of_the_whole)),
    }
    members: Mapping[str, Any] = members_in(member.model)
    if members:
        without = frozenset() if getattr(member.model, "combine", None) == "weights" else frozenset({"weight"})
        tree["model"]["members"] = {
            name: _scoring_of(each, is_whole=False) | _counting(each, without) for name, each in members.items()
        }
    return tree


def idle_scoring(member: Member) -> dict[str, frozenset[str]]:
    """Return by block the settings that have no effect on how a model scores clips."""
    has_no_windows = members_in(member.model) or member.model.backend is not None
    of_windows = ScoringSettings.OF_WINDOWS if has_no_windows else frozenset()
    return {"model": member.model.idle, "scoring": member.scoring.idle | of_windows}


def _counting(settings: Settings, idle: frozenset[str]) -> Tree:
    """Return the settings of scoring of a block that are not idle, in the order of the schema."""
    names = [name for name in type(settings).model_fields if name in settings.scoring_alone() and name not in idle]
    return {name: getattr(settings, name) for name in names}


def _with_default_scoring(settings: Settings) -> Settings:
    """Return a block whose settings of scoring have their defaults, also in the members of an ensemble."""
    fields = type(settings).model_fields
    changes: dict[str, Any] = {name: fields[name].default for name in settings.scoring_alone() if name in fields}
    members = members_in(settings) if isinstance(settings, FamilySettings) else {}
    if members:
        changes["members"] = {
            name: _with_default_scoring(each).model_copy(
                update={block: _with_default_scoring(getattr(each, block)) for block in ("model", "scoring")}
            )
            for name, each in members.items()
        }
    return settings.model_copy(update=changes)
