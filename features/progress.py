"""How far some work is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (clips done, clips in all) while a corpus is read.
Progress = Callable[[int, int], None]
