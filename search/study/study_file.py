"""Reads and writes study files; `search.study.rules` checks them.

A recipe is a study file without ranges: this module reads both as a `Study`. Every message names the file, the line,
the key, the rule and what was got.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML

from features.did_you_mean import did_you_mean
from search.errors import MisuseError, StudyFileError
from search.study import space as spaces
from search.study.corners import first_recipe
from search.study.document import Document
from search.study.effects import facts_of, idle_settings, may_count
from search.study.member_recipes import fill_in_recipes
from search.study.open_setting import RangeError
from search.study.portfolio import checked_first, checked_values
from search.study.recipe import Recipe
from search.study.rules import (
    check,
    check_branches,
    check_machine_types,
    require_few_combinations,
    require_grid,
    require_possible_values,
)
from search.study.schema.schema_lookup import EXTRA_KEYS, explained
from search.study.search_settings import SearchSettings
from search.study.space import Space, Tree
from search.study.study import Study

#: The first line of a study file, up to the address of the schema: editors find the schema by it.
EDITORS_LINE = "# yaml-language-server: $schema="


def load_study(
    source: str | Path, *, overrides: Sequence[str] = (), name: str | None = None, inside: tuple[str, ...] = ()
) -> Study:
    """Read a study file, or a shipped study by its name, with `--set` overrides; `name` replaces the study's name.

    `inside` holds the files whose members name this file. Raises StudyFileError if the file breaks a rule.
    """
    text, origin = _text_of(source)
    if origin in inside:
        raise StudyFileError(f"{origin} names itself as a member, directly or by another file")
    document = Document.parse(text, origin)
    for override in overrides:
        document.override(override)
    if name is not None:
        document.tree["study"] = name
        document.overridden["study",] = f"the name {name}"
    fill_in_recipes(document, lambda recipe: load_study(recipe, inside=(*inside, origin)))
    study = _study(document)
    require_possible_values(document, study.space)
    return study


def load_recipe(
    source: str | Path, *, overrides: Sequence[str] = (), tell: Callable[[str], None], remedy: str
) -> Recipe:
    """Read a recipe; `tell` is called with a warning for each setting without effect.

    Raises StudyFileError if the file breaks a rule, and MisuseError with this remedy if it leaves settings open.
    """
    study = load_study(source, overrides=overrides)
    if opened := study.space.distributions():
        raise MisuseError(f"{source} leaves {', '.join(opened)} open: {remedy}")
    for idle in idle_settings(study.space):
        tell(idle)
    return study.first_recipe()


def study_of_tree(tree: Tree, *, origin: str, overrides: Sequence[str] = ()) -> Study:
    """Return the study of a stored tree, with `--set` overrides."""
    document = Document(tree=copy.deepcopy(tree), origin=origin)
    for override in overrides:
        document.override(override)
    return _study(document)


def shipped_studies() -> dict[str, str]:
    """Return name → description of the study files that ship: the first comment after the line for editors."""
    studies = {}
    for file in sorted(resources.files("studies").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            studies[file.name.removesuffix(".yaml")] = file.read_text().splitlines()[1].removeprefix("#").strip()
    return studies


def shipped_text(name: str) -> str:
    """Return the text of a study file that ships."""
    return (resources.files("studies") / f"{name}.yaml").read_text()


def shipped_schema() -> Path:
    """Return the file with the JSON Schema of study files, beside the studies that ship."""
    return Path(str(resources.files("studies") / "study.schema.json"))


def to_yaml(tree: Tree) -> str:
    """Return a tree as the text of a study file, with its keys in their order."""
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
        return shipped_text(str(source)), f"the shipped study {source}"
    hint = did_you_mean(str(source), shipped) or f"; studies that ship: {', '.join(shipped)}"
    raise StudyFileError(f"{source}: no such study file, and no study of that name ships{hint}")


def _study(document: Document) -> Study:
    """Read a document as a study. Raises StudyFileError for the first broken rule."""
    search = _search_settings(document)
    check_branches(document)
    baseline = document.tree.get("baseline") or {}
    tree = {key: value for key, value in document.tree.items() if key not in EXTRA_KEYS}
    try:
        is_for_each = search.scoring_for is not None
        space = spaces.read_space(tree, facts_of=lambda path: facts_of(tree, path, for_each=is_for_each))
    except RangeError as error:
        raise document.error(error.path, str(error)) from error
    check_machine_types(document, space, is_closed_for_each=search.scoring_for is not None)
    check(document, space)
    space = replace(space, may_count=may_count)  # which reads blocks that were checked
    require_few_combinations(document, space)
    is_given = "trials" in (document.tree.get("search") or {})
    # A study of trained models may repeat one recipe with other seeds.
    if _has_one_trial(space) and (not is_given or search.scoring_for is not None):
        search = search.model_copy(update={"trials": 1})
    first = checked_first(document, space, (document.tree.get("search") or {}).get("first"))
    study = Study(
        space=space,
        search=search.model_copy(update={"first": first or None}),
        baseline=checked_values(document, space, ("baseline",), baseline),
        document=document,
    )
    if len(study.objectives) > 1:
        study = replace(study, search=search.model_copy(update={"pruner": "none"}))
    if search.sampler != "grid":
        return study
    require_grid(document, space)
    trials = min(search.trials, len(study.grid()))
    return replace(study, search=study.search.model_copy(update={"trials": trials}))


def _has_one_trial(space: Space) -> bool:
    """Whether all trials would be the same: a recipe has nothing to search, and what trains nothing has no seeds."""
    return not space.has_trainings and (not space.distributions() or not first_recipe(space, 0).model.is_trained)


def _search_settings(document: Document) -> SearchSettings:
    block = document.tree.get("search") or {}
    if isinstance(block, dict):  # its portfolio is checked against the space, later
        block = {key: value for key, value in block.items() if key != "first"}
    for path, _ in spaces.ranges_in({"search": block}):
        raise document.error(path, "holds a range, but this setting cannot be searched: give one value")
    try:
        return SearchSettings.model_validate(block)
    except ValidationError as error:
        raise explained(error.errors()[0], document, prefix=("search",), schema=SearchSettings) from error
