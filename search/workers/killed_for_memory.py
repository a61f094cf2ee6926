"""Whether the kernel has killed a process on this host because memory ran out."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

#: Files with a line `oom_kill NUMBER`: of this process's control group, and of the whole host.
_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


#: The longest time that a killed process takes to end (seconds): 0.1 s for each GB, and more where the disk is busy.
_TO_END = 30.0


def kills_for_memory() -> int:
    """How many processes the kernel has killed for memory since the host or its container started.

    0 where the kernel does not tell.
    """
    count = 0
    for file in _COUNTERS:
        with suppress(OSError):
            for line in file.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    count += int(value)
    return count


class MemoryWatch:
    """Whether the kernel killed a process for memory just now.

    It counts a kill at once, but a process with much memory takes seconds to end: its kill was counted before.
    """

    def __init__(self) -> None:
        self._known, self._last = kills_for_memory(), -_TO_END

    def look(self) -> None:
        """Notes kills since the last look."""
        known, self._known = self._known, kills_for_memory()
        if self._known > known:
            self._last = time.monotonic()

    def has_killed(self) -> bool:
        """Whether a process that ended by SIGKILL just now may be one that the kernel has killed for memory."""
        self.look()
        return time.monotonic() - self._last < _TO_END
