"""Ensembles of finished models: members that are recipes of their own.

A study file may name a recipe's file where a member stands, relative to the working directory as `corpus.root` is:

    members:
      wide: {recipe: wide.yaml}
      deep: {recipe: deep.yaml, weight: {low: 0, high: 1}}

The recipe's features, model, training (with its seed) and scoring are put in its place when the file is read, so that
what is stored and exported needs no other file. What stands beside `recipe` goes before what the recipe says.
`offkey train A.yaml B.yaml` makes an ensemble of recipes without a study.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from features.cleaning import CleaningSettings
from models.settings import TrainingSettings
from search import space as spaces
from search.document import Document
from search.errors import StudyFileError
from search.recipe import OF_THE_WHOLE, SHARED_BLOCKS, CorpusSettings, Recipe, ValidationSettings
from search.space import Path, Tree

if TYPE_CHECKING:
    from search.study_file import Study


class Load(Protocol):
    """`search.study_file.load_study`, which is built upon this module."""

    def __call__(self, source: str) -> Study: ...


def fill_in_recipes(document: Document, load: Load) -> None:
    """Puts recipes in the place of the members that name them.

    Raises StudyFileError for a file that is no recipe of one model, or of one that was trained on other clips.
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
        if recipe.model.ensemble:
            raise document.error(place, f"cannot be used: {source} is an ensemble itself; name its members here")
        for key, there, here in _differences(recipe, document.tree):
            raise document.error(
                place,
                f"cannot be used: {key} is {there} in {source}, but {here} here. "
                "Members of an ensemble are trained on the same clips",
            )
        spaces.put(document.tree, path, _merged(_member_of(recipe), member))


def ensemble_of(recipes: Sequence[tuple[str, Recipe]], *, combine: str, seeds: int) -> Recipe:
    """One recipe of several, each with the name of its file; each model `seeds` times, counted up from its own seed.

    Raises StudyFileError for recipes that are not of the same clips or do not come to a decision alike.
    """
    (first_source, first), *others = recipes
    for source, other in others:
        one, two = _of_the_whole(first), _of_the_whole(other)
        for key in one:
            if two.get(key, one[key]) != one[key]:
                raise StudyFileError(
                    f"{first_source} and {source} make no ensemble: {key} is {one[key]} in one and {two[key]} in the "
                    f"other. Its members share it: --set {key}=… sets it in each recipe"
                )
    members: Tree = {}
    sources: dict[str, str] = {}
    for source, recipe in recipes:
        name = recipe.study.replace(".", "-")
        if recipe.model.ensemble:
            raise StudyFileError(f"{source} is an ensemble itself: give the recipes of its members")
        if name in sources:
            raise StudyFileError(
                f"{sources[name]} and {source} would both be the member {name}: give one another name in `study:`"
            )
        sources[name] = source
        member = _member_of(recipe)
        if seeds == 1:
            members[name] = member
        else:
            first_seed = recipe.training.seed or 0
            for seed in range(first_seed, first_seed + seeds):
                members[name + _seed_mark(seed)] = member | {"training": member["training"] | {"seed": seed}}
    tree = first.tree()
    whole = {
        block: {key: tree[block][key] for key in keys if key in tree[block]} for block, keys in OF_THE_WHOLE.items()
    }
    return Recipe.model_validate(
        {
            "study": "+".join(sources)[:200],
            **{block: tree[block] for block in ("corpus", "cleaning", "validation")},
            **whole,
            "features": tree["features"],  # by which clips are cleaned
            "model": {"family": "fusion", "combine": combine, "members": members},
        }
    )


def seed_groups(recipe: Recipe) -> dict[str, dict[str, int]]:
    """Members of an ensemble that differ in their seed alone, by the name of the recipe that they are of: name → seed.

    Groups of one are left out.
    """
    alike: dict[str, dict[str, int]] = defaultdict(dict)
    for name, member in recipe.model.ensemble.items():
        seed = member.training.seed if member.training.seed is not None else recipe.training.seed or 0
        tree = member.model_dump(mode="json", exclude={"training": {"seed"}, "weight": True})
        alike[json.dumps(tree)][name] = seed
    groups = [members for members in alike.values() if len(set(members.values())) > 1]
    stems = ({name.removesuffix(_seed_mark(seed)): None for name, seed in members.items()} for members in groups)
    return {"+".join(stem): members for stem, members in zip(stems, groups, strict=True)}


def _seed_mark(seed: int) -> str:
    return f"-seed-{seed}"


def _members(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    model = tree.get("model")
    blocks = enumerate(model) if isinstance(model, list) else [(None, model)]
    for index, block in blocks:
        members = block.get("members") if isinstance(block, dict) else None
        for name, member in list(members.items()) if isinstance(members, dict) else []:
            if isinstance(member, dict):
                yield (("model", "members", name) if index is None else ("model", index, "members", name)), member


def _member_of(recipe: Recipe) -> Tree:
    """A recipe as the block of a member."""
    tree = recipe.tree()
    member = {"features": recipe.features.model_dump(mode="json"), "model": tree["model"]}
    for block in ("training", "scoring"):
        member[block] = {key: value for key, value in tree[block].items() if key not in OF_THE_WHOLE[block]}
    return member


def _merged(member: Tree, beside: Mapping[str, Any]) -> Tree:
    """A recipe's member with what stands beside its name."""
    merged = {**member, **{key: value for key, value in beside.items() if key != "recipe"}}
    for block in (*SHARED_BLOCKS, "model"):
        if isinstance(beside.get(block), dict):
            merged[block] = {**member[block], **beside[block]}
    return merged


def _differences(recipe: Recipe, tree: Tree) -> Iterator[tuple[str, object, object]]:
    """Setting, its value in a recipe and in a study: where the two train on other clips."""
    of_recipe = _of_the_whole(recipe)
    defaults = {"train_on": CorpusSettings().train_on, **CleaningSettings().model_dump()}
    defaults["calibration_share"] = TrainingSettings().calibration_share
    try:  # what is left out may depend on what is there
        defaults |= ValidationSettings.model_validate(tree.get("validation") or {}).model_dump()
    except ValidationError:
        return  # the check of the study says what is wrong there
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
            yield path, of_recipe[path], "open" if spaces.is_range(here) else here


def _of_the_whole(recipe: Recipe) -> dict[str, object]:
    """By path, what an ensemble has once and not for each member."""
    blocks = {"corpus": recipe.corpus, "cleaning": recipe.cleaning, "validation": recipe.validation}
    whole = {f"{block}.{key}": value for block, settings in blocks.items() for key, value in settings}
    if recipe.cleaning.method == "none":
        del whole["cleaning.drop"]
    whole["training.calibration_share"] = recipe.training.calibration_share
    return whole | {f"scoring.{key}": getattr(recipe.scoring, key) for key in OF_THE_WHOLE["scoring"]}
