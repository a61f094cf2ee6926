from __future__ import annotations

from typing import Any

import pytest

from features.stacks import joined, parts_of, require_stack


@pytest.mark.parametrize(
    ("value", "stack", "parts"),
    [
        ("logmel", "logmel", ["logmel"]),
        ("logmel+chroma", "logmel+chroma", ["logmel", "chroma"]),
        (["logmel", "chroma"], "logmel+chroma", ["logmel", "chroma"]),
        ([1, 2], [1, 2], [[1, 2]]),
        (True, True, [True]),
        ({"low": 1, "high": 2}, {"low": 1, "high": 2}, [{"low": 1, "high": 2}]),
    ],
    ids=str,
)
def test_a_list_of_names_is_a_stack_and_anything_else_stays_as_it_is(value: Any, stack: Any, parts: list[Any]) -> None:
    assert joined(value) == stack
    assert parts_of(value) == parts


@pytest.mark.parametrize(
    ("stack", "rule"),
    [
        ("a+c", "each part must be one of a, b, but got 'c'"),
        ("a+b+a", r"each part may stand once, but got a\+b\+a"),
        ("+a", r"a \+ must stand between two names, but got '\+a': write a, or name another part"),
        ("a++b", r"a \+ must stand between two names, but got 'a\+\+b': write a\+b, or name another part"),
        ("", "each part must be one of a, b, but got ''"),
    ],
)
def test_a_stack_is_of_known_names_each_once(stack: str, rule: str) -> None:
    require_stack("b+a", ["a", "b"], what="part")
    with pytest.raises(ValueError, match=rule):
        require_stack(stack, ["a", "b"], what="part")
