"""The control groups of this process, in which the kernel limits a container or a job.

Where the kernel has none, or does not show them, there are no folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

#: Where the kernel shows the control groups, and which of them this process is in.
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def own_groups() -> Iterator[Path]:
    """The folders of this process's control groups for memory, each before those around it.

    In a container they are what the container can see of them.
    """
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers in ("", "memory"):  # of version 2, of version 1
            own = Path(group.lstrip("/"))
            for folder in (own, *own.parents):
                yield _GROUPS / controllers / folder
