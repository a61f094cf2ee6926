"""The frame stores of a cache: listed, verified, removed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from features.errors import StoreError
from features.progress import Progress
from features.store.files import FORMAT, explain, frames_folder, key_of, partial_of, read_header, stale


@dataclass(frozen=True)
class CachedStore:
    """A store in the cache, as its store.json describes it."""

    folder: Path
    described: dict[str, Any]  # empty if store.json cannot be read
    size: int  # bytes
    used: float  # seconds since 1970; right to an hour

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def clips(self) -> int | None:
        return len(self.described["clips"]) if self.described else None

    @property
    def is_of_this_version(self) -> bool:
        """Whether this version of Offkey would open it; True if store.json cannot be read."""
        return not self.described or (self.described.get("format"), self.described.get("librosa")) == (
            FORMAT,
            version("librosa"),
        )


def cached_stores() -> list[CachedStore]:
    """All whole stores of the cache, the last used one first."""
    try:
        folders = [path for path in frames_folder().iterdir() if path.is_dir() and path.suffix != ".partial"]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(explain(error, frames_folder() / "any")) from error
    found = []
    for folder in folders:
        described: Any = {}
        with suppress(OSError, ValueError):
            described = json.loads((folder / "store.json").read_text())
        is_whole = isinstance(described, dict) and isinstance(described.get("clips"), list)
        described = described if is_whole else {}
        with suppress(FileNotFoundError):  # removed at this moment
            dated = folder / "store.json" if (folder / "store.json").exists() else folder
            found.append(CachedStore(folder, described, size_of(folder), dated.stat().st_mtime))
    return sorted(found, key=lambda store: (-store.used, store.key))


def unfinished_folders() -> list[Path]:
    """Folders of stores that a process is building, or that a dead process left unfinished."""
    return sorted(frames_folder().glob("*.partial"))


def size_of(path: Path) -> int:
    """Bytes of the files in a folder; 0 for one that is not there."""
    sizes = [0]
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):
            sizes.append(file.lstat().st_size)
    return sum(sizes)


def damage_of(folder: Path, *, progress: Progress | None = None) -> list[str]:
    """The damage of a store, a line for each file or clip; empty for a whole store. Reads all of it.

    The files are read, not mapped: a disk that cannot read a page kills the process that has it mapped.
    """
    try:
        described = json.loads((folder / "store.json").read_text())
        names = [clip["name"] for clip in described["clips"]]
        key = key_of(
            described["format"], described["librosa"], described["key"], [clip["digest"] for clip in described["clips"]]
        )
    except (OSError, ValueError, TypeError, LookupError) as error:
        return [f"store.json cannot be read ({_reason(error)})"]
    if key != folder.name:
        return ["store.json describes another store"]
    try:
        offsets, checksums = np.load(folder / "offsets.npy"), np.load(folder / "checksums.npy")
        file = (folder / "frames.npy").open("rb")
    except (OSError, ValueError, EOFError) as error:
        return [f"a file cannot be read ({_reason(error)})"]
    with file:
        try:
            (frames, bins), start = read_header(file)
        except (OSError, ValueError) as error:
            return [f"frames.npy cannot be read ({_reason(error)})"]
        fits = (frames, bins, len(checksums), len(offsets)) == (
            described["frames"],
            described["bins"],
            len(names),
            len(names) + 1,
        )
        if not fits or offsets[0] != 0 or offsets[-1] != frames or (np.diff(offsets) < 0).any():
            return ["offsets.npy, checksums.npy or frames.npy does not fit store.json"]
        damaged = []
        for clip, name in enumerate(names):
            try:
                file.seek(start + int(offsets[clip]) * bins * 4)
                whole = zlib.crc32(file.read(int(offsets[clip + 1] - offsets[clip]) * bins * 4)) == checksums[clip]
            except OSError:
                whole = False
            if not whole:
                damaged.append(name)
            if progress is not None:
                progress(clip + 1, len(names))
    return damaged


def remove_store(folder: Path) -> int:
    """Removes a store, or an unfinished one, and returns the bytes that this freed.

    The folder is renamed first, so that nobody opens half of a store. A process of this host that has it mapped is not
    harmed: its pages stay until it ends. Raises StoreError without permission.
    """
    doomed = partial_of(folder)
    size = size_of(folder)
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return 0  # another has removed it
    except OSError as error:
        raise StoreError(explain(error, folder)) from error
    shutil.rmtree(doomed, ignore_errors=True)  # a network folder may keep what is mapped; the next removal takes it
    return size - size_of(doomed)


def stale_folders() -> list[Path]:
    """Unfinished folders in which nobody works any longer."""
    unfinished = unfinished_folders()
    if not unfinished:
        return []
    try:
        with tempfile.TemporaryFile(dir=frames_folder()) as file:
            now = os.fstat(file.fileno()).st_mtime
    except OSError:
        now = time.time()
    return stale(unfinished, now=now)


def remove_free_locks() -> int:
    """Removes the lock files that nobody holds, and returns how many."""
    removed = 0
    for path in sorted(frames_folder().glob("*.lock")):
        # A process that waits for an unlinked lock takes another; at worst two processes build the same store.
        with suppress(Timeout, OSError, NotImplementedError), FileLock(path, timeout=0):
            path.unlink()
            removed += 1
    return removed


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
