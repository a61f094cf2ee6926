"""Statements on the studies' rows: the budget, the hours, and requests to stop.

They run in the caller's transaction, as in search.storage.ledger. Each statement here requires the study's `uid` beside
its key, so that it never reads or writes a later study that got the key of a deleted one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, case, func, or_, select, update
from sqlalchemy.orm import Session

from search.storage.tables import NONE_IN_A_ROW, SlotRow, StudyRow, TrialRow, database_now, is_live

Transaction = Connection | Session


@dataclass(frozen=True)
class StudyKey:
    """Identifies a study: a database may reuse the key of a deleted study, but a `uid` belongs to one study alone."""

    study_id: int
    uid: str

    @property
    def row(self) -> ColumnElement[bool]:
        """Whether a row of `offkey_studies` belongs to this study."""
        return (StudyRow.study_id == self.study_id) & (StudyRow.uid == self.uid)

    @property
    def trials(self) -> ColumnElement[bool]:
        """Whether a row of `offkey_trials` belongs to this study."""
        return (TrialRow.study_id == self.study_id) & select(StudyRow.study_id).where(self.row).exists()


class Remaining(NamedTuple):
    """What is left of a study's budget when a trial is begun."""

    trials: int  # not begun yet, with this one
    workers: int  # at work, with the one that begins this trial
    seconds: float | None = None  # of the study's hours; None: it has no limit


def seconds_left() -> ColumnElement[float | None]:
    """What is left of a study's hours (seconds); NULL if it has no limit."""
    return StudyRow.hours * 3600 - StudyRow.active_seconds


def within_hours() -> ColumnElement[bool]:
    """Whether a study's hours are not used up."""
    return or_(StudyRow.hours.is_(None), StudyRow.active_seconds < StudyRow.hours * 3600)


def has_slots() -> ColumnElement[bool]:
    """Whether a study may begin further trials: its budget is not handed out, and it has not ended itself."""
    return (StudyRow.handed_out < StudyRow.budget) & StudyRow.enough.is_(None)


def exists(transaction: Transaction, study: StudyKey) -> bool:
    """Whether the study still exists."""
    return transaction.execute(select(StudyRow.study_id).where(study.row)).first() is not None


class Admission(NamedTuple):
    """What a worker is told that may claim a trial."""

    failed_in_slot: int  # how many different trials failed in its slot since one last got on there


def admission(transaction: Transaction, study: StudyKey, *, slot: str, stops_before: int | None) -> Admission | None:
    """None if the study was deleted, or workers were asked to leave since there had been `stops_before` requests to.

    Waits for a transaction that is in `keep_claims_out`, and holds up later ones until the commit.
    """
    # FOR KEY SHARE, the weakest lock, excludes FOR UPDATE alone: other claims lock and write the row meanwhile. With a
    # stronger shared lock, two claims that both want to write would wait for each other.
    failed = select(SlotRow.in_a_row).where(SlotRow.uid == study.uid, SlotRow.slot == slot).scalar_subquery()
    query = select(StudyRow.stops, failed).where(study.row).with_for_update(read=True, key_share=True, of=StudyRow)
    row = transaction.execute(query).one_or_none()
    if row is None or (stops_before is not None and row.stops > stops_before):
        return None
    return Admission(failed_in_slot=len(set(json.loads(row[1] or NONE_IN_A_ROW))))


def keep_claims_out(transaction: Transaction, study: StudyKey) -> None:
    """Waits for claims in progress, and makes later claims wait until the commit.

    Takes PostgreSQL's strongest row lock (FOR UPDATE), which no write of ours takes. It does not queue: it waits until
    there is a gap between claims. In SQLite the transaction's first write excludes all others.
    """
    transaction.execute(select(StudyRow.study_id).where(study.row).with_for_update())


def lock(transaction: Transaction, study: StudyKey) -> bool:
    """Locks the study's row against other writes until the commit. Returns whether the study still exists."""
    locked = update(StudyRow).where(study.row).values(uid=study.uid).returning(StudyRow.study_id)
    return transaction.execute(locked.execution_options(synchronize_session=False)).one_or_none() is not None


def take_slot(transaction: Transaction, study: StudyKey) -> Remaining | None:
    """Takes one slot of the budget; the study's row stays locked until the commit.

    Returns what was left until then, or None if no slot was.
    """
    others = (
        select(func.count())
        .where(TrialRow.study_id == study.study_id, TrialRow.state == "running", is_live(TrialRow))
        .scalar_subquery()
    )
    taken = transaction.execute(
        update(StudyRow)
        .where(study.row, has_slots(), within_hours())
        .values(handed_out=StudyRow.handed_out + 1)
        .returning(StudyRow.budget - StudyRow.handed_out + 1, others + 1, seconds_left())
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if taken is None else Remaining(*taken)


def return_slot(transaction: Transaction, study: StudyKey) -> None:
    """Returns a slot that `take_slot` took in the same transaction."""
    transaction.execute(update(StudyRow).where(study.row).values(handed_out=StudyRow.handed_out - 1))


def sign_of_life(transaction: Transaction, study: StudyKey, lease: float) -> None:
    """Adds the time since the last sign of life of any worker to the study's hours.

    A gap of a lease or more is not added: no worker was at work. Neither is one of a clock that was set back. A sign of
    life within a tenth of a lease of the last one writes nothing: otherwise a thousand workers would wait for each
    other at the row.
    """
    gap = database_now() - StudyRow.last_seen
    transaction.execute(
        update(StudyRow)
        .where(study.row, func.abs(func.coalesce(gap, lease)) >= lease / 10)
        .values(
            active_seconds=StudyRow.active_seconds + case(((gap >= 0) & (gap < lease), gap), else_=0.0),
            last_seen=database_now(),
        )
    )


def out_of_time(transaction: Transaction, study: StudyKey) -> bool:
    """Whether the study's hours are used up."""
    within = transaction.execute(select(StudyRow.study_id).where(study.row, within_hours()))
    return within.one_or_none() is None


def request_stop(transaction: Transaction, study: StudyKey) -> None:
    """Asks the workers that are there now to leave.

    Requests are counted: a time would say nothing once a clock has been set back. Workers of earlier versions obey it.
    """
    transaction.execute(update(StudyRow).where(study.row).values(stops=StudyRow.stops + 1, stopped=database_now()))


def stops(transaction: Transaction, study: StudyKey) -> int:
    """How many requests to stop there have been; 0 if the study was deleted."""
    return transaction.execute(select(StudyRow.stops).where(study.row)).scalar_one_or_none() or 0


def is_stopped(transaction: Transaction, study: StudyKey, *, stops_before: int) -> bool:
    """Whether workers were asked to leave since there had been `stops_before` requests to."""
    asked = select(StudyRow.study_id).where(study.row, StudyRow.stops > stops_before)
    return transaction.execute(asked).first() is not None
