"""Types, keys and defaults at a path of a study file, and the schema's errors as messages with their place."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticUndefined

from features.did_you_mean import did_you_mean
from features.errors import OffkeyError
from features.frames.feature_settings import FeatureSettings
from features.settings import Settings
from models.families import FAMILIES, settings_of
from models.member import Member
from models.settings import FamilySettings
from search.errors import StudyFileError
from search.study import branches
from search.study.corners import family_of
from search.study.document import Document
from search.study.open_setting import Path, range_hint
from search.study.recipe import Recipe
from search.study.schema.settings_in_words import Schema, settings_in, values_in_words
from search.study.space import Tree

#: Keys of a study file that a recipe does not have.
EXTRA_KEYS = ("search", "baseline")


def schema_at(tree: Tree, path: Sequence[str | int]) -> Any:
    """Return the schema at a path: a class of settings, a type, or None for an unknown path."""
    schema: Any = Recipe
    node: Any = tree
    is_branch = False
    for key in path:
        node = node.get(key) if isinstance(node, dict) else node[key] if isinstance(node, list) else None  # type: ignore[index]
        if isinstance(key, int):  # the position of a branch in a list
            schema, is_branch = _schema_of_family(node), True
            continue
        if is_branch and key in branches.KEYS:
            schema = FeatureSettings if key == "features" else str
        elif isinstance(schema, type) and issubclass(schema, BaseModel):
            field = schema.model_fields.get(str(key))
            schema = None if field is None else field.annotation
            if key == "model":
                schema = _schema_of_family(node)
        elif blocks := [kind for kind in (schema, *typing.get_args(schema)) if typing.get_origin(kind) is Mapping]:
            schema = typing.get_args(blocks[0])[1]
        else:
            return None
        is_branch = False
    return schema


def block_schema(tree: Tree, path: Path) -> type[BaseModel] | None:
    """Return the class of settings at a path, or None."""
    schema = schema_at(tree, path)
    return schema if isinstance(schema, type) and issubclass(schema, BaseModel) else None


def takes_reals(tree: Tree, path: Path) -> bool:
    """Whether the setting at this path takes real numbers."""
    annotation = schema_at(tree, path)
    return annotation is float or float in typing.get_args(annotation)


def scoring_grid(tree: Tree, path: Path, *, for_each: bool = False) -> Sequence[object] | None:
    """Return the values that stand for a range of a setting that changes no training; None for any other setting.

    `for_each`: trials close their scoring for each machine type.
    """
    schema = block_schema(tree, path[:-1])
    if schema is None or not issubclass(schema, Settings):
        return None
    return (schema.scoring_alone() if for_each else schema.SCORING_ONLY).get(str(path[-1]))


def description_of(tree: Tree, path: Path) -> str:
    """Return the description of the setting at a path; empty if it has none."""
    schema = block_schema(tree, path[:-1])
    field = None if schema is None else schema.model_fields.get(str(path[-1]))
    return "" if field is None else field.description or ""


def default_of(tree: Tree, path: Path) -> Any:
    """Return the default of the setting at a path, or PydanticUndefined."""
    schema = block_schema(tree, path[:-1])
    field = None if schema is None else schema.model_fields.get(str(path[-1]))
    return PydanticUndefined if field is None else field.default


def explained(
    problem: ErrorDetails, document: Document, *, branch: int = 0, prefix: Path = (), schema: type[BaseModel] = Recipe
) -> StudyFileError:
    """Return an error of the schema as a message with its place in the file.

    `branch` is the position of the family in a list; `prefix` and `schema` are those of a block that was read alone.
    """
    location = _in_list(problem["loc"], document.tree, branch)
    path = (*prefix, *location)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(document.tree, schema, location[:-1])
        hint = did_you_mean(str(path[-1]), known) or f"; known here: {', '.join(known)}"
        return document.error(path, f"is not a setting{_of_others(document.tree, path)}{hint}")
    if problem["type"] == "missing":
        return document.error(path, "is missing")
    union = _union_at(document.tree, path)
    if union is not None:
        got = problem["input"]
        return document.error(path[:-1], f"must be {values_in_words(union)}, but got {got!r}{_nearest(got, union)}")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] == "value_error":
        names_none = problem["loc"][-1] == "model" and family_of(problem["input"]) not in (None, *FAMILIES)
        return document.error((*path, "family") if names_none else path, message)
    return document.error(path, f"{message}, but got {problem['input']!r}{_hint(problem)}")


def _in_list(location: Path, tree: Tree, branch: int) -> Path:
    """Return the path in the study file of a place in the closed tree of a branch."""
    if not isinstance(tree.get("model"), list):
        return location
    own = branches.features_of(tree, branch)
    if location[:1] == ("features",) and own and (len(location) == 1 or location[1] in own):
        return ("model", branch, *location)
    return ("model", branch, *location[1:]) if location[:1] == ("model",) else location


def _hint(problem: ErrorDetails) -> str:
    if problem["type"] == "literal_error":
        return did_you_mean(str(problem["input"]), re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    is_range_amiss = isinstance(problem["input"], dict) and problem["type"] != "too_short"
    return f"; {range_hint(problem['input'])}" if is_range_amiss else ""


def _nearest(got: Any, setting: Schema) -> str:
    """Return a hint with the choice that was perhaps meant, for a setting of several types."""
    choices = re.findall(r"[\w+]+", values_in_words(setting))
    unknown = [text for text in (got if isinstance(got, list) else [got]) if text not in choices]
    return next(filter(None, (did_you_mean(str(text), choices) for text in unknown)), "")


def _union_at(tree: Tree, path: Path) -> Schema | None:
    """Return the schema of a setting of several types, if the path ends with one of these types and not in a block."""
    block = block_schema(tree, path[:-2]) if len(path) > 1 else None
    setting = {} if block is None else settings_in(block).get(str(path[-2]), {})
    kinds = [kind for kind in setting.get("anyOf", ()) if kind != {"type": "null"}]
    return setting if len(kinds) > 1 and not any("$ref" in kind for kind in kinds) else None


def _of_others(tree: Tree, path: Path) -> str:
    """Return a hint with the other families that have this setting."""
    block = block_schema(tree, path[:-1])
    if block is None or not issubclass(block, FamilySettings):
        return ""
    others = [family for family in FAMILIES if str(path[-1]) in settings_of(family).model_fields]
    return f" of {block.model_fields['family'].default}, but of {', '.join(others)}" if others else ""


def _schema_of_family(block: Any) -> Any:
    if isinstance(block, list):
        block = block[0] if block else None
    try:
        return settings_of(str(block.get("family"))) if isinstance(block, Mapping) else None
    except OffkeyError:
        return None  # the schema reports an unknown family with its place


def _block_within(schema: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the class of settings at a location in a block, also where it may be None."""
    for key in location:
        field = schema.model_fields.get(str(key))
        kinds = () if field is None else (typing.get_args(field.annotation) or (field.annotation,))
        blocks = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not blocks:
            return None
        schema = blocks[0]
    return schema


def _keys_at(tree: Tree, schema: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the keys that the block at a location may have."""
    inner = block_schema(tree, tuple(location)) if schema is Recipe else _block_within(schema, location)
    inner = inner or schema
    names = [info.alias or name for name, info in inner.model_fields.items()]
    if inner is Recipe:
        return [*names, *EXTRA_KEYS]
    if location and isinstance(location[-1], int):
        return [*names, *branches.KEYS]
    return [*names, "recipe"] if issubclass(inner, Member) else names
