"""Every setting of a study file in words: what it means, which values it takes, and its default.

The words come from pydantic's JSON Schema of each block, which `search.study.schema.json_schema` uses, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from features.cleaning import CleaningSettings
from features.did_you_mean import did_you_mean
from features.frames.feature_settings import FeatureSettings
from models.families import FAMILIES, settings_of
from models.settings import ScoringSettings, TrainingSettings
from search.errors import MisuseError
from search.study.branches import BranchSettings
from search.study.recipe import CorpusSettings, ValidationSettings
from search.study.search_settings import ConstraintSettings, SearchSettings

#: The JSON Schema of a setting, or of a value that it may have.
Schema = Mapping[str, Any]

#: The types of JSON Schema in words.
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true | false", "array": "list"}

#: The limits of JSON Schema as signs.
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Described:
    """A setting in words."""

    name: str
    values: str
    default: str
    about: str


def blocks() -> dict[str, type[BaseModel]]:
    """Return the blocks of a study file by name; in place of `model:`, each family, and what branches have beside."""
    known: dict[str, type[BaseModel]] = {
        "corpus": CorpusSettings,
        "features": FeatureSettings,
        "cleaning": CleaningSettings,
    }
    known.update((family, settings_of(family)) for family in FAMILIES)
    known["branch"] = BranchSettings
    known.update(training=TrainingSettings, scoring=ScoringSettings)
    known.update(validation=ValidationSettings, search=SearchSettings, constraints=ConstraintSettings)
    return known


def described(name: str) -> list[Described]:
    """Return the settings of a block or family. Raises MisuseError for a name that is neither."""
    known = blocks()
    if name not in known:
        raise MisuseError(f"{name} is no block and no family{did_you_mean(name, known)} (known: {', '.join(known)})")
    return [
        Described(
            key,
            values_in_words(setting),
            "" if setting.get("default") is None else _plain(setting["default"]),
            setting.get("description", ""),
        )
        for key, setting in settings_in(known[name]).items()
        if key != "family"
    ]


def settings_in(block: type[BaseModel]) -> dict[str, Schema]:
    """Return the JSON Schema of each setting of a block, by name."""
    properties: dict[str, Schema] = block.model_json_schema()["properties"]
    return properties


def values_in_words(setting: Schema) -> str:
    """Return the values that a setting takes: choices, or a type and its limits."""
    if "anyOf" in setting:
        return " | ".join(values_in_words(kind) for kind in setting["anyOf"] if kind.get("type") != "null")
    if "enum" in setting or "const" in setting:
        return " | ".join(map(_plain, setting.get("enum") or [setting["const"]]))
    items = setting.get("items", {})
    if "anyOf" in items or "enum" in items:
        return f"list of ({values_in_words(items)})"
    if "additionalProperties" in setting:
        return "blocks by name"
    limits = ", ".join(f"{sign} {_plain(setting[key])}" for key, sign in _LIMITS.items() if key in setting)
    return f"{_TYPES.get(setting.get('type', ''), 'block')} {limits}".strip()


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
