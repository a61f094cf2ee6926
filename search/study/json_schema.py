"""The JSON Schema of study files, by which editors complete, explain and check them.

pydantic describes each block of a recipe. Here a setting may also be a range, `model` is a family's block or a list of
them, and what only a study has comes in. The schema knows no rule between settings: `search.study.rules` checks those.

It is of draft 7, the newest that the YAML language server reads.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from features.frames.feature_settings import KINDS
from models.families import FAMILIES
from search.study.described import Schema, blocks, settings_in
from search.study.recipe import OF_THE_WHOLE, Origin, Recipe
from search.study.space import CLOSED_FOR_GOOD, Path

#: What a choice, or a value of the baseline, may be.
_SCALARS = ("boolean", "number", "string", "null")

#: Of JSON Schema's types, those whose values lie on a range.
_NUMBERS = ("integer", "number")


def study_schema() -> dict[str, Any]:
    """The schema of study files and recipes, as a document."""
    named = settings_in(Recipe)["study"]
    properties: dict[str, Any] = {
        "study": {"description": "the study's name in the storage"} | _values(named),
        **{name: _ref(name) for name in ("corpus", "features", "cleaning")},
        "model": {
            "description": "what is trained: a family with its settings, or a list of families",
            "anyOf": [_ref("model"), {"type": "array", "items": _ref("model"), "minItems": 1}],
        },
        **{name: _ref(name) for name in ("training", "scoring", "validation", "from")},
        "baseline": {
            "description": "a known configuration, tried first: open settings by name, each with one of its values",
            "type": ["object", "null"],
            "additionalProperties": {"type": list(_SCALARS)},
        },
        "search": {"anyOf": [_ref("search"), {"type": "null"}]},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Offkey study file",
        **_object(properties, required=["study", "model"]),
        "definitions": _definitions(),
    }


def _definitions() -> dict[str, Any]:
    """Every block and family by name, and what an ensemble's member has instead."""
    from models.scoring import fusion  # torch takes seconds to load

    found = {name: _block(settings, _path_of(name)) for name, settings in blocks().items()}
    found["from"] = _block(Origin, ("from",))
    found["features"]["properties"]["kind"] |= _open(_KIND)
    found["search"]["properties"]["constraints"] |= {"anyOf": [_ref("constraints"), {"type": "null"}]}
    found["fusion"]["properties"]["members"] |= {
        "minProperties": 2,
        "propertyNames": {"pattern": f"^{fusion.NAME}$"},
        "additionalProperties": _ref("member"),
    }
    of_member: dict[str, Any] = {
        "recipe": {"type": "string", "description": "a recipe's file, as `offkey export` writes it"},
        "features": _ref("features"),
        "model": _ref("member_model"),
        "training": _ref("member_training"),
        "scoring": _ref("member_scoring"),
        "weight": _setting(settings_in(fusion.FusionMember)["weight"], is_open=True),
    }
    needs = [{"required": ["recipe"]}, {"required": ["model"], "properties": {"model": {"required": ["family"]}}}]
    found["member"] = {"description": "a member of an ensemble", **_object(of_member), "anyOf": needs}
    found["member_model"] = _model([family for family in FAMILIES if family != "fusion"])
    found["model"] = _model(FAMILIES) | {"required": ["family"]}
    for name in ("training", "scoring"):
        settings = found[name]["properties"]
        own = {key: _ref(f"{name}/properties/{key}") for key in settings if key not in OF_THE_WHOLE[name]}
        found[f"member_{name}"] = found[name] | {"properties": own}
    return found


def _path_of(block: str) -> Path:
    """Where a block stands in a study file."""
    return ("model",) if block in FAMILIES else ("search", block) if block == "constraints" else (block,)


def _block(settings: type[BaseModel], path: Path) -> dict[str, Any]:
    of_pydantic = settings.model_json_schema()
    properties = {
        key: _setting(setting, is_open=_may_be_open((*path, key))) for key, setting in of_pydantic["properties"].items()
    }
    about = {"description": of_pydantic["description"]} if "description" in of_pydantic else {}
    return about | _object(properties, required=of_pydantic.get("required", ()))


def _model(families: Collection[str]) -> dict[str, Any]:
    """A block of one of these families: which settings it has, its `family` says."""
    branches = [
        {"if": {"required": ["family"], "properties": {"family": {"const": family}}}, "then": _ref(family)}
        for family in families
    ]
    named = {"family": {"description": "the kind of model", "enum": list(families)}}
    return {"type": "object", "properties": named, "allOf": branches}


def _may_be_open(path: Path) -> bool:
    is_closed = any(path[: len(closed)] == closed for closed in CLOSED_FOR_GOOD)
    return not is_closed and path[-1] not in ("family", "members")


def _setting(of_pydantic: Schema, *, is_open: bool) -> dict[str, Any]:
    """A setting with what is said of it, and a range in place of its value if it may be open."""
    told = {key: of_pydantic[key] for key in ("description", "default") if of_pydantic.get(key) is not None}
    values = _values(of_pydantic)
    return told | (_open(values) if is_open else values)


def _open(values: Schema) -> dict[str, Any]:
    """One of these values, an interval of those that are numbers, or choices among those that are no lists."""
    kinds = values.get("anyOf", [values])
    scalars = [kind for kind in kinds if kind.get("type") != "array"]
    choices = {"choices": {"type": "array", "items": _any_of(scalars), "minItems": 1, "uniqueItems": True}}
    ranges = [_object(choices, required=["choices"])]
    for numbers in kinds:
        if numbers.get("type") in _NUMBERS:
            step = {"type": numbers["type"], "exclusiveMinimum": 0}
            ends = {"low": numbers, "high": numbers, "log": {"type": "boolean"}, "step": step}
            ranges.append(_object(ends, required=["low", "high"]))
    return _any_of([*kinds, *ranges])


def _values(of_pydantic: Schema) -> dict[str, Any]:
    return {key: part for key, part in of_pydantic.items() if key not in ("title", "description", "default")}


def _any_of(kinds: list[Any]) -> dict[str, Any]:
    return dict(kinds[0]) if len(kinds) == 1 else {"anyOf": kinds}


def _object(properties: dict[str, Any], *, required: Collection[str] = ()) -> dict[str, Any]:
    """A mapping with these keys and no other."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": False}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{name}"}


#: pydantic knows only that kinds of features are text.
_KIND = _any_of(
    [
        {"type": "string", "enum": list(KINDS)},
        {"type": "string", "pattern": "^({0})([+]({0}))+$".format("|".join(KINDS))},
        {"type": "array", "items": {"enum": list(KINDS)}, "minItems": 1, "uniqueItems": True},
    ]
)
