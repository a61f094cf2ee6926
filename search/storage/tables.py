"""Offkey's own tables, beside those of Optuna in the same database.

    offkey_studies   the study file, the budget, how much of it was handed out, how long workers were at work
    offkey_trials    state, owner, lease, fencing token, checkpoint, attempts, and the validation clips' scores
    offkey_slots     the workers' places in which a trial failed, with what has failed there

A change to them comes with a migration (search.storage.migrations).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Index,
    LargeBinary,
    String,
    Text,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler


class Base(DeclarativeBase):
    """Offkey's own tables."""


class StudyRow(Base):
    """One study: its document, identity and budget."""

    __tablename__ = "offkey_studies"

    study_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uid: Mapped[str] = mapped_column(String(32))  # random: no two studies share it, whatever their names
    document: Mapped[str] = mapped_column(Text)  # JSON: the study file's tree
    identity: Mapped[str] = mapped_column(Text)  # JSON: what workers must agree on
    truth: Mapped[str] = mapped_column(Text)  # JSON: IDs and labels of the validation clips
    budget: Mapped[int]  # trials in all
    handed_out: Mapped[int] = mapped_column(default=0)  # slots of the budget that became trials
    hours: Mapped[float | None]
    active_seconds: Mapped[float] = mapped_column(default=0.0)  # with at least one worker
    last_seen: Mapped[float | None]  # seconds since 1970 by the database's clock: a worker's last sign of life
    artifacts: Mapped[str | None] = mapped_column(Text)  # folder or bucket that the hosts share
    enough: Mapped[str | None] = mapped_column(Text)  # JSON: why it has ended itself; NULL while it has not
    stops: Mapped[int] = mapped_column(default=0)  # how often its workers were asked to leave
    stopped: Mapped[float | None]  # when they were last asked to, for workers of earlier versions
    first_name: Mapped[str | None] = mapped_column(String(512))  # if it was renamed: Hyperband's brackets go by it


class TrialRow(Base):
    """One trial of the budget."""

    __tablename__ = "offkey_trials"
    __table_args__ = (
        Index("offkey_trials_settings", "study_id", "settings", unique=True),
        # Every claim searches for the first open trial: a study of ten thousand trials has a few.
        Index(
            "offkey_trials_open",
            "study_id",
            "number",
            sqlite_where=text("state IN ('running', 'waiting')"),
            postgresql_where=text("state IN ('running', 'waiting')"),
        ),
    )

    trial_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    study_id: Mapped[int] = mapped_column(index=True)
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))  # running, waiting, or a FinalState
    owner: Mapped[str | None] = mapped_column(String(256))  # see new_owner
    lease_until: Mapped[float | None]  # seconds since 1970 by the database's clock; after a failure, of its rest
    token: Mapped[int] = mapped_column(default=1)
    attempts: Mapped[int] = mapped_column(default=1)  # workers since the last checkpoint, this one included
    failures: Mapped[int] = mapped_column(default=0)  # of them, those that failed: were not just killed, or cut off
    failed_on: Mapped[str | None] = mapped_column(Text)  # JSON: the hosts of those, sorted
    of_a_place: Mapped[bool] = mapped_column(default=False)  # whether the last of them met a place's error
    checkpoint: Mapped[str | None] = mapped_column(String(256))  # name@epoch/steps: where the next worker goes on
    settings: Mapped[str | None] = mapped_column(String(64))  # digest:n, the n-th trial with these parameters, from 0
    reason: Mapped[str | None] = mapped_column(Text)
    device: Mapped[str | None] = mapped_column(String(64))
    rate: Mapped[float | None]  # batches a second
    memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes, on the device
    scores: Mapped[bytes | None] = mapped_column(LargeBinary)  # float64 of the validation clips, last epoch


class RetriedRow(Base):
    """A trial that had ended and was put back: whoever keeps ended trials reads it again."""

    __tablename__ = "offkey_retried"

    trial_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    study_id: Mapped[int] = mapped_column(index=True)


#: That no trial has failed in a slot since its last epoch.
NONE_IN_A_ROW = "[]"


class SlotRow(Base):
    """A slot in which a trial failed: one worker's place on a host, whose processes follow one another."""

    __tablename__ = "offkey_slots"

    uid: Mapped[str] = mapped_column(String(32), primary_key=True)  # of the study
    slot: Mapped[str] = mapped_column(String(256), primary_key=True)  # see slot_of
    failures: Mapped[int]  # trials that failed there, each as often as it did
    in_a_row: Mapped[str] = mapped_column(Text)  # JSON: the numbers of those since the slot's last epoch
    reason: Mapped[str] = mapped_column(Text)  # of the last one


class database_now(ColumnElement[float]):
    """Seconds since 1970 by the database's clock."""

    inherit_cache = True
    type = Float()


#: No lease ends so many seconds from now, unless the database's clock was set back since it was renewed.
FAR = 600.0


def is_live(row: type[TrialRow]) -> ColumnElement[bool]:
    """Whether a trial's lease has not run out."""
    return (row.lease_until > database_now()) & (row.lease_until < database_now() + FAR)


@compiles(database_now, "sqlite")
def _now_in_sqlite(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _now_in_postgresql(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
