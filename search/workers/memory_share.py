"""Keeps a worker within its share of a container's memory, where the kernel would end the whole container.

In Kubernetes, and in some clusters under Slurm, the kernel ends all processes of a container or a job together when
its memory runs out: the search that would say which trial needed too much ends with its worker. There a worker on the
CPU asks for no more than its share. An allocation beyond it fails, and with it the trial.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

#: Where the kernel shows the control groups (version 2), and this process's own among them.
_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

#: The part of a container's memory that stays free: for the kernel's own pages, and for files in memory.
_FREE = 0.05


def share_of_memory(workers: int) -> int | None:
    """The bytes that each of so many workers of this process may use. None where the kernel ends one process alone."""
    limits = list(_limits_of_groups_that_end_together())
    if not limits:
        return None
    return max(0, int(((1 - _FREE) * min(limits) - psutil.Process().memory_info().rss) / workers))


def keep_within(share: int) -> None:
    """Lets allocations fail that would take this process's own memory beyond its share (bytes).

    Mapped files are not counted: the kernel takes their pages back. Address space that is reserved and not used, such
    as the stacks of threads, is not counted either, as far as it is there already.
    """
    used = _bytes_in_status("VmData") - _bytes_in_status("RssAnon")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + share
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def _limits_of_groups_that_end_together() -> Iterator[int]:
    """The memory limits (bytes) of the control groups of this process whose processes the kernel ends together."""
    for folder in _own_groups():
        with suppress(OSError):  # not version 2, or the root, which has no limit
            together, limit = [(folder / f"memory.{name}").read_text().strip() for name in ("oom.group", "max")]
            if together == "1" and limit.isdecimal():
                yield int(limit)


def _own_groups() -> list[Path]:
    """This process's control group and those around it; in a container, what the container can see of them."""
    try:
        lines = _OWN_GROUP.read_text().splitlines()
    except OSError:
        return []
    own = next((Path(line.removeprefix("0::/")) for line in lines if line.startswith("0::/")), Path())
    return [_GROUPS / folder for folder in (own, *own.parents)]


def _bytes_in_status(name: str) -> int:
    """An amount of memory of this process, as the kernel names it in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
