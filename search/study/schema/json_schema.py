"""The JSON Schema of study files: editors complete, explain and check settings by it.

pydantic describes each block of a recipe. This module adds ranges, lists of families for `model`, and the blocks that
only a study has. The schema has no rules between settings: `search.study.rules` checks those.

It is written in draft 7, the newest that the YAML language server reads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from features.frames.feature_settings import KINDS, SHARED, is_framed
from models.families import FAMILIES, settings_of
from models.member import NAME, OfMachineType
from models.settings import STATISTICS, DensitySettings
from search.study.open_setting import Path
from search.study.portfolio import DEFAULT_TOP
from search.study.recipe import OF_THE_WHOLE, Origin, Recipe
from search.study.schema.settings_in_words import Schema, blocks, settings_in
from search.study.space import CLOSED_FOR_GOOD

#: The types of a choice, and of a value of the baseline.
_SCALARS = ("boolean", "number", "string", "null")

#: The types whose values may lie in a range.
_NUMBERS = ("integer", "number")


def study_schema() -> dict[str, Any]:
    """Return the schema of study files and recipes."""
    named = settings_in(Recipe)["study"]
    properties: dict[str, Any] = {
        "study": {"description": "the study's name in the storage"} | _values(named),
        **{name: _ref(name) for name in ("corpus", "features", "cleaning")},
        "model": {
            "description": "what is trained: a family with its settings, or a list of families",
            "anyOf": [_ref("model"), {"type": "array", "items": _ref("model_of_branch"), "minItems": 1}],
        },
        **{name: _ref(name) for name in ("training", "scoring", "machine_types", "validation", "from")},
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
    """Return the schema of every block and family by name, and those of an ensemble's members."""
    from models.scoring import fusion  # torch takes seconds to load

    definitions = {name: _block(settings, _path_of(name)) for name, settings in blocks().items()}
    definitions["from"] = _block(Origin, ("from",))
    definitions["machine_types"] = {
        "description": settings_in(Recipe)["machine_types"]["description"],
        "anyOf": [
            {"type": "object", "minProperties": 1, "additionalProperties": _ref("machine_type")},
            {"type": "null"},
        ],
    }
    # What a machine type may have depends on the family, and is checked by `search.study.rules`.
    definitions["machine_type"] = _block(OfMachineType, ("machine_types", "type"))
    definitions["features"]["properties"]["kind"] |= _open(_stack(KINDS, stackable=_FRAMED))
    for family in FAMILIES:
        if issubclass(settings_of(family), DensitySettings):
            definitions[family]["properties"]["statistic"] |= _open(_stack(STATISTICS, stackable=STATISTICS))
    first = definitions["search"]["properties"]["first"]
    definitions["search"]["properties"]["first"] = {"description": first["description"]} | _any_of(
        [{"type": "array", "items": _ENTRY}, _ENTRY, {"type": "null"}]
    )
    definitions["search"]["properties"]["constraints"] |= {"anyOf": [_ref("constraints"), {"type": "null"}]}
    definitions["branch"]["properties"]["features"] |= {"anyOf": [_ref("branch_features"), {"type": "null"}]}
    definitions["fusion"]["properties"]["members"] |= {
        "minProperties": 2,
        "propertyNames": {"pattern": f"^{NAME}$"},
        "additionalProperties": _ref("member"),
    }
    of_member: dict[str, Any] = {
        "recipe": {"type": "string", "description": "a recipe's file, as `offkey export` writes it"},
        "features": _ref("features"),
        "model": _ref("member_model"),
        "training": _ref("member_training"),
        "scoring": _ref("member_scoring"),
        "machine_types": _ref("machine_types"),
        "weight": _setting(settings_in(fusion.FusionMember)["weight"], is_open=True),
    }
    needs = [{"required": ["recipe"]}, {"required": ["model"], "properties": {"model": {"required": ["family"]}}}]
    definitions["member"] = {"description": "a member of an ensemble", **_object(of_member), "anyOf": needs}
    definitions["member_model"] = _model({family: family for family in FAMILIES if family != "fusion"})
    definitions["model"] = _model({family: family for family in FAMILIES}) | {"required": ["family"]}
    for name in ("training", "scoring"):
        definitions[f"member_{name}"] = _like(definitions, name, without=OF_THE_WHOLE[name])
    definitions |= _of_branches(definitions)
    return definitions


def _of_branches(definitions: Schema) -> dict[str, Any]:
    """Return the schema of a block of a list: of its features, and of each family with what a branch has beside."""
    beside = {key: _ref(f"branch/properties/{key}") for key in definitions["branch"]["properties"]}
    of_families = {f"{family}_of_branch": _like(definitions, family) for family in FAMILIES}
    for of_family in of_families.values():
        of_family["properties"] |= beside
    return {
        "branch_features": _like(definitions, "features", without=SHARED),
        **of_families,
        "model_of_branch": _model({family: f"{family}_of_branch" for family in FAMILIES}) | {"required": ["family"]},
    }


def _like(definitions: Schema, name: str, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the schema of a block with the settings of another, without some of them."""
    own = {key: _ref(f"{name}/properties/{key}") for key in definitions[name]["properties"] if key not in without}
    return dict(definitions[name]) | {"properties": own}


def _path_of(block: str) -> Path:
    """Return the path of a block in a study file."""
    return ("model",) if block in FAMILIES else ("search", block) if block == "constraints" else (block,)


def _block(settings: type[BaseModel], path: Path) -> dict[str, Any]:
    of_pydantic = settings.model_json_schema()
    properties = {
        key: _setting(setting, is_open=_may_be_open((*path, key))) for key, setting in of_pydantic["properties"].items()
    }
    about = {"description": of_pydantic["description"]} if "description" in of_pydantic else {}
    return about | _object(properties, required=of_pydantic.get("required", ()))


def _model(families: Mapping[str, str]) -> dict[str, Any]:
    """Return the schema of a block of one of these families, whose definitions have these names: `family` decides."""
    branches = [
        {"if": {"required": ["family"], "properties": {"family": {"const": family}}}, "then": _ref(name)}
        for family, name in families.items()
    ]
    named = {"family": {"description": "the kind of model", "enum": list(families)}}
    return {"type": "object", "properties": named, "allOf": branches}


def _may_be_open(path: Path) -> bool:
    is_closed = any(path[: len(closed)] == closed for closed in CLOSED_FOR_GOOD)
    return not is_closed and path[-1] not in ("family", "members", "name")


def _setting(of_pydantic: Schema, *, is_open: bool) -> dict[str, Any]:
    """Return the schema of a setting with its description and default, and with a range if it may be open."""
    described = {key: of_pydantic[key] for key in ("description", "default") if of_pydantic.get(key) is not None}
    values = _values(of_pydantic)
    return described | (_open(values) if is_open else values)


def _open(values: Schema) -> dict[str, Any]:
    """Return the schema of a value, of an interval if it is a number, or of choices unless it is a list."""
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
    """Return the schema of a mapping with these keys and no others."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": False}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{name}"}


def _stack(names: Collection[str], *, stackable: Collection[str]) -> dict[str, Any]:
    """Return the schema of a name, or of several `stackable` ones (features.stacks): pydantic only knows it is text."""
    return _any_of(
        [
            {"type": "string", "enum": list(names)},
            {"type": "string", "pattern": "^({0})([+]({0}))+$".format("|".join(stackable))},
            {"type": "array", "items": {"enum": list(stackable)}, "minItems": 1, "uniqueItems": True},
        ]
    )


#: The kinds of features that can be stacked.
_FRAMED = [kind for kind in KINDS if is_framed(kind)]

#: An entry of `search.first`: studies and recipes, or open settings by name, each with one of its values.
_ENTRY: dict[str, Any] = {
    "if": {"type": "object", "required": ["from"]},
    "then": _object(
        {
            "from": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "top": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP},
        },
        required=["from"],
    ),
    "else": {"type": "object", "additionalProperties": {"type": list(_SCALARS)}},
}
