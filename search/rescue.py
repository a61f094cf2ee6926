"""What cannot be written where it should be goes to a place beside it, or to a temporary folder: no work is lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from features.errors import OffkeyError


def kept_elsewhere(what: str, target: Path | None, write: Callable[[Path], Path]) -> str:
    """Lets `write` fill a new folder beside the target, and return where the result lies in it.

    The folder is a temporary one if that fails, for example because the disk is full, or if the target is no path here.
    Returns a sentence for an error's message, which names that place; empty if nothing can be written there, either.
    """
    beside = [] if target is None else [_existing(target.absolute().parent)]
    name = "offkey" if target is None else target.name
    for parent in (*beside, None):
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=f"{name}.kept-", dir=parent))
            try:
                return f"\n{what} is kept in {write(folder)}, to be moved from there."
            except (OSError, OffkeyError):
                shutil.rmtree(folder, ignore_errors=True)
    return ""


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    return next((one for one in (folder, *folder.parents) if os.path.isdir(one)), folder)
