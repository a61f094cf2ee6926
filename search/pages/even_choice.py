"""Which of many items a page shows: an even choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def even_choice(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced in their order."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]
