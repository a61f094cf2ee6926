"""librosa, the reference for every transform; its filter banks and windows are used at run time."""

from __future__ import annotations

import importlib
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any

from filelock import FileLock

from features.cache import cache_folder

#: An import that takes longer is taken for dead.
_LONGEST_SECONDS = 180.0


@cache
def librosa(module: str) -> Any:
    """Import a module of librosa's, one process of a host at a time.

    Its first import compiles functions, for ten seconds or more, into a cache on disk. Two processes that fill
    that cache together may spoil it, and every process that loads it then crashes (numba's issue 10128). Workers start
    together, hence the lock.
    """
    with ExitStack() as held:
        # Without a lock the import goes on: the folder may be somebody else's, or a lock may never be released.
        with suppress(OSError, NotImplementedError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(cache_folder() / "librosa.lock", timeout=_LONGEST_SECONDS))
        return importlib.import_module(f"librosa.{module}")
