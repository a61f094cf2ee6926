"""librosa: the reference of every transform, whose filter banks and windows are used at run time."""

from __future__ import annotations

import importlib
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any

from filelock import FileLock

from features.cache import cache_folder

#: No import takes longer.
_LONGEST_SECONDS = 180.0


@cache
def librosa(module: str) -> Any:
    """A module of librosa's, imported by one process of a host at a time.

    Its first import compiles functions, for ten seconds or more, into a cache on disk. Two processes that fill that
    cache together may spoil it, and who loads it then crashes (numba's issue 10128): workers start together.
    """
    with ExitStack() as held:
        # No lock is to be had in a folder of somebody else's, for one; or it is never given back.
        with suppress(OSError, NotImplementedError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(cache_folder() / "librosa.lock", timeout=_LONGEST_SECONDS))
        return importlib.import_module(f"librosa.{module}")
