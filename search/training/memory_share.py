"""A worker's share of memory, in a container that the kernel would end as a whole.

In Kubernetes, and wherever a control group says so, the kernel ends all processes of a container together when its
memory runs out: the search that would say which trial needed too much ends with its worker. There a training on the CPU
gets no more than its worker's share. An allocation beyond it fails, and with it the trial.

Only the steps of a training are limited, in `within_share`: elsewhere a worker would fail without a reason.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from features.control_groups import own_groups

#: The part of a container's memory that stays free: for the kernel's own pages, and for files in memory.
_FREE = 0.05

#: Address space that a thread reserves and hardly uses (bytes): its stack, and its share of the allocator's.
_OF_A_THREAD = 16 * 2**20

_share: int | None = None  # of this process
_threads: int | None = None  # that may begin, while this process is limited


def share_of_memory(*, workers: int) -> int | None:
    """The bytes that each of so many workers of this process may use. None where the kernel ends one process alone."""
    limits = list(_limits_of_groups_that_end_together())
    if not limits:
        return None
    return max(0, int(((1 - _FREE) * min(limits) - psutil.Process().memory_info().rss) / workers))


def keep_within(share: int | None) -> None:
    """Sets this process's share (bytes); None: it has all of the memory."""
    global _share
    _share = share


@contextmanager
def within_share(*, threads: int) -> Iterator[int | None]:
    """Lets allocations fail that would take this process's own memory beyond its share. Yields the share.

    What is mapped or reserved already counts no more than it is used: libraries, the stacks of threads, and frames,
    whose pages the kernel takes back. So many `threads` may begin in here.
    """
    if _share is None:
        yield None
        return
    with _limited_to(threads):
        yield _share


@contextmanager
def beside_share() -> Iterator[None]:
    """Lifts the limit: for frames, which are mapped and take no memory of their own."""
    if _threads is None:
        yield
        return
    threads = _threads
    with _limited_to(None):
        yield
    _set_limit(threads)


@contextmanager
def _limited_to(threads: int | None) -> Iterator[None]:
    global _threads
    before, soft = _threads, resource.getrlimit(resource.RLIMIT_DATA)
    _threads = threads
    try:
        _set_limit(threads)
        yield
    finally:
        _threads = before
        resource.setrlimit(resource.RLIMIT_DATA, soft)


def _set_limit(threads: int | None) -> None:
    """Limits this process to its share and so many threads; None: not at all."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = most
    if threads is not None and _share is not None:
        unused = _bytes_in_status("VmData") - _bytes_in_status("RssAnon")
        limit = unused + _share + threads * _OF_A_THREAD
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def _limits_of_groups_that_end_together() -> Iterator[int]:
    """The memory limits (bytes) at which the kernel ends all processes of a control group of this process.

    When a group has reached its limit, the kernel ends the largest group within it that is to end as a whole.
    """
    end_together = False
    for folder in own_groups():
        with suppress(OSError):  # not version 2, or the root, which has no limit
            together, limit = [(folder / f"memory.{name}").read_text().strip() for name in ("oom.group", "max")]
            end_together |= together == "1"
            if end_together and limit.isdecimal():
                yield int(limit)


def _bytes_in_status(name: str) -> int:
    """An amount of memory of this process, as the kernel names it in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
