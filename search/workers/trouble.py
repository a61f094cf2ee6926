"""What keeps a slot's workers from working: how they ended, when the next one starts, and a note on it for people."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

#: A worker that died is replaced after a pause that doubles with each death in its slot (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0

#: The longest part of a worker's last message that is shown in a line (characters).
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Trouble:
    """Consecutive deaths of the workers of one slot, none of which had ended a trial."""

    deaths: int
    starts: int  # of the last of them, those that failed before they had a trial
    tries: int  # trials that had failed in the slot then
    reason: str  # of the last death, in a line
    again: float  # when the next worker is started (monotonic)
    has_hung: bool = False  # whether the last worker was ended because it got no further
    has_retired: bool = False  # whether no worker is started again

    @classmethod
    def after(
        cls,
        before: Trouble | None,
        reason: str,
        *,
        failed: bool = True,
        tries: int | None = None,
        had_trial: bool = False,
        has_hung: bool = False,
    ) -> Trouble:
        """Adds one death, which happened now.

        failed    : whether the worker was not just killed from outside
        tries     : how many trials have failed in the slot so far; None if the storage was away
        had_trial : whether it is known that the worker held a trial
        """
        deaths, starts, known = (0, 0, 0) if before is None else (before.deaths, before.starts, before.tries)
        if failed and tries is not None:
            starts = starts + 1 if tries <= known and not had_trial else 0
        pause = min(_FIRST_PAUSE * 2 ** min(deaths, 30), _LONGEST_PAUSE)  # 2 ** 1024 would overflow a float
        in_a_line = textwrap.shorten(reason, _LONGEST_REASON, placeholder=" …")
        again = time.monotonic() + pause
        return cls(deaths + 1, starts, known if tries is None else tries, in_a_line, again, has_hung)

    @property
    def is_past(self) -> bool:
        """Whether the next worker has run for a minute: a worker that cannot work usually ends before."""
        return not self.has_retired and time.monotonic() >= self.again + _LONGEST_PAUSE

    def retired(self) -> Trouble:
        """The same, and no worker is started any more."""
        return replace(self, has_retired=True)

    def note(self, worker: int) -> str | None:
        """A note for the user on the worker with this number; None after a single death without a hang."""
        if self.has_retired:
            return f"worker {worker} has retired: {self.reason}"
        if self.is_past or (self.deaths == 1 and not self.has_hung):
            return None
        return f"worker {worker} {'was replaced' if self.has_hung else 'keeps ending'}: {self.reason}"


def in_one_note(notes: Sequence[str | None]) -> str | None:
    """The first of the notes, and how many more there are; None without notes."""
    given = [note for note in notes if note is not None]
    return f"{given[0]} (and {len(given) - 1} more)" if len(given) > 1 else next(iter(given), None)
