"""A callback that reports progress: units done, and units in all."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (clips done, clips in all) while a corpus is read.
Progress = Callable[[int, int], None]
