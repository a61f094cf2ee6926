"""Checks the kinds of values that a program hands over; study files have a schema instead."""

from __future__ import annotations

import reprlib
from types import UnionType

from search.errors import MisuseError


def require_kind(value: object, kinds: type | UnionType, name: str, wanted: str) -> None:
    """Raise MisuseError unless the value is of one of these types; `wanted` says what it must be."""
    if not isinstance(value, kinds):
        raise MisuseError(f"{name} must be {wanted}, but got {reprlib.repr(value)}")
