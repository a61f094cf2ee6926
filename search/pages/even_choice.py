"""Which of many things a page shows: an even choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def even_choice(things: Sequence[T], count: int) -> list[T]:
    """At most so many of them, evenly over their order."""
    places = np.linspace(0, len(things) - 1, min(count, len(things))).round().astype(int)
    return [things[place] for place in places]
