"""What a study file is checked for beyond the schema: before any work, with the place of the first rule broken.

A setting takes effect where it is read: a setting of `training:` in each family or member of an ensemble that does not
have its own. A range of what these rules find no effect of would be searched for nothing, and is refused; of a value
that has none the user is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from features.feature_settings import KINDS, FeatureSettings
from features.feature_settings import settings_of as settings_of_kind
from features.settings import Settings
from models.families import settings_of
from models.member import Member
from models.settings import BACKENDS
from search import space as spaces
from search.corners import first_recipe, is_between_settings, legal_corner, probe, problems
from search.document import Document
from search.errors import StudyError
from search.proxy import proxies_named
from search.recipe import OF_THE_WHOLE, SHARED_BLOCKS, TRAINED_ONLY, Recipe, ValidationSettings
from search.schema import block_schema, default_of, explained
from search.space import Path, Space, Tree

#: With fewer, no p-value of its test is below the one at which a trial is stopped before the last fold.
_FEWEST_FOLDS_FOR_WILCOXON = 5

#: Settings of `scoring:` that make one score of those of windows.
_POOLING = ("pooling", "decay", "top_share")


def check(document: Document, space: Space) -> None:
    """Raises StudyFileError for the first thing that is not as a study has it."""
    for branch in range(len(space.families)):
        _check_closed(document, space, branch, {})
    for setting in space.settings:
        for value in setting.extremes:
            _check_closed(document, space, setting.branch or 0, {setting.path: value})
    _check_members(document, space.tree)
    _check_features(document, space.tree)
    _check_effects(document, space)
    _check_steering(document, space)


def checked_baseline(document: Document, space: Space, values: Any) -> dict[str, Any]:
    """The baseline, each value one that its parameter can have."""
    if not isinstance(values, dict):
        raise document.error(("baseline",), f"must name parameters and values, but got {values!r}")
    distributions = space.distributions()
    for name, value in values.items():
        if name not in distributions:
            near = get_close_matches(name, distributions, n=1)
            hint = f"did you mean {near[0]}?" if near else f"open here: {', '.join(distributions) or 'nothing'}"
            raise document.error(("baseline", name), f"is not an open setting; {hint}")
        distribution = distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            inside = value in distribution.choices
            rule = f"must be one of {', '.join(map(str, distribution.choices))}"
        else:
            assert isinstance(distribution, IntDistribution | FloatDistribution)
            low, high, step = distribution.low, distribution.high, distribution.step
            kinds = (int,) if isinstance(distribution, IntDistribution) else (int, float)
            inside = type(value) in kinds and low <= value <= high
            steps = (value - low) / step if inside and step else 0
            inside = inside and math.isclose(steps, round(steps), abs_tol=1e-8)
            rule = f"must lie in its range, {low} to {high}" + ("" if step is None else f" in steps of {step}")
        if not inside:
            raise document.error(("baseline", name), f"{rule}, but got {value!r}")
    return dict(values)


def require_grid(document: Document, space: Space) -> None:
    """Refuses what has no finite number of combinations."""
    for setting in space.settings:
        if not isinstance(setting.distribution, CategoricalDistribution):
            raise document.error(setting.path, "must be given as choices for search.sampler: grid")
    if len(space.families) > 1:
        raise document.error(("model",), "must be one family for search.sampler: grid")


def _check_closed(document: Document, space: Space, branch: int, values: Mapping[Path, Any]) -> None:
    """Validates the recipe with these values, the other open settings at their first extremes.

    A rule between settings of a block may fail at some corners of the space and hold at others: it refuses the
    study where it holds at none.
    """
    # A key that is missing has perhaps been mistyped: what is there and unknown comes first.
    found = sorted(problems(probe(space, branch, values)), key=lambda problem: problem["type"] != "extra_forbidden")
    for problem in found:
        if not is_between_settings(problem) or legal_corner(space, branch, [problem["loc"]]) is None:
            raise explained(problem, document, branch=branch)


def _check_members(document: Document, tree: Tree) -> None:
    """Refuses in a member what is said once for all of them."""
    for branch in _branches(tree):
        for name, member in branch.members.items():
            for block, keys in OF_THE_WHOLE.items():
                for key in keys:
                    if key in (member.get(block) or {}):
                        path = (*branch.path, "members", name, block, key)
                        raise document.error(
                            path, f"is one for all members: set it in the study's `{block}:`, beside `model:`"
                        )


def _check_features(document: Document, tree: Tree) -> None:
    """Refuses a setting that no kind of feature uses that a trial may have."""
    shared = tree.get("features") or {}
    heard = [kind for reader in _readers(tree, ("features",)) for kind in _kinds(reader.block)]
    heard += _kinds(shared) if "kind" in shared else []
    _require_used(document, ("features",), shared, heard)
    for branch in _branches(tree):
        for name, member in branch.members.items():
            own = member.get("features") or {}
            _require_used(document, (*branch.path, "members", name, "features"), own, _kinds({**shared, **own}))


def _require_used(document: Document, path: Path, block: Mapping[str, Any], heard: list[str]) -> None:
    kinds = list(dict.fromkeys(heard))
    for name in block:
        if not any(_uses(kind, name) for kind in kinds):
            of = [kind for kind in KINDS if name in settings_of_kind(kind)]
            raise document.error(
                (*path, name), f"has no effect on {', '.join(kinds)}: it is a setting of {', '.join(of)}"
            )


def idle_settings(space: Space) -> list[str]:
    """What a study says in vain: each value, other than the default, that has no effect in any trial."""
    if "from" in space.tree:  # what was searched for a trial's family or pooling may mean nothing to another's
        return []
    recipes = [first_recipe(space, branch) for branch in range(len(space.families))]
    open_paths = {setting.path for setting in space.settings}
    idle = []
    for path, value in _values(space.tree):
        is_said = path not in open_paths and value != default_of(space.tree, path)
        if is_said and (why := _why_idle(path, space, recipes)):
            idle.append(f"{'.'.join(map(str, path))} has no effect: {why}")
    return idle


def _check_steering(document: Document, space: Space) -> None:
    """Refuses a pruner that has nothing to compare, proxies that there are not, and held-out clips that would vary."""
    validation = ValidationSettings.model_validate(space.tree.get("validation") or {})
    pruner = (document.tree.get("search") or {}).get("pruner")
    if len(validation.objectives) > 1 and pruner not in (None, "none"):
        raise document.error(
            ("search", "pruner"),
            f"must be none where validation.metric names several objectives, but got {pruner}: no curve says early "
            "which trade-off is a good one",
        )
    if pruner == "wilcoxon" and (validation.folds or 0) < _FEWEST_FOLDS_FOR_WILCOXON:
        got = "has none" if validation.folds is None else f"has {validation.folds}"
        raise document.error(
            ("search", "pruner"),
            f"wilcoxon compares trials fold by fold, and takes at least {_FEWEST_FOLDS_FOR_WILCOXON} "
            f"(validation.folds), but the study {got}",
        )
    try:
        proxies_named(validation.proxies or ())
    except StudyError as error:
        raise document.error(("validation", "proxies"), str(error)) from error
    opened = ("corpus", "train_on") in {setting.path for setting in space.settings}
    if opened and validation.holds_out_training_clips:
        why = "folds" if validation.folds is not None else "metric proxy"
        raise document.error(
            ("corpus", "train_on"),
            f"must be one value with validation.{why}, which holds out training clips: trials are judged by the same",
        )


def _check_effects(document: Document, space: Space) -> None:
    """Refuses a range of what can have no effect in any trial."""
    recipes = [first_recipe(space, branch) for branch in range(len(space.families))]
    for setting in space.settings:
        if why := _why_idle(setting.path, space, recipes):
            raise document.error(setting.path, f"would be searched for nothing: {why}")


def _why_idle(path: Path, space: Space, recipes: list[Recipe]) -> str:
    """Why a setting has no effect in any trial; empty if it has one."""
    readers = list(_readers(space.tree, path))
    if not readers:
        return "each member has its own"
    return (
        _untrained(path, readers, recipes)
        or _unheard(path, readers)
        or _unpooled(path, readers, space.tree)
        or _beside(path, readers, space)
    )


def _values(tree: Tree) -> Iterator[tuple[Path, Any]]:
    """What the blocks that a model is made and judged by say, ranges too: each setting's path and value."""
    for block in (*SHARED_BLOCKS, "model"):
        if block in tree:
            yield from _leaves(tree[block], (block,))


def _leaves(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, Mapping) and not spaces.is_range(node):
        inner: Iterator[tuple[str | int, Any]] = iter(node.items())
    elif isinstance(node, list) and path == ("model",):
        inner = enumerate(node)
    else:
        yield path, node
        return
    for key, value in inner:
        yield from _leaves(value, (*path, key))


@dataclass(frozen=True)
class _Branch:
    """One family's block, and the members in it."""

    path: Path
    block: Tree

    @property
    def members(self) -> dict[str, Tree]:
        members: dict[str, Tree] = self.block.get("members") or {}
        return members


@dataclass(frozen=True)
class _Reader:
    """A block in which a setting takes effect, with what a member's has from the study's."""

    branch: int
    member: str | None
    block: Tree


def _branches(tree: Tree) -> list[_Branch]:
    if isinstance(tree["model"], list):
        return [_Branch(("model", index), block) for index, block in enumerate(tree["model"])]
    return [_Branch(("model",), tree["model"])]


def _readers(tree: Tree, path: Path) -> Iterator[_Reader]:
    """Where a setting takes effect; a block's path stands for what no member has its own of."""
    block, key = path[0], path[-1]
    if block not in SHARED_BLOCKS or key in OF_THE_WHOLE[str(block)]:
        yield _own_reader(tree, path)
        return
    shared = tree.get(str(block)) or {}
    cleaning = spaces.values_of((tree.get("cleaning") or {}).get("method", "none"))
    if block == "features" and cleaning != ["none"]:
        yield _Reader(0, None, shared)
    for index, branch in enumerate(_branches(tree)):
        if not branch.members:
            yield _Reader(index, None, shared)
        for name, member in branch.members.items():
            own = member.get(str(block)) or {}
            if key not in own:
                yield _Reader(index, name, {**shared, **own})


def _own_reader(tree: Tree, path: Path) -> _Reader:
    """The block in which a setting stands."""
    index = path[1] if path[0] == "model" and isinstance(path[1], int) else 0
    name = str(path[path.index("members") + 1]) if "members" in path else None
    block: Any = tree
    for key in path[:-1]:
        block = block[key]
    if name is not None and path[-2] in SHARED_BLOCKS:
        block = {**(tree.get(str(path[-2])) or {}), **block}
    return _Reader(index, name, block)


def _untrained(path: Path, readers: list[_Reader], recipes: list[Recipe]) -> str:
    if spaces.without_member(path)[0] != "training" or path[-1] not in TRAINED_ONLY:
        return ""
    models = [
        recipes[reader.branch].model
        if reader.member is None
        else recipes[reader.branch].model.ensemble[reader.member].model
        for reader in readers
    ]
    families = dict.fromkeys(model.family for model in models)
    return "" if any(model.is_trained for model in models) else f"{', '.join(families)} is not trained"


def _unpooled(path: Path, readers: list[_Reader], tree: Tree) -> str:
    if spaces.without_member(path)[:-1] != ("scoring",) or path[-1] not in _POOLING:
        return ""
    for reader in readers:
        branch = _branches(tree)[reader.branch]
        model = branch.block if reader.member is None else branch.members[reader.member]["model"]
        score = settings_of(model["family"]).model_fields.get("score")
        if score is None or not set(BACKENDS).issuperset(spaces.values_of(model.get("score", score.default))):
            return ""
    return "a density gives a clip's score, and windows have none to pool"


def _unheard(path: Path, readers: list[_Reader]) -> str:
    if spaces.without_member(path)[0] != "features":
        return ""
    kinds = dict.fromkeys(kind for reader in readers for kind in _kinds(reader.block))
    name = str(path[-1])
    return "" if any(_uses(kind, name) for kind in kinds) else f"it has no effect on {', '.join(kinds)}"


def _beside(path: Path, readers: list[_Reader], space: Space) -> str:
    """What another setting of the block would have to be, for this one to have an effect."""
    place, blocks = path[:-1], [reader.block for reader in readers]
    schema = block_schema(space.tree, place)
    if schema is not None and issubclass(schema, Member):  # a member's weight depends on what the ensemble does with it
        place = place[:-2]
        schema = block_schema(space.tree, place)
        blocks = [_own_reader(space.tree, (*place, "")).block]
    if schema is None or not issubclass(schema, Settings):
        return ""
    beside = {key: values for key, values in schema.counts_beside(str(path[-1])).items() if key in schema.model_fields}
    for key, values in beside.items():
        for block in blocks:
            if set(values).intersection(spaces.values_of(block.get(key, schema.model_fields[key].default))):
                return ""
    shown = ".".join(str(part) for part in place if not isinstance(part, int))
    wanted = [f"{shown}.{key}: {' or '.join(map(str, values))}" for key, values in beside.items()]
    return f"it counts with {', or with '.join(wanted)}" if wanted else ""


def _kinds(block: Mapping[str, Any]) -> list[str]:
    """The kinds and stacks that a `features:` block may have."""
    choices = spaces.values_of(block.get("kind", FeatureSettings().kind))
    return [FeatureSettings.model_validate({"kind": choice}).kind for choice in choices]


def _uses(kind: str, name: str) -> bool:
    return name in {"kind", "normalize"} or name in settings_of_kind(kind)
