"""Members of an ensemble that name the file of a recipe: the recipe replaces them when the study file is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from features.cleaning import CleaningSettings
from models.settings import TrainingSettings
from search.errors import StudyFileError
from search.study import space as spaces
from search.study.document import Document
from search.study.ensembles import member_of, of_the_whole
from search.study.open_setting import Path, is_range
from search.study.recipe import SHARED_BLOCKS, CorpusSettings, Recipe, ValidationSettings
from search.study.space import Tree
from search.study.study import Study


class Load(Protocol):
    """`search.study.study_file.load_study`, which itself imports this module."""

    def __call__(self, source: str) -> Study: ...


def fill_in_recipes(document: Document, load: Load) -> None:
    """Replace the members that name a recipe by that recipe.

    Raises StudyFileError if a file is not the recipe of a single model, or if its recipe was trained on other clips.
    """
    for path, member in _members(document.tree):
        if "recipe" not in member:
            continue
        place, source = (*path, "recipe"), member["recipe"]
        if not isinstance(source, str):
            raise document.error(place, f"must name a recipe's file, but got {source!r}")
        try:
            study = load(source)
        except StudyFileError as error:
            raise document.error(place, f"cannot be used: {error}") from error
        if opened := study.space.distributions():
            raise document.error(place, f"cannot be used: {source} leaves {', '.join(opened)} open")
        recipe = study.first_recipe()
        if recipe.ensemble:
            raise document.error(place, f"cannot be used: {source} is an ensemble itself; name its members here")
        for key, there, here in _differences(recipe, document.tree):
            raise document.error(
                place,
                f"cannot be used: {key} is {there} in {source}, but {here} here. "
                "Members of an ensemble are trained on the same clips",
            )
        spaces.put(document.tree, path, _merged(member_of(recipe), member))


def _members(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    model = tree.get("model")
    blocks = enumerate(model) if isinstance(model, list) else [(None, model)]
    for index, block in blocks:
        members = block.get("members") if isinstance(block, dict) else None
        for name, member in list(members.items()) if isinstance(members, dict) else []:
            if isinstance(member, dict):
                yield (("model", "members", name) if index is None else ("model", index, "members", name)), member


def _merged(member: Tree, beside: Mapping[str, Any]) -> Tree:
    """Return a recipe's member, changed by the settings beside its name."""
    merged = {**member, **{key: value for key, value in beside.items() if key != "recipe"}}
    for block in (*SHARED_BLOCKS, "model"):
        if isinstance(beside.get(block), dict):
            merged[block] = {**member[block], **beside[block]}
    return merged


def _differences(recipe: Recipe, tree: Tree) -> Iterator[tuple[str, object, object]]:
    """Yield each setting in which a recipe and a study train on other clips, with its value in both."""
    of_recipe = of_the_whole(recipe)
    defaults = {"train_on": CorpusSettings().train_on, **CleaningSettings().model_dump()}
    defaults["calibration_share"] = TrainingSettings().calibration_share
    try:  # a default may depend on other settings
        defaults |= ValidationSettings.model_validate(tree.get("validation") or {}).model_dump()
    except ValidationError:
        return  # the check of the study reports this error
    for path in (
        "corpus.train_on",
        "cleaning.method",
        "cleaning.drop",
        "training.calibration_share",
        "validation.share",
        "validation.clips",
        "validation.seed",
    ):
        block, _, key = path.partition(".")
        settings = tree.get(block)
        here = settings.get(key, defaults[key]) if isinstance(settings, dict) else defaults[key]
        if of_recipe.get(path, here) != here:
            yield path, of_recipe[path], "open" if is_range(here) else here
