"""Ensembles of recipes: each member is a recipe that was finished before.

A member in a study file may name the file of a recipe, relative to the working directory, as `corpus.root` is:

    members:
      wide: {recipe: wide.yaml}
      deep: {recipe: deep.yaml, weight: {low: 0, high: 1}}

When the study file is read, the recipe's features, model, training (with its seed) and scoring replace the name, so
that the stored study needs no other file. Settings beside `recipe` replace those of the recipe.
`offkey train A.yaml B.yaml` trains an ensemble of recipes without a study.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from search.errors import StudyFileError
from search.study.recipe import OF_THE_WHOLE, Recipe
from search.study.space import Tree


def ensemble_of(recipes: Sequence[tuple[str, Recipe]], *, combine: str, seeds: int = 1, squash: bool = False) -> Recipe:
    """Combine several recipes, each with the name of its file, into one ensemble.

    Each model is trained `seeds` times; its seeds count up from its own. Raises StudyFileError if the recipes differ in
    their clips, or in how scores are calibrated and decided.
    """
    (first_source, first), *others = recipes
    for source, other in others:
        one, two = of_the_whole(first), of_the_whole(other)
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
        if recipe.ensemble:
            raise StudyFileError(f"{source} is an ensemble itself: give the recipes of its members")
        if name in sources:
            raise StudyFileError(
                f"{sources[name]} and {source} would both be the member {name}: give one another name in `study:`"
            )
        sources[name] = source
        member = member_of(recipe)
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
            "features": tree["features"],  # for cleaning
            "model": {"family": "fusion", "combine": combine, "squash": squash, "members": members},
        }
    )


def seed_groups(recipe: Recipe) -> dict[str, dict[str, int]]:
    """Members of an ensemble that differ in their seed alone, by the name of the recipe that they are of: name → seed.

    Groups of one are left out. Members whose scores are combined in another way for each machine type have none.
    """
    if recipe.machine_types is not None:
        return {}
    alike: dict[str, dict[str, int]] = defaultdict(dict)
    for name, member in recipe.ensemble.items():
        seed = member.training.seed if member.training.seed is not None else recipe.training.seed or 0
        tree = member.model_dump(mode="json", exclude={"training": {"seed"}, "weight": True})
        alike[json.dumps(tree)][name] = seed
    groups = [members for members in alike.values() if len(set(members.values())) > 1]
    stems = ({name.removesuffix(_seed_mark(seed)): None for name, seed in members.items()} for members in groups)
    return {"+".join(stem): members for stem, members in zip(stems, groups, strict=True)}


def _seed_mark(seed: int) -> str:
    return f"-seed-{seed}"


def member_of(recipe: Recipe) -> Tree:
    """A recipe as the block of a member."""
    tree = recipe.tree()
    member = {"features": recipe.features.model_dump(mode="json"), "model": tree["model"]}
    for block in ("training", "scoring"):
        member[block] = _without_whole(block, tree[block])
    if recipe.machine_types is not None:
        member["machine_types"] = {
            machine: {block: _without_whole(block, own) for block, own in of_type.items()}
            for machine, of_type in tree["machine_types"].items()
        }
    return member


def _without_whole(block: str, settings: Tree) -> Tree:
    return {key: value for key, value in settings.items() if key not in OF_THE_WHOLE.get(block, ())}


def recipe_of_member(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe of a member alone, with what the ensemble has once: what `member_of` took apart."""
    member = recipe.ensemble[name]
    blocks = {
        block: getattr(member, block).model_copy(
            update={key: getattr(getattr(recipe, block), key) for key in OF_THE_WHOLE[block]}
        )
        for block in ("training", "scoring")
    }
    return recipe.model_copy(
        update={
            "study": name,
            "from_": None,
            "features": member.features,
            "model": member.model,
            "machine_types": member.machine_types,
            **blocks,
        }
    )


def clips_of(recipe: Recipe) -> dict[str, object]:
    """By path, the settings by which a recipe chooses its clips: members of an ensemble share them."""
    chosen = {key: value for key, value in of_the_whole(recipe).items() if not key.startswith("scoring.")}
    return chosen if recipe.cleaning.method == "none" else chosen | {"features": recipe.features}


def of_the_whole(recipe: Recipe) -> dict[str, object]:
    """By path, what an ensemble has once and not for each member."""
    blocks = {"corpus": recipe.corpus, "cleaning": recipe.cleaning, "validation": recipe.validation}
    whole = {f"{block}.{key}": value for block, settings in blocks.items() for key, value in settings}
    if recipe.cleaning.method == "none":
        del whole["cleaning.drop"]
    whole["training.calibration_share"] = recipe.training.calibration_share
    return whole | {f"scoring.{key}": getattr(recipe.scoring, key) for key in OF_THE_WHOLE["scoring"]}
