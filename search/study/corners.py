"""Recipes of a search space: each range closed at one of its ends or choices.

Some rules relate two settings of a block (n_mels ≤ n_fft / 2). If both settings are open, such a rule may fail at some
corners of the space and hold at others. A place is the path of such a block in a closed tree: ("features",), or
("model", "members", "chroma", "features") for a member's block, which inherits the study's settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from models.families import FAMILIES
from search.study import space as spaces
from search.study.open_setting import OpenSetting, Path
from search.study.recipe import SHARED_BLOCKS, Recipe, members_of
from search.study.space import Space, Tree

#: The most combinations of extremes that are tried for a block's open settings.
_MOST_CORNERS = 1000


def probe(space: Space, branch: int, values: Mapping[Path, Any]) -> Tree:
    """Return a closed tree of one branch: with these values, and the first extreme of every other open setting."""
    return space.closed(branch, {s.path: values.get(s.path, s.extremes[0]) for s in space.read_by(branch)})


def problems(closed: Tree) -> list[ErrorDetails]:
    """Return the schema's errors for a closed tree, each with the path where the setting stands."""
    try:
        Recipe.model_validate(closed)
    except ValidationError as error:
        return [_where_it_stands(problem, closed) for problem in error.errors()]
    return []


def is_between_settings(problem: ErrorDetails) -> bool:
    """Whether the broken rule is one between settings of a block."""
    is_of_block = isinstance(problem["input"], dict) and not isinstance(problem["loc"][-1], int)
    has_family = problem["loc"][-1] != "model" or family_of(problem["input"]) in FAMILIES
    return problem["type"] == "value_error" and is_of_block and has_family


def family_of(block: Any) -> str | None:
    """Return the family that a `model:` block names, whether or not it exists; None if it names none."""
    return str(block["family"]) if isinstance(block, dict) and "family" in block else None


def legal_corner(space: Space, branch: int, places: Iterable[Path]) -> dict[Path, Any] | None:
    """Return extremes of the blocks' open settings with which the blocks' rules hold; None if there are none."""
    wanted = set(places)
    settings = [s for s in space.settings_of(branch) if any(_bears_on(s, place, space, branch) for place in wanted)]
    corners = itertools.product(*(setting.extremes for setting in settings))
    for corner in itertools.islice(corners, _MOST_CORNERS):
        values = {setting.path: value for setting, value in zip(settings, corner, strict=True)}
        if not wanted.intersection(_broken_places(probe(space, branch, values))):
            return values
    return None


def first_recipe(space: Space, branch: int) -> Recipe:
    """Return a family's recipe: each range at its low end or first choice, or at the next one that the rules allow."""
    places: set[Path] = set()
    values: dict[Path, Any] = {}
    while not places.issuperset(broken := _broken_places(probe(space, branch, values))):
        places |= broken
        values = legal_corner(space, branch, places) or {}
    return Recipe.model_validate(probe(space, branch, values))


def recipes_around(space: Space, branch: int) -> Iterator[Recipe]:
    """Yield a family's first recipe, then legal recipes that have one open setting at another extreme."""
    yield first_recipe(space, branch)
    for setting in space.settings_of(branch):
        for value in setting.extremes:
            closed = probe(space, branch, {setting.path: value})
            if not problems(closed):
                yield Recipe.model_validate(closed)


def _broken_places(closed: Tree) -> set[Path]:
    return {problem["loc"] for problem in problems(closed) if is_between_settings(problem)}


def _bears_on(setting: OpenSetting, place: Path, space: Space, branch: int) -> bool:
    """Whether a rule of the block at this place can depend on a setting of the branch."""
    path = spaces.in_branch(setting.path)
    if path[:-1] == place or (place == ("model",) and path[1:2] == ("members",) and len(path) == 4):
        return True
    is_inherited = place[:2] == ("model", "members") and len(place) == 4 and path[:-1] == place[3:]
    return is_inherited and path[-1] not in _own_block(probe(space, branch, {}), place)


def _where_it_stands(problem: ErrorDetails, closed: Tree) -> ErrorDetails:
    """Return the error with the path of the study's own block, if a member inherits the setting from there."""
    place, key = problem["loc"][:4], problem["loc"][4:5]
    is_of_member = place[:2] == ("model", "members") and place[-1] in SHARED_BLOCKS
    if not is_of_member or not key or key[0] in _own_block(closed, place):
        return problem
    return {**problem, "loc": problem["loc"][3:]}


def _own_block(closed: Tree, place: Path) -> Mapping[str, Any]:
    """Return the settings that a member itself has in a block."""
    return members_of(closed).get(str(place[2]), {}).get(str(place[3])) or {}
