"""Every setting of a study file in words: what it is, what it may be, and what it is if left out."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from features.cleaning import CleaningSettings
from features.did_you_mean import did_you_mean
from features.frames.feature_settings import FeatureSettings
from models.families import FAMILIES, settings_of
from models.settings import ScoringSettings, TrainingSettings
from search.errors import MisuseError
from search.study.recipe import ConstraintSettings, CorpusSettings, SearchSettings, ValidationSettings

#: Kinds of values in words.
_KINDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true | false",
    list: "list",
    Mapping: "blocks by name",
}


@dataclass(frozen=True)
class Described:
    """A setting for people to read."""

    name: str
    values: str
    default: str
    about: str


def blocks() -> dict[str, type[BaseModel]]:
    """The blocks of a study file, and for `model:` each family, by name."""
    known: dict[str, type[BaseModel]] = {
        "corpus": CorpusSettings,
        "features": FeatureSettings,
        "cleaning": CleaningSettings,
    }
    known.update((family, settings_of(family)) for family in FAMILIES)
    known.update(training=TrainingSettings, scoring=ScoringSettings)
    known.update(validation=ValidationSettings, search=SearchSettings, constraints=ConstraintSettings)
    return known


def described(name: str) -> list[Described]:
    """The settings of a block or family. Raises MisuseError for a name that is neither."""
    known = blocks()
    if name not in known:
        raise MisuseError(f"{name} is no block and no family{did_you_mean(name, known)} (known: {', '.join(known)})")
    return [
        Described(
            key,
            values_in_words(field),
            "" if field.is_required() or field.default is None else _plain(field.default),
            field.description or "",
        )
        for key, field in known[name].model_fields.items()
        if key != "family"
    ]


def values_in_words(field: FieldInfo) -> str:
    """What a setting may be: choices, or a kind of value and its limits."""
    return f"{_kind(field.annotation)} {_limits(field)}".strip()


def _limits(field: FieldInfo) -> str:
    return ", ".join(
        f"{sign} {_plain(getattr(rule, key))}"
        for rule in field.metadata
        for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(rule, key, None) is not None
    )


def _kind(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(_plain, typing.get_args(annotation)))
    if typing.get_origin(annotation) is typing.Annotated:
        kind, *rules = typing.get_args(annotation)
        return " ".join([_kind(kind), *(_limits(rule) for rule in rules if isinstance(rule, FieldInfo))])
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(map(_kind, parts))
    if typing.get_origin(annotation) is list and typing.get_origin(parts[0]) is not None:
        return f"list of ({_kind(parts[0])})"
    return _KINDS.get(typing.get_origin(annotation) or annotation, "block")


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
