"""The names of `search.api`: whatever one gets from it can be named, and nothing of it is Optuna's."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from features.errors import OffkeyError
from search import api
from search.errors import MisuseError

OURS = ("features", "models", "search")

#: What types of others may be made of.
ALLOWED = {*sys.stdlib_module_names, "numpy"}


def package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def types_in(annotation: Any) -> Iterator[type]:
    """Every class that an annotation is made of."""
    if typing.get_origin(annotation) is Literal:
        return
    for part in typing.get_args(annotation):
        for inner in part if isinstance(part, list) else [part]:  # a Callable's parameters are a list
            yield from types_in(inner)
    kind = typing.get_origin(annotation) or annotation
    if isinstance(kind, type):
        yield kind


def hints_of(thing: Any, module: str) -> dict[str, Any]:
    """The annotations of a function or class; names that only a type checker imports are api's own."""
    later = {name: getattr(api, name) for name in api.__all__}
    return typing.get_type_hints(thing, localns={**later, **vars(sys.modules[module])})


def is_record(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel)


def annotations_in(kind: type) -> Iterator[tuple[str, Any]]:
    """What the public fields, properties and methods of a class say of types, with their names.

    Of api's own class all that its methods take and give; of a record what it gives. What else is named can be
    held and handed on, and its insides are no part of the interface: a `Scorer` is torch's.
    """
    is_of_api = kind.__module__ == api.__name__
    if not is_of_api and not is_record(kind):
        return
    for base in kind.__mro__:
        if package(base) not in OURS:
            continue
        fields = hints_of(base, base.__module__) if is_record(base) else {}
        for name, annotation in fields.items():
            if not name.startswith("_") and typing.get_origin(annotation) is not typing.ClassVar:
                yield f"{kind.__name__}.{name}", annotation
        for name, member in vars(base).items():
            function = _function_of(member)
            if function is None or (name.startswith("_") and not (is_of_api and name == "__init__")):
                continue
            for parameter, annotation in hints_of(function, base.__module__).items():
                if is_of_api or parameter == "return":
                    yield f"{kind.__name__}.{name}({parameter})", annotation


def _function_of(member: Any) -> Callable[..., Any] | None:
    if isinstance(member, property):
        return member.fget
    if isinstance(member, cached_property):
        return member.func
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    return member if inspect.isfunction(member) else None


def reachable(module: ModuleType) -> dict[type, str]:
    """Every class that somebody can come by who begins with the module's names, and where it is met first."""
    met: dict[type, str] = {}
    ahead: list[tuple[str, type]] = []
    for name in module.__all__:
        thing = getattr(module, name)
        if isinstance(thing, type):
            ahead.append((name, thing))
            continue
        hints = hints_of(thing, thing.__module__)
        ahead += [(f"{name}({parameter})", kind) for parameter, of in hints.items() for kind in types_in(of)]
    while ahead:
        where, kind = ahead.pop()
        if kind not in met:
            met[kind] = where
            if package(kind) in OURS:
                ahead += [(place, inner) for place, of in annotations_in(kind) for inner in types_in(of)]
    return met


def test_whatever_of_offkey_s_one_comes_by_can_be_named() -> None:
    named = {getattr(api, name) for name in api.__all__}

    assert {kind: where for kind, where in reachable(api).items() if package(kind) in OURS and kind not in named} == {}


def test_nothing_of_optuna_s_or_other_libraries_is_met() -> None:
    others = {kind: where for kind, where in reachable(api).items() if package(kind) not in OURS}

    assert {kind: where for kind, where in others.items() if package(kind) not in ALLOWED} == {}


def test_the_walk_meets_what_is_deep_inside() -> None:
    """Else the two tests above would hold for nothing."""
    assert {api.Spread, api.Clip, api.Gain, api.IdDecisions, api.Origin, api.Scorer, float, Path} <= reachable(
        api
    ).keys()


def test_every_error_that_a_docstring_speaks_of_can_be_named() -> None:
    texts = [inspect.getdoc(thing) or "" for thing in (api.train, api.load_bundle, api.score, api.evaluate)]
    texts += [inspect.getdoc(member) or "" for name, member in vars(api.Study).items() if not name.startswith("_")]
    spoken_of = {name for text in texts for name in re.findall(r"\b[A-Z]\w+Error\b", text)}

    assert {"BundleError", "StudyError"} <= spoken_of <= set(api.__all__)
    for name in spoken_of:
        assert issubclass(getattr(api, name), OffkeyError)


def test_each_name_stands_once_and_is_there_and_others_are_not() -> None:
    assert len(set(api.__all__)) == len(api.__all__)
    assert {name for name in api.__all__ if not hasattr(api, name)} == set()
    with pytest.raises(AttributeError, match="has no attribute 'Storage'"):
        _ = api.Storage  # type: ignore[attr-defined]


def test_the_errors_are_those_of_the_command_line() -> None:
    assert (api.OffkeyError, api.MisuseError) == (OffkeyError, MisuseError)
