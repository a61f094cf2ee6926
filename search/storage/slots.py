"""Slots whose trials failed: evidence on who is at fault, a trial or the place it was tried in.

A slot is one worker's place on a host, with its device: its processes follow one another. A trial that fails says
little alone. If other trials fail in the same slot, and none gets an epoch done there, the slot is at fault; if the
trial fails in slots that get other trials on, the trial is. Errors of a disk, a network or the recordings are never the
trial's.

Statements run in the caller's transaction, as in search.storage.ledger.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, select, update

from search.storage.dialects import insert_of
from search.storage.lease_rules import MOST_DIFFERENT, MOST_IN_A_ROW
from search.storage.study_rows import StudyKey, Transaction
from search.storage.tables import NONE_IN_A_ROW, SlotRow


class FailingSlot(NamedTuple):
    """A slot in which trials failed."""

    slot: str
    failures: int  # trials that failed there, each as often as it did
    in_a_row: tuple[int, ...]  # the numbers of those since the slot's last epoch
    reason: str  # of the last one

    def is_at_fault(self, *, alone: bool) -> bool:
        """Whether its failures are not those of a trial: different trials failed, and none got an epoch done.

        Where no other slot is at work, trials that are all at fault look the same: one of them is given up before.
        """
        return len(self.in_a_row) >= MOST_IN_A_ROW or (not alone and len(set(self.in_a_row)) >= MOST_DIFFERENT)

    @property
    def host(self) -> str:
        return host_of(self.slot)


def slot_of(owner: str) -> str:
    """The slot of a worker (see search.storage.claims.new_owner): what the processes of one place share."""
    return owner.rpartition(":")[0] or owner


def host_of(owner: str) -> str:
    """The host of a worker or a slot."""
    return owner.partition(":")[0]


def run_of(transaction: Transaction, study: StudyKey, slot: str, *, trial: int) -> tuple[int, ...]:
    """The trials that failed in a slot one after the other, with this one."""
    before = known(transaction, study, slot)
    return (*(() if before is None else before.in_a_row), trial)


def note_failure(transaction: Transaction, study: StudyKey, slot: str, *, run: Sequence[int], reason: str) -> None:
    """Enters that a trial failed in a slot, the last one of a run."""
    key = {"uid": study.uid, "slot": slot}
    values = {"in_a_row": json.dumps(run), "reason": reason}
    upsert = insert_of(transaction, SlotRow).values(**key, **values, failures=1)
    more = {**values, "failures": SlotRow.failures + 1}
    transaction.execute(upsert.on_conflict_do_update(index_elements=list(key), set_=more))


def note_epoch(transaction: Transaction, study: StudyKey, slot: str) -> None:
    """Enters that a trial got on in a slot: what failed there before was not the slot's fault."""
    own = SlotRow.uid == study.uid, SlotRow.slot == slot
    transaction.execute(update(SlotRow).where(*own).values(in_a_row=NONE_IN_A_ROW))


def failing(transaction: Transaction, study: StudyKey) -> list[FailingSlot]:
    """The study's slots in which trials failed, by name."""
    return _read(transaction, SlotRow.uid == study.uid)


def forgive(transaction: Transaction, study: StudyKey, host: str | None) -> None:
    """Forgets what failed on a host, or anywhere (None): a person has started its workers anew."""
    here = [] if host is None else [SlotRow.slot.startswith(f"{host}:", autoescape=True)]
    transaction.execute(delete(SlotRow).where(SlotRow.uid == study.uid, *here))


def known(transaction: Transaction, study: StudyKey, slot: str) -> FailingSlot | None:
    """What failed in a slot; None if nothing did."""
    return next(iter(_read(transaction, SlotRow.uid == study.uid, SlotRow.slot == slot)), None)


def _read(transaction: Transaction, *which: ColumnElement[bool]) -> list[FailingSlot]:
    columns = SlotRow.slot, SlotRow.failures, SlotRow.in_a_row, SlotRow.reason
    rows = transaction.execute(select(*columns).where(*which).order_by(SlotRow.slot))
    return [FailingSlot(slot, failures, tuple(json.loads(row)), reason) for slot, failures, row, reason in rows]
