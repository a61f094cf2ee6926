"""Whether a file fits on its disk, asked before it is begun."""

from __future__ import annotations

import shutil
from pathlib import Path

#: Left free beside the file (bytes), or a twentieth of a small disk: for what other processes write meanwhile.
_MARGIN = 64 * 10**6


def lack_of_space(folder: Path, needed: int) -> str | None:
    """What is missing for so many bytes in a folder that exists, in words; None if they fit."""
    disk = shutil.disk_usage(folder)
    if disk.free >= needed + min(_MARGIN, disk.total // 20):
        return None
    return f"{_shown(needed)} are needed in {folder}, but its disk has {_shown(disk.free)} left"


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
