"""The files of a frame store, and the folders in which stores lie. features.store.building describes them."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from features.cache import cache_folder
from features.control_groups import own_groups
from features.digests import digest_of
from features.errors import StoreError
from features.frames.framing import Frames

#: Raised with each change to how frames are computed or laid out.
FORMAT = 2

#: A partial folder that nobody has written to for this many seconds is a dead builder's.
_STALE_SECONDS = 3600.0

#: In Python's `mmap` from 3.13 on.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class FrameStore:
    """Memory-mapped frames of some clips, in those clips' order."""

    frames: Frames  # (frames, bins), mapped
    offsets: npt.NDArray[np.int64]  # (clips + 1,)

    def of_clip(self, clip: int) -> Frames:
        """Frames of the clip at this position, (frames, bins)."""
        return self.frames[self.offsets[clip] : self.offsets[clip + 1]]


def map_store(folder: Path) -> FrameStore:
    """The store in this folder, mapped. Raises FileNotFoundError if it is not there, StoreError if it is cut off."""
    try:
        store = FrameStore(frames=_mapped(folder / "frames.npy"), offsets=np.load(folder / "offsets.npy"))
        if len(store.frames) != store.offsets[-1]:
            raise ValueError(f"frames.npy holds {len(store.frames)} frames, offsets.npy expects {store.offsets[-1]}")
    except (ValueError, EOFError) as error:
        raise StoreError(damage(folder, str(error))) from error
    return store


def frames_folder() -> Path:
    return cache_folder() / "frames"


def key_of(form: int, librosa: str, settings: str, digests: Iterable[str]) -> str:
    return digest_of([str(form), librosa, settings, *digests])[:32]


def _mapped(path: Path) -> Frames:
    """The array of an .npy file, (frames, bins). Raises ValueError if the file is not whole.

    The mapping is copy-on-write, because torch takes no read-only array; no write reaches the file. It reserves no
    memory for such copies: the kernel would refuse to map a file that is larger than the host's memory.
    """
    with path.open("rb") as file:
        shape, start = read_header(file)
        if os.fstat(file.fileno()).st_size < start + shape[0] * shape[1] * 4:
            raise ValueError(f"{path.name} is cut off")
        flags, access = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        mapped = mmap.mmap(file.fileno(), 0, flags=flags, prot=access)
    if len(mapped) > _memory() / 2:
        # Pages that are read ahead would be dropped before they are used: measured, that is far slower than the disk.
        mapped.madvise(mmap.MADV_RANDOM)
    return np.ndarray(shape, np.float32, mapped, start)


def _memory() -> int:
    """Bytes of memory that this process's pages may lie in: the host's, or its container's limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder in own_groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # not there, or "max"
                limits.append(int((folder / name).read_text()))
    return min(limits)


def write_header(path: Path, shape: tuple[int, int]) -> int:
    """Starts an .npy file of this shape; returns where its data begin (bytes)."""
    with path.open("wb") as file:
        description = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(file, description)
        return file.tell()


def read_header(file: BinaryIO) -> tuple[tuple[int, int], int]:
    """Shape of such a file's array, and where its data begin (bytes). Raises ValueError if it is no such file."""
    np.lib.format.read_magic(file)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 2 or fortran_order or dtype != np.float32:
        raise ValueError(f"frames.npy holds {dtype} of shape {shape}")
    return shape, file.tell()


def partial_of(folder: Path) -> Path:
    """A name that no other process has, on this host or on another, for a store that is not whole."""
    return folder.with_name(f"{folder.name}.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def partials(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob(f"{folder.name}*.partial"))


def stale(partials: Iterable[Path], *, now: float) -> list[Path]:
    """The folders of dead builders, by the time of their last write: process ids mean nothing on other hosts.

    `now` must be the file system's own clock, which dates the writes: a server's clock may differ from this host's.
    """
    return [partial for partial in partials if last_written(partial) < now - _STALE_SECONDS]


def last_written(partial: Path) -> float:
    times = [0.0]  # a file that is no longer there was written long ago
    for path in (partial, partial / "frames.npy", partial / "offsets.npy"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def damage(folder: Path, what: str) -> str:
    return (
        f"The frame store {folder} is damaged: {what}. `offkey cache prune --damaged` removes it; it is then "
        "computed anew."
    )


def explain(error: OSError, folder: Path) -> str:
    what = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file would exceed the allowed size",
        errno.EACCES: "permission denied",
        errno.EROFS: "the file system is read-only",
    }.get(error.errno or 0, str(error))
    return f"The frame store in {folder.parent} cannot be written or read: {what}. $OFFKEY_CACHE names another folder."
