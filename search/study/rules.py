"""Checks of study files beyond the schema, before any work; each error names the place of the first broken rule.

A setting takes effect in the blocks that read it (search.study.effects). A range without any effect would be searched
for nothing and is refused; a value without any effect causes a warning, or is refused too (`Settings.NEVER_IDLE`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution
from pydantic import BaseModel, ValidationError

from features.frames.feature_settings import KINDS, SHARED
from features.frames.feature_settings import settings_of as settings_of_kind
from models.member import NAME, SHARED_TRAINING, changing_the_training, over
from search.errors import StudyError
from search.study import branches
from search.study.corners import is_between_settings, legal_corner, probe, problems
from search.study.document import Document
from search.study.effects import branches_of, idle_values, kinds_of, may_be_idle, readers_of, uses, why_idle
from search.study.machine_types import idle_scoring
from search.study.open_setting import Path, values_of
from search.study.proxies import OTHER_IDS, proxies_named
from search.study.recipe import OF_THE_WHOLE, Recipe, ValidationSettings
from search.study.schema.schema_lookup import block_schema, explained
from search.study.space import Space, Tree

#: With fewer folds, no p-value before the last fold is below the one at which the pruner stops a trial.
_FEWEST_FOLDS_FOR_WILCOXON = 5

#: The most combinations of settings that a trial tries on one training.
_MOST_COMBINATIONS = 1000


def check(document: Document, space: Space) -> None:
    """Raise StudyFileError for the first broken rule."""
    for branch in range(len(space.families)):
        _check_closed(document, space, branch, {})
    of_branches = [space.settings_of(branch) for branch in range(len(space.families))]
    for setting in space.settings:
        for branch in [branch for branch, settings in enumerate(of_branches) if setting in settings][:1]:
            for value in setting.extremes:
                _check_closed(document, space, branch, {setting.path: value})
    _check_members(document, space.tree)
    _check_features(document, space.tree)
    _check_effects(document, space)
    _check_validation(document, space)
    _check_exposure(document, space.tree)


def check_machine_types(document: Document, space: Space, *, is_closed_for_each: bool) -> None:
    """Raise StudyFileError for settings that a machine type cannot have, or that a search would have to choose."""
    given = space.tree.get("machine_types")
    if is_closed_for_each and given is not None:
        raise document.error(("machine_types",), "says what search.scoring_for would choose: leave one of the two out")
    if is_closed_for_each and not any(setting.is_scoring for setting in space.settings):
        raise document.error(
            ("search", "scoring_for"),
            "has nothing to choose: no setting is open that a trial closes after its training. Open one, such as "
            "scoring.pooling or model.score, or leave it out",
        )
    blocks = ("model", "scoring")
    of_types = {
        machine: {block: own[block] for block in blocks if block in own}
        for machine, own in (given.items() if isinstance(given, Mapping) else ())
        if isinstance(own, Mapping) and all(isinstance(own.get(block, {}), Mapping) for block in blocks)
    }  # the schema reports others
    for branch in range(len(space.families)):
        closed = {key: value for key, value in probe(space, branch, {}).items() if key != "machine_types"}
        if problems(closed):
            return  # they are reported as those of any study
        for machine, own in of_types.items():
            _check_machine_type(document, closed, machine, own)


def _check_machine_type(document: Document, closed: Tree, machine: str, own: Mapping[str, Any]) -> None:
    place = ("machine_types", machine)
    recipe = Recipe.model_validate(closed)
    for block, settings in own.items():
        for name in changing_the_training(settings, getattr(recipe, block)):
            raise document.error((*place, block, *name.split(".")), SHARED_TRAINING)
    scored_by = over(closed, own)
    for problem in problems(scored_by):
        raise explained(problem, document, prefix=place)
    for block, idle in idle_scoring(Recipe.model_validate(scored_by).member).items():
        for name in own.get(block, {}):
            if name in idle:
                raise document.error((*place, block, name), "has no effect beside the other settings: leave it out")


def check_branches(document: Document) -> None:
    """Raise StudyFileError for a name or for features that a branch cannot have."""
    model = document.tree.get("model")
    if isinstance(model, Mapping):
        for key, remedy in zip(branches.KEYS, ("remove it", "set them in the study's `features:`"), strict=True):
            if key in model:
                raise document.error(("model", key), f"is for the families of a list, but this is one: {remedy}")
    for index, block in enumerate(model if isinstance(model, list) else []):
        path = ("model", index)
        if not isinstance(block, Mapping):
            continue  # the schema reports it
        name, features = block.get("name"), block.get("features")
        if name is not None and not (isinstance(name, str) and re.fullmatch(NAME, name)):
            raise document.error((*path, "name"), f"must be of letters, digits, _, + and -, but got {name!r}")
        if features is not None and not isinstance(features, Mapping):
            raise document.error(
                (*path, "features"), f"must be a block such as {{kind: clip_spectrum}}, but got {features!r}"
            )
        for key in SHARED:
            if key in (features or {}):
                raise document.error(
                    (*path, "features", key),
                    "is one for all branches, which read the same sound: set it in the study's `features:`",
                )


def require_grid(document: Document, space: Space) -> None:
    """Refuse a study whose space has no finite number of combinations."""
    for setting in space.settings:
        if not isinstance(setting.distribution, CategoricalDistribution):
            raise document.error(setting.path, "must be given as choices for search.sampler: grid")
    if len(space.families) > 1:
        raise document.error(("model",), "must be one family for search.sampler: grid")


def require_few_combinations(document: Document, space: Space) -> None:
    """Refuse a study of which each trial would score too many variants of its training."""
    for branch, family in enumerate(space.families):
        scoring = [setting for setting in space.settings_of(branch) if setting.is_scoring]
        count = math.prod(len(setting.scoring_values) for setting in scoring)
        if count > _MOST_COMBINATIONS:
            shown = ", ".join(f"{setting.name} ({len(setting.scoring_values)})" for setting in scoring)
            raise document.error(
                scoring[0].path,
                f"and the other settings that are closed after a training would give {count:,} combinations for the "
                f"family {family}, more than {_MOST_COMBINATIONS:,}: {shown}. Close some of them, or cut choices",
            )


def require_possible_values(document: Document, space: Space) -> None:
    """Refuse a range of whole numbers some of which a rule of their setting refuses, such as even ones.

    For new study files alone: the trials of a stored study with such a range fail where they take such a value.
    """
    for setting in space.settings:
        schema, name, numbers = block_schema(space.tree, setting.path[:-1]), setting.path[-1], setting.distribution
        if schema is None or not isinstance(numbers, IntDistribution) or name not in _with_rules_of_their_own(schema):
            continue
        for value in range(numbers.low, numbers.high + 1, numbers.step):
            problems = _problems_of(schema, str(name), value)
            if problems:
                raise document.error(
                    setting.path,
                    f"{problems[0]}. The range has such values: leave them out with a `step`, or list the others as "
                    "`choices`",
                )


def _with_rules_of_their_own(schema: type[BaseModel]) -> set[str]:
    rules = schema.__pydantic_decorators__.field_validators.values()
    return {field for rule in rules for field in rule.info.fields}


def _problems_of(schema: type[BaseModel], name: str, value: int) -> list[str]:
    try:
        schema.model_validate({name: value})
    except ValidationError as error:
        return [p["msg"].removeprefix("Value error, ") for p in error.errors() if p["loc"] == (name,)]
    return []


def _check_closed(document: Document, space: Space, branch: int, values: Mapping[Path, Any]) -> None:
    """Validate the recipe with these values, and with the other open settings at their first extremes.

    A rule between settings of a block may fail at some corners of the space and hold at others. The study is refused
    only if the rule holds at no corner.
    """
    # A missing key has perhaps been mistyped: unknown keys are reported first.
    found = sorted(problems(probe(space, branch, values)), key=lambda problem: problem["type"] != "extra_forbidden")
    for problem in found:
        if not is_between_settings(problem) or legal_corner(space, branch, [problem["loc"]]) is None:
            raise explained(problem, document, branch=branch)


def _check_members(document: Document, tree: Tree) -> None:
    """Refuse settings of a member that the ensemble has once."""
    for branch in branches_of(tree):
        for name, member in branch.members.items():
            for block, keys in OF_THE_WHOLE.items():
                for key in keys:
                    if key in (member.get(block) or {}):
                        path = (*branch.path, "members", name, block, key)
                        raise document.error(
                            path, f"is one for all members: set it in the study's `{block}:`, beside `model:`"
                        )


def _check_features(document: Document, tree: Tree) -> None:
    """Refuse a setting of features that no kind of feature in the study uses."""
    shared = tree.get("features") or {}
    kinds = [kind for reader in readers_of(tree, ("features",)) for kind in kinds_of(reader.block)]
    kinds += kinds_of(shared) if "kind" in shared else []
    _require_used(document, ("features",), shared, kinds)
    for index, branch in enumerate(branches_of(tree)):
        if own := branches.features_of(tree, index):
            path = (*branch.path, "features")
            kinds = [kind for reader in readers_of(tree, path) for kind in kinds_of(reader.block)]
            _require_used(document, path, own, kinds)
        for name, member in branch.members.items():
            own = member.get("features") or {}
            of_member = kinds_of({**branch.shared["features"], **own})
            _require_used(document, (*branch.path, "members", name, "features"), own, of_member)


def _require_used(document: Document, path: Path, block: Mapping[str, Any], kinds: list[str]) -> None:
    kinds = list(dict.fromkeys(kinds))
    for name in block:
        if not any(uses(kind, name) for kind in kinds):
            of = [kind for kind in KINDS if name in settings_of_kind(kind)]
            raise document.error(
                (*path, name), f"has no effect on {', '.join(kinds)}: it is a setting of {', '.join(of)}"
            )


def _check_validation(document: Document, space: Space) -> None:
    """Refuse a pruner that cannot compare trials, unknown proxies, and validation clips that differ between trials."""
    validation = ValidationSettings.model_validate(space.tree.get("validation") or {})
    pruner = (document.tree.get("search") or {}).get("pruner")
    if len(validation.objectives) > 1 and pruner not in (None, "none"):
        raise document.error(
            ("search", "pruner"),
            f"must be none where validation.metric names several objectives, but got {pruner}: no learning curve "
            "shows early which trade-off is a good one",
        )
    if pruner == "wilcoxon" and (validation.folds or 0) < _FEWEST_FOLDS_FOR_WILCOXON:
        got = "has none" if validation.folds is None else f"has {validation.folds}"
        raise document.error(
            ("search", "pruner"),
            f"wilcoxon compares trials fold by fold, and needs at least {_FEWEST_FOLDS_FOR_WILCOXON} "
            f"(validation.folds), but the study {got}",
        )
    if (document.tree.get("search") or {}).get("stop") == "told_apart":
        _check_stop(document, validation)
    try:
        proxies_named(validation.proxies or ())
    except StudyError as error:
        raise document.error(("validation", "proxies"), str(error)) from error
    opened = ("corpus", "train_on") in {setting.path for setting in space.settings}
    if opened and validation.holds_out_training_clips:
        why = "folds" if validation.folds is not None else "metric proxy"
        raise document.error(
            ("corpus", "train_on"),
            f"must be one value with validation.{why}, which holds out training clips: all trials need the same ones",
        )


def _check_exposure(document: Document, tree: Tree) -> None:
    """Refuse a detector that learns from synthetic faults where synthetic faults validate it."""
    validation = ValidationSettings.model_validate(tree.get("validation") or {})
    if not validation.uses_proxies or validation.proxies == [OTHER_IDS.name]:
        return
    models = [*_of_machine_types((), tree)]
    for branch in branches_of(tree):
        models += _models(branch.path, branch.block)
    for path, block in models:
        if "exposure" in values_of(block.get("score")):
            raise document.error(
                (*path, "score"),
                "is exposure, which learns from synthetic faults, but validation.metric: proxy validates by such "
                "faults: it would show how well the detector knows them. Leave exposure out, validate on recorded "
                f"faults (validation.metric: auc) or by other machines (validation.proxies: [{OTHER_IDS.name}])",
            )


def _models(path: Path, block: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield each block of a model's settings: its own, and those of its members and of their machine types."""
    yield path, block
    for name, member in (block.get("members") or {}).items():
        yield from _models((*path, "members", name, "model"), member.get("model") or {})
        yield from _of_machine_types((*path, "members", name), member)


def _of_machine_types(path: Path, whole: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for name, own in (whole.get("machine_types") or {}).items():
        yield from _models((*path, "machine_types", name, "model"), own.get("model") or {})


def _check_stop(document: Document, validation: ValidationSettings) -> None:
    """Refuse a study that is to end itself where nothing can be said of the trials that are left."""
    if len(validation.objectives) > 1:
        raise document.error(
            ("search", "stop"),
            "must be never where validation.metric names several objectives, but got told_apart: no trial is the best "
            "of which the others would have to be told",
        )
    if document.tree["search"].get("sampler") == "grid":
        raise document.error(
            ("search", "stop"),
            "must be never for search.sampler: grid, but got told_apart: a grid tries its combinations in their order, "
            "so that those that are left need not resemble the others",
        )


def _check_effects(document: Document, space: Space) -> None:
    """Refuse a range, and a value of a setting that is never idle, without an effect in any trial."""
    for setting in space.settings:
        if why := why_idle(setting.path, space.tree):
            raise document.error(setting.path, f"would be searched for nothing: {why}")
    if "machine_types" in space.tree:
        return  # which may inherit the value
    for path, why in idle_values(space):
        if not may_be_idle(path, space.tree):
            raise document.error(path, f"has no effect: {why}. Set that, or leave {path[-1]} out")
