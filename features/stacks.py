"""Stacks: several names joined by `+`, such as the kinds of feature `logmel+chroma`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from features.did_you_mean import did_you_mean


def joined(names: Any) -> Any:
    """The stack that a list of names stands for; anything else as it is."""
    return "+".join(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else names


def require_stack(stack: str, known: Collection[str], *, what: str) -> None:
    """Raises ValueError unless each name of a stack is a known one and stands once; `what` they are: a word."""
    names = stack.split("+")
    if len(names) > 1 and "" in names:
        rest = "+".join(filter(None, names)) or next(iter(known))
        raise ValueError(f"a + must stand between two names, but got {stack!r}: write {rest}, or name another {what}")
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise ValueError(
            f"each {what} must be one of {', '.join(known)}, but got {unknown!r}{did_you_mean(unknown, known)}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"each {what} may stand once, but got {stack}")


def parts_of(value: Any) -> list[Any]:
    """The names of a stack, as text or as a list; any other value alone."""
    stack = joined(value)
    return stack.split("+") if isinstance(stack, str) else [stack]
