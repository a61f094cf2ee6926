"""Statements on the studies' rows: the budget, the hours, and whether workers were asked to leave.

The caller's transaction, as in search.storage.ledger. A study is known by its `uid`, which each statement asks for
beside the key: of a study that was made under the key of a deleted one it reads and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, CursorResult, case, func, or_, select, update
from sqlalchemy.orm import Session

from search.storage.tables import StudyRow, TrialRow, database_now

Transaction = Connection | Session


@dataclass(frozen=True)
class StudyKey:
    """Which study: a database gives the key of a deleted study to the next one, a `uid` belongs to one alone."""

    study_id: int
    uid: str

    @property
    def row(self) -> ColumnElement[bool]:
        """Whether a row of `offkey_studies` is this study's."""
        return (StudyRow.study_id == self.study_id) & (StudyRow.uid == self.uid)

    @property
    def trials(self) -> ColumnElement[bool]:
        """Whether a row of `offkey_trials` is one of this study's."""
        return (TrialRow.study_id == self.study_id) & select(StudyRow.study_id).where(self.row).exists()


def within_hours() -> ColumnElement[bool]:
    """Whether a study's hours are not used up."""
    return or_(StudyRow.hours.is_(None), StudyRow.active_seconds < StudyRow.hours * 3600)


def exists(transaction: Transaction, study: StudyKey) -> bool:
    """Whether the study is still there."""
    return transaction.execute(select(StudyRow.study_id).where(study.row)).first() is not None


def admits(transaction: Transaction, study: StudyKey, *, since: float | None) -> bool:
    """Whether the study is there, and the workers that were there at this time were not asked to leave.

    Until the commit nobody can keep claims out; who does so already is waited for.
    """
    # The weakest lock, which keeps out FOR UPDATE alone: other claims take and write the row meanwhile. A stronger one
    # would be shared by two that then both want to write, each waiting for the other.
    row = select(StudyRow.stopped).where(study.row).with_for_update(read=True, key_share=True)
    found = transaction.execute(row).one_or_none()
    return found is not None and (since is None or found.stopped is None or found.stopped < since)


def keep_claims_out(transaction: Transaction, study: StudyKey) -> None:
    """Waits for the claims that are being made, and keeps later ones waiting until the commit.

    PostgreSQL's strongest lock of a row, which no write of ours takes. It does not queue: while claims come without a
    gap it waits for one. In SQLite it is the first write that keeps everybody out.
    """
    transaction.execute(select(StudyRow.study_id).where(study.row).with_for_update())


def lock(transaction: Transaction, study: StudyKey) -> bool:
    """Keeps everybody else from writing the study's row until the commit; whether the study is still there."""
    locked = update(StudyRow).where(study.row).values(uid=study.uid).returning(StudyRow.study_id)
    return transaction.execute(locked.execution_options(synchronize_session=False)).one_or_none() is not None


def take_slot(transaction: Transaction, study: StudyKey) -> bool:
    """Takes one more slot of the budget, if there is one; the study's row stays locked until the commit."""
    taken = transaction.execute(
        update(StudyRow)
        .where(study.row, StudyRow.handed_out < StudyRow.budget, within_hours())
        .values(handed_out=StudyRow.handed_out + 1)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(taken, CursorResult)
    return bool(taken.rowcount)


def sign_of_life(transaction: Transaction, study: StudyKey, lease: float) -> None:
    """Adds the time since any worker's last sign of life, unless it is so long that there was none.

    One within a tenth of a lease of the last changes nothing: a thousand workers would wait for each other at the row.
    """
    gap = database_now() - StudyRow.last_seen
    transaction.execute(
        update(StudyRow)
        .where(study.row, func.abs(func.coalesce(gap, lease)) >= lease / 10)
        .values(
            active_seconds=StudyRow.active_seconds + case((func.coalesce(gap, lease) < lease, gap), else_=0.0),
            last_seen=database_now(),
        )
    )


def out_of_time(transaction: Transaction, study: StudyKey) -> bool:
    """Whether the study's hours are used up."""
    within = transaction.execute(select(StudyRow.study_id).where(study.row, within_hours()))
    return within.one_or_none() is None


def request_stop(transaction: Transaction, study: StudyKey) -> None:
    """Asks the workers that are there now to leave."""
    transaction.execute(update(StudyRow).where(study.row).values(stopped=database_now()))


def is_stopped(transaction: Transaction, study: StudyKey, *, since: float) -> bool:
    """Whether the workers that were there at this time were asked to leave."""
    asked = select(StudyRow.study_id).where(study.row, StudyRow.stopped >= since)
    return transaction.execute(asked).first() is not None
