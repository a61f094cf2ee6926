"""Hosts on which most trials fail, up to now: what to mend is there, not in the study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search.storage.slots import FailingSlot, host_of

#: Fewer failures on a host say nothing about it.
_FEWEST = 2


@dataclass(frozen=True)
class FailingHost:
    """A host on which most trials failed."""

    host: str
    failed: int  # trials that failed there, each as often as it did
    tried: int  # these, and those that ended there
    elsewhere: int  # failures on other hosts
    reason: str  # of the last failure

    @property
    def in_words(self) -> str:
        """A sentence for people."""
        elsewhere = "none" if self.elsewhere == 0 else f"{self.elsewhere}"
        return (
            f"Host {self.host}: {self.failed} of {self.tried} tries of trials failed there, {elsewhere} elsewhere. "
            f"The last error: {self.reason}"
        )


def failing_hosts(slots: Sequence[FailingSlot], owners: Iterable[str]) -> tuple[FailingHost, ...]:
    """Return the hosts on which more than half of the tries failed, and no trial has got on since in some slot.

    `owners` are the workers of the ended trials.
    """
    failed: Counter[str] = Counter()
    reasons = {}
    for slot in slots:
        failed[slot.host] += slot.failures
        if slot.in_a_row:
            reasons[slot.host] = slot.reason
    ended = Counter(host_of(owner) for owner in owners)
    return tuple(
        FailingHost(host, count, count + ended[host], failed.total() - count, reasons[host])
        for host, count in sorted(failed.items())
        if host in reasons and count >= _FEWEST and count > ended[host]
    )
