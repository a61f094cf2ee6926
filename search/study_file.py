"""Study files: reading, checking and writing them.

A study file and a recipe are the same file with ranges or without; both end as a `Study` here. Every message
names the file, the line, the key, the rule and what was got.
"""

from __future__ import annotations

import copy
import io
import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML

from features.errors import OffkeyError
from features.feature_settings import KINDS, FeatureSettings
from features.feature_settings import settings_of as settings_of_kind
from models.families import FAMILIES, settings_of
from search import space as spaces
from search.document import Document
from search.errors import StudyFileError
from search.recipe import Recipe, SearchSettings
from search.space import Space, Tree

_EXTRA_KEYS = ("search", "baseline")

#: Of a block's open settings, at most so many combinations of extremes are tried.
_MOST_CORNERS = 1000


@dataclass(frozen=True)
class Study:
    """A checked study: a search space over recipes, a budget, and the configuration it is compared with."""

    space: Space
    search: SearchSettings
    baseline: Mapping[str, Any]  # parameter name → value of Optuna's kind

    @property
    def name(self) -> str:
        return str(self.space.tree["study"])

    @property
    def tree(self) -> Tree:
        """As it would stand in a file."""
        return self.space.tree | {"baseline": dict(self.baseline), "search": self.search.model_dump(exclude_none=True)}

    @property
    def max_epochs(self) -> int:
        """The most epochs that a trial can have: the pruner's largest resource."""
        opened = [s.extremes for s in self.space.settings if s.path[-2:] == ("training", "epochs")]
        return max(int(max(itertools.chain([], *opened), default=0)), *(recipe.epochs for recipe in self.recipes()))

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the open choices, by parameter name; the baseline's first."""
        names = [setting.name for setting in self.space.settings]
        choices = itertools.product(*(setting.extremes for setting in self.space.settings))
        combinations = [dict(zip(names, values, strict=True)) for values in choices]
        return sorted(combinations, key=lambda combination: not self.baseline.items() <= combination.items())

    def close(self, trial: BaseTrial) -> Recipe:
        """The trial's recipe: each open setting closed by the trial's suggestion."""
        return Recipe.model_validate(self.space.close(trial))

    def first_recipe(self) -> Recipe:
        """The first family's recipe, each range at its low end or first choice, or the next that its block allows."""
        return self.recipes()[0]

    def recipes(self) -> list[Recipe]:
        """Each family's recipe, as `first_recipe` for the first one."""
        recipes = []
        for branch in range(len(self.space.families)):
            values: dict[spaces.Path, Any] = {}
            for block in dict.fromkeys(str(setting.path[0]) for setting in self.space.settings):
                values |= _legal_corner(self.space, branch, block) or {}
            recipes.append(Recipe.model_validate(_probe(self.space, branch, values)))
        return recipes


def load_study(source: str | Path, *, overrides: Sequence[str] = (), name: str | None = None) -> Study:
    """The study of a file or of a shipped study's name, with `--set` overrides, under another name if one is given.

    Raises StudyFileError for anything that is not as the schema wants it.
    """
    text, origin = _text_of(source)
    document = Document.parse(text, origin)
    for override in overrides:
        document.override(override)
    if name is not None:
        document.tree["study"] = name
        document.overridden["study",] = f"--study {name}"
    return _Check(document).study()


def study_of_tree(tree: Tree, *, origin: str, overrides: Sequence[str] = ()) -> Study:
    """The study of a tree that was stored, with `--set` overrides."""
    document = Document(tree=copy.deepcopy(tree), origin=origin)
    for override in overrides:
        document.override(override)
    return _Check(document).study()


def shipped_studies() -> dict[str, str]:
    """Name → first comment line of each study file that ships."""
    found = {}
    for file in sorted(resources.files("studies").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            found[file.name.removesuffix(".yaml")] = file.read_text().splitlines()[0].removeprefix("#").strip()
    return found


def to_yaml(tree: Tree) -> str:
    """A tree as a study file's text, its keys in their order."""
    writer = YAML()
    writer.default_flow_style = False
    writer.width = 110
    out = io.StringIO()
    writer.dump(tree, out)
    return out.getvalue()


def _text_of(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(source)
        except (OSError, UnicodeDecodeError) as error:
            raise StudyFileError(f"{source} cannot be read: {error}") from error
    shipped = shipped_studies()
    if str(source) in shipped:
        return (resources.files("studies") / f"{source}.yaml").read_text(), f"the shipped study {source}"
    near = get_close_matches(str(source), shipped, n=1)
    hint = f" Did you mean {near[0]}?" if near else f" Studies that ship: {', '.join(shipped)}."
    raise StudyFileError(f"{source}: no such study file, and no study of that name ships.{hint}")


@dataclass
class _Check:
    """Reads a document as a study; the first rule broken ends it with a message."""

    document: Document

    def study(self) -> Study:
        search = self._search_settings()
        baseline = self.document.tree.get("baseline") or {}
        tree = {key: value for key, value in self.document.tree.items() if key not in _EXTRA_KEYS}
        try:
            space = spaces.read_space(tree, is_real=lambda path: _takes_reals(tree, path))
        except spaces.RangeError as error:
            raise self.document.error(error.path, str(error)) from error
        self._check_closings(space)
        self._check_features(tree.get("features") or {})
        self._check_effects(space)
        if not space.distributions() and "trials" not in (self.document.tree.get("search") or {}):
            search = search.model_copy(update={"trials": 1})  # a recipe: nothing is left to try
        study = Study(space=space, search=search, baseline={})
        study = replace(study, baseline=self._baseline(space, baseline))
        return self._on_a_grid(study) if search.sampler == "grid" else study

    def _on_a_grid(self, study: Study) -> Study:
        """The study with as many trials as its grid has points at most."""
        for setting in study.space.settings:
            if not isinstance(setting.distribution, CategoricalDistribution):
                raise self.document.error(setting.path, "must be given as choices for search.sampler: grid")
        if len(study.space.families) > 1:
            raise self.document.error(("model",), "must be one family for search.sampler: grid")
        trials = min(study.search.trials, len(study.grid()))
        return replace(study, search=study.search.model_copy(update={"trials": trials}))

    def _search_settings(self) -> SearchSettings:
        block = self.document.tree.get("search") or {}
        for path, _ in spaces.ranges_in({"search": block}):
            raise self.document.error(path, "holds a range, but what steers a search is not searched: give one value")
        try:
            return SearchSettings.model_validate(block)
        except ValidationError as error:
            raise self._schema_error(error.errors()[0], ("search",), SearchSettings) from error

    def _check_closings(self, space: Space) -> None:
        """Validates recipes at both ends of every range and at every choice, one open setting at a time.

        A rule between settings of a block may fail at some corners of the space and hold at others: it refuses the
        study where it holds at none.
        """
        for branch in range(len(space.families)):
            self._validate(space, branch, {})
        for setting in space.settings:
            branch = setting.path[1] if setting.path[0] == "model" and isinstance(setting.path[1], int) else 0
            for value in setting.extremes:
                self._validate(space, branch, {setting.path: value})

    def _check_features(self, block: Mapping[str, Any]) -> None:
        """Refuses a setting that no kind of feature uses that a trial may have: it would be searched for nothing."""
        kind = block.get("kind", FeatureSettings().kind)
        choices = kind["choices"] if spaces.is_range(kind) else [kind]
        kinds = [FeatureSettings.model_validate({"kind": choice}).kind for choice in choices]
        used = {"kind", "normalize"}.union(*map(settings_of_kind, kinds))
        for name in block:
            if name not in used:
                of = [kind for kind in KINDS if name in settings_of_kind(kind)]
                raise self.document.error(
                    ("features", name), f"has no effect on {', '.join(kinds)}: it is a setting of {', '.join(of)}"
                )

    def _check_effects(self, space: Space) -> None:
        """Refuses a range of what has an effect beside certain values of another setting, and can have none here."""
        for setting in space.settings:
            schema = _schema_at(space.tree, setting.path[:-1])
            if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
                continue
            key, values = getattr(schema, "ONLY_BESIDE", {}).get(setting.path[-1], ("", ()))
            if key:
                chosen = _at(space.tree, setting.path[:-1]).get(key, schema.model_fields[key].default)
                if not set(values).intersection(chosen["choices"] if spaces.is_range(chosen) else [chosen]):
                    place = ".".join(str(part) for part in setting.path[:-1] if not isinstance(part, int))
                    raise self.document.error(
                        setting.path,
                        f"would be searched for nothing: it counts with {place}.{key}: {' or '.join(map(str, values))}",
                    )

    def _validate(self, space: Space, branch: int, values: Mapping[spaces.Path, Any]) -> None:
        # A key that is missing has perhaps been mistyped: what is there and unknown comes first.
        problems = sorted(_problems(_probe(space, branch, values)), key=lambda p: p["type"] != "extra_forbidden")
        for problem in problems:
            block = str(problem["loc"][0])
            if not _is_between_settings(problem) or _legal_corner(space, branch, block) is None:
                raise self._schema_error(problem, (), Recipe, branch)

    def _schema_error(
        self, problem: ErrorDetails, prefix: spaces.Path, schema: type[BaseModel], branch: int = 0
    ) -> StudyFileError:
        location = problem["loc"]
        if location[:1] == ("model",) and isinstance(self.document.tree.get("model"), list):
            location = ("model", branch, *location[1:])
        path = (*prefix, *location)
        if problem["type"] == "extra_forbidden":
            known = _keys_at(self.document.tree, schema, location[:-1])
            near = get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            return self.document.error(path, f"is not a setting; {hint}")
        if problem["type"] == "missing":
            return self.document.error(path, "is missing")
        message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if problem["type"] == "value_error":
            names_none = problem["loc"][-1] == "model" and _family_of(problem["input"]) not in (None, *FAMILIES)
            return self.document.error((*path, "family") if names_none else path, message)
        hint = f"; {spaces.range_hint(problem['input'])}" if isinstance(problem["input"], dict) else ""
        return self.document.error(path, f"{message}, but got {problem['input']!r}{hint}")

    def _baseline(self, space: Space, values: Any) -> dict[str, Any]:
        if not isinstance(values, dict):
            raise self.document.error(("baseline",), f"must name parameters and values, but got {values!r}")
        distributions = space.distributions()
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in distributions:
                near = get_close_matches(name, distributions, n=1)
                hint = f"did you mean {near[0]}?" if near else f"open here: {', '.join(distributions) or 'nothing'}"
                raise self.document.error(("baseline", name), f"is not an open setting; {hint}")
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
                raise self.document.error(("baseline", name), f"{rule}, but got {value!r}")
            checked[name] = value
        return checked


def _at(tree: Tree, path: spaces.Path) -> Any:
    node: Any = tree
    for key in path:
        node = node[key]
    return node


def _probe(space: Space, branch: int, values: Mapping[spaces.Path, Any]) -> Tree:
    """A closed tree of one branch: these values, and the first extreme of every other open setting."""
    tree = copy.deepcopy(space.tree)
    for setting in space.settings:
        spaces.put(tree, setting.path, values.get(setting.path, setting.extremes[0]))
    if isinstance(tree.get("model"), list):
        tree["model"] = tree["model"][branch]
    return tree


def _problems(closed: Tree) -> list[ErrorDetails]:
    try:
        Recipe.model_validate(closed)
    except ValidationError as error:
        return error.errors()
    return []


def _is_between_settings(problem: ErrorDetails) -> bool:
    """Whether the broken rule is one between the settings of a block."""
    is_of_block = isinstance(problem["input"], dict) and not isinstance(problem["loc"][-1], int)
    has_family = problem["loc"][-1] != "model" or _family_of(problem["input"]) in FAMILIES
    return problem["type"] == "value_error" and is_of_block and has_family


def _family_of(block: Any) -> str | None:
    return str(block["family"]) if isinstance(block, dict) and "family" in block else None


def _legal_corner(space: Space, branch: int, block: str) -> dict[spaces.Path, Any] | None:
    """Extremes of a block's open settings between which the block's rules hold; None if there are none."""
    settings = [s for s in space.settings if s.path[0] == block and not _is_of_another_branch(s.path, branch)]
    corners = itertools.product(*(setting.extremes for setting in settings))
    for corner in itertools.islice(corners, _MOST_CORNERS):
        values = {setting.path: value for setting, value in zip(settings, corner, strict=True)}
        problems = _problems(_probe(space, branch, values))
        if not any(problem["loc"][0] == block and _is_between_settings(problem) for problem in problems):
            return values
    return None


def _is_of_another_branch(path: spaces.Path, branch: int) -> bool:
    return path[0] == "model" and isinstance(path[1], int) and path[1] != branch


def _takes_reals(tree: Tree, path: spaces.Path) -> bool:
    """Whether the schema wants a real number at this path."""
    annotation = _schema_at(tree, path)
    return annotation is float or float in typing.get_args(annotation)


def _schema_at(tree: Tree, path: spaces.Path) -> Any:
    """What the schema wants at a path: a class of settings, a type, or None where it knows nothing."""
    schema: Any = Recipe
    node: Any = tree
    for key in path:
        node = node.get(key) if isinstance(node, dict) else node[key] if isinstance(node, list) else None  # type: ignore[index]
        if isinstance(key, int):  # a family of several
            schema = _schema_of_family(node)
        elif isinstance(schema, type) and issubclass(schema, BaseModel):
            field = schema.model_fields.get(str(key))
            schema = None if field is None else field.annotation
            if key == "model":
                schema = _schema_of_family(node)
        elif typing.get_origin(schema) is Mapping:
            schema = typing.get_args(schema)[1]
        else:
            return None
    return schema


def _schema_of_family(block: Any) -> Any:
    if isinstance(block, list):
        block = block[0] if block else None
    try:
        return settings_of(str(block.get("family"))) if isinstance(block, Mapping) else None
    except OffkeyError:
        return None  # the schema says so with the place


def _keys_at(tree: Tree, schema: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that the schema knows in the block at a location."""
    inner = schema if schema is not Recipe else _schema_at(tree, tuple(location))
    if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
        inner = schema
    names = [info.alias or name for name, info in inner.model_fields.items()]
    return [*names, *_EXTRA_KEYS] if inner is Recipe else names
