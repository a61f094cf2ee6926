"""The ledger: which worker holds which trial until when. A trial is durable work, leased to a worker.

Optuna's tables hold parameters and values. Beside them, in the same database, two tables of ours:

    offkey_studies   what is searched, the budget, how much of it was handed out, how long workers were there
    offkey_trials    state, owner, lease, fencing token, checkpoint, attempts, and the validation clips' scores

        (a slot of the budget) ──claim──► running ──finish──► complete | pruned | failed
                                           │   ▲
                            release, lease │   │ claim: token + 1
                               run out     ▼   │
                                          waiting

Every function here is one or a few statements on a connection or session of the caller's, who commits: so that
they share a transaction with Optuna's own writes (search.storage.study_storage). Leases use the database's clock.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    case,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from search.storage.tables import StudyRow, TrialRow, database_now

LEASE_SECONDS = 30.0

#: A trial whose worker was lost this often is given up: it may be what kills them.
MAX_ATTEMPTS = 3

FinalState = Literal["complete", "pruned", "failed"]

#: What a worker may expect that found no trial: that another comes free, or why it may leave.
Outlook = Literal["open", "stopped", "over", "deleted"]

Transaction = Connection | Session


#: As the index says it: with parameters for the two states, SQLite would not know it again.
_is_open = TrialRow.state.in_((literal_column("'running'"), literal_column("'waiting'")))


def new_owner(worker: int) -> str:
    """A name for a worker, which no other ever had."""
    return f"{socket.gethostname()}:{worker}:{secrets.token_hex(3)}"


class LeaseLost(Exception):
    """Another worker holds the trial now: this one's write must not happen."""


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a trial: valid while the row still carries this token."""

    trial_id: int
    number: int
    token: int
    attempts: int
    checkpoint: str | None


def _within_hours() -> ColumnElement[bool]:
    return or_(StudyRow.hours.is_(None), StudyRow.active_seconds < StudyRow.hours * 3600)


def take_over(
    transaction: Transaction, study_id: int, owner: str, lease: float, *, lost_too: bool = True
) -> Claim | None:
    """Takes the oldest trial that was released or, if `lost_too`, whose lease ran out.

    A worker works on one trial at a time: one that it seems to hold already is a claim whose answer got lost.
    """
    lost = (TrialRow.state == "running") & (TrialRow.lease_until < database_now()) & (TrialRow.owner != owner)
    own = (TrialRow.state == "running") & (TrialRow.owner == owner)
    free = (
        select(TrialRow.trial_id)
        .where(
            TrialRow.study_id == study_id,
            _is_open,
            or_(TrialRow.state == "waiting", own, *([lost] if lost_too else [])),
            select(StudyRow.study_id).where(StudyRow.study_id == study_id, _within_hours()).exists(),
        )
        .order_by(TrialRow.number)
        .limit(1)
        .with_for_update(skip_locked=True)  # PostgreSQL; SQLite has one writer at a time
    )
    taken = transaction.execute(
        update(TrialRow)
        .where(TrialRow.trial_id == free.scalar_subquery())
        .values(
            state="running",
            owner=owner,
            lease_until=database_now() + lease,
            token=TrialRow.token + 1,
            attempts=TrialRow.attempts + case((lost, 1), else_=0),
            device=None,
            rate=None,
            memory=None,
        )
        .returning(TrialRow.trial_id, TrialRow.number, TrialRow.token, TrialRow.attempts, TrialRow.checkpoint)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if taken is None else Claim(*taken)


def take_slot(transaction: Transaction, study_id: int) -> bool:
    """Takes one more slot of the budget, if there is one; the study's row stays locked until the commit."""
    return _rows(
        transaction.execute(
            update(StudyRow)
            .where(StudyRow.study_id == study_id, StudyRow.handed_out < StudyRow.budget, _within_hours())
            .values(handed_out=StudyRow.handed_out + 1)
            .execution_options(synchronize_session=False)
        )
    )


def add_trial(
    transaction: Transaction, study_id: int, *, trial_id: int, number: int, owner: str, lease: float
) -> Claim:
    """Enters a new trial, held by its first worker."""
    transaction.execute(
        insert(TrialRow).values(
            trial_id=trial_id,
            study_id=study_id,
            number=number,
            state="running",
            owner=owner,
            lease_until=database_now() + lease,
            token=1,
            attempts=1,
        )
    )
    return Claim(trial_id=trial_id, number=number, token=1, attempts=1, checkpoint=None)


def fence(transaction: Transaction, claim: Claim, *, states: Sequence[str] = (), **values: Any) -> None:
    """Writes to the claim's row, which stays locked until the commit.

    Raises LeaseLost if another holds the trial, or if it is in none of the `states` (where any are given).
    """
    still = [TrialRow.state.in_(states)] if states else []
    written = transaction.execute(
        update(TrialRow)
        .where(TrialRow.trial_id == claim.trial_id, TrialRow.token == claim.token, *still)
        .values(**(values or {"token": claim.token}))
        .execution_options(synchronize_session=False)
    )
    if not _rows(written):
        raise LeaseLost(f"trial {claim.number} was taken over by another worker")


def renew(transaction: Transaction, claim: Claim, lease: float, **values: Any) -> None:
    """Extends a lease, and writes what the worker says of itself. Raises LeaseLost if another holds the trial."""
    fence(transaction, claim, states=("running",), lease_until=database_now() + lease, **values)


def release(transaction: Transaction, claim: Claim) -> None:
    """Gives a trial back unfinished: the next worker goes on with it. Not an attempt that failed."""
    fence(transaction, claim, states=("running", "waiting"), state="waiting", owner=None, lease_until=None)


def abandon(transaction: Transaction, claim: Claim, reason: str) -> None:
    """Ends the lease of a worker that cannot go on, with why. Another attempt is worth while."""
    fence(transaction, claim, states=("running",), lease_until=0.0, reason=reason)


def settle(transaction: Transaction, claim: Claim, digest: str, *, first: int) -> int:
    """Enters a trial's parameters by their digest, as the n-th trial of the study that has them; returns n, from 0.

    The database lets no two trials be the n-th of the same parameters, however they race: it raises IntegrityError for
    the later one. A trial that was entered before stays what it was.
    """
    entered = transaction.execute(select(TrialRow.settings).where(TrialRow.trial_id == claim.trial_id)).scalar_one()
    if entered is not None and entered.startswith(f"{digest}:"):
        return int(entered.rpartition(":")[2])
    fence(transaction, claim, settings=f"{digest}:{first}")
    return first


def is_settled(transaction: Transaction, claim: Claim) -> bool:
    """Whether the trial has all its parameters."""
    entered = select(TrialRow.settings).where(TrialRow.trial_id == claim.trial_id)
    return transaction.execute(entered).scalar_one() is not None


def count_settled(transaction: Transaction, study_id: int, digest: str) -> int:
    """How many trials of the study have these parameters."""
    same = select(func.count()).where(TrialRow.study_id == study_id, TrialRow.settings.startswith(f"{digest}:"))
    return transaction.execute(same).scalar_one()


def is_ended(transaction: Transaction, claim: Claim) -> bool:
    """Whether the claim's trial has ended, by whomever."""
    ended = select(TrialRow.trial_id).where(
        TrialRow.trial_id == claim.trial_id, TrialRow.state.in_(get_args(FinalState))
    )
    return transaction.execute(ended).first() is not None


def has_ended_any(transaction: Transaction, study_id: int, owner: str) -> bool:
    """Whether the worker has ended a trial of the study."""
    ended = TrialRow.state.in_(get_args(FinalState))
    own = select(TrialRow.trial_id).where(TrialRow.study_id == study_id, TrialRow.owner == owner, ended)
    return transaction.execute(own.limit(1)).first() is not None


def expire(transaction: Transaction, study_id: int, owner: str) -> None:
    """Ends the leases of a worker that is known to be dead."""
    transaction.execute(
        update(TrialRow)
        .where(TrialRow.study_id == study_id, TrialRow.owner == owner, TrialRow.state == "running")
        .values(lease_until=0.0)
    )


def set_free(transaction: Transaction, study_id: int, owner: str | None) -> list[int]:
    """Lets trials wait whose worker was ended on purpose, or all lost ones (None); their IDs. No attempt failed."""
    which = TrialRow.lease_until < database_now() if owner is None else TrialRow.owner == owner
    running = select(TrialRow.trial_id).where(TrialRow.study_id == study_id, TrialRow.state == "running", which)
    # Of lost ones, those that another frees at this moment are its own: two that waited for each other would be undone.
    held = running.order_by(TrialRow.trial_id).with_for_update(skip_locked=owner is None)
    freed = transaction.execute(
        update(TrialRow)
        .where(TrialRow.trial_id.in_(held))
        .values(state="waiting", owner=None, lease_until=None)
        .returning(TrialRow.trial_id)
        .execution_options(synchronize_session=False)
    )
    return list(freed.scalars())


def uncleared(transaction: Transaction, study_id: int, *, ended: bool = True) -> list[Claim]:
    """The last claims of trials (`ended` ones, or all) whose checkpoints may still be there."""
    columns = (TrialRow.trial_id, TrialRow.number, TrialRow.token, TrialRow.attempts, TrialRow.checkpoint)
    is_ended, is_entered = TrialRow.state.in_(get_args(FinalState)), TrialRow.checkpoint.is_not(None)
    # Of a trial that has not ended there may be one that its worker was killed before it could enter.
    left = select(*columns).where(
        TrialRow.study_id == study_id, is_ended & is_entered if ended else ~is_ended | is_entered
    )
    return [Claim(*row) for row in transaction.execute(left)]


def clear(transaction: Transaction, claim: Claim) -> None:
    """Enters that a trial's checkpoints are gone."""
    transaction.execute(update(TrialRow).where(TrialRow.trial_id == claim.trial_id).values(checkpoint=None))


def sign_of_life(transaction: Transaction, study_id: int, lease: float) -> None:
    """Adds the time since any worker's last sign of life, unless it is so long that there was none.

    One within a tenth of a lease of the last changes nothing: a thousand workers would wait for each other at the row.
    """
    gap = database_now() - StudyRow.last_seen
    transaction.execute(
        update(StudyRow)
        .where(StudyRow.study_id == study_id, func.abs(func.coalesce(gap, lease)) >= lease / 10)
        .values(
            active_seconds=StudyRow.active_seconds + case((func.coalesce(gap, lease) < lease, gap), else_=0.0),
            last_seen=database_now(),
        )
    )


def unfinished(transaction: Transaction, study_id: int) -> bool:
    """Whether a trial of the study is still to be done, by whomever."""
    open_slots = select(StudyRow.study_id).where(StudyRow.study_id == study_id, StudyRow.handed_out < StudyRow.budget)
    # Slots first: one that is taken in between is a trial by then.
    return transaction.execute(open_slots).first() is not None or _has_open_trials(transaction, study_id)


def _has_open_trials(transaction: Transaction, study_id: int) -> bool:
    open_trials = select(TrialRow.trial_id).where(TrialRow.study_id == study_id, _is_open)
    return transaction.execute(open_trials.limit(1)).first() is not None


def outlook(transaction: Transaction, study_id: int, *, since: float) -> Outlook:
    """What a worker may expect that was there at this time, and found no trial to work on: in two statements, since
    many ask while the last trials run."""
    asked = select(StudyRow.handed_out < StudyRow.budget, _within_hours(), StudyRow.stopped)
    study = transaction.execute(asked.where(StudyRow.study_id == study_id)).one_or_none()
    if study is None:
        return "deleted"
    has_slots, is_in_time, stopped = study
    # Slots first: one that is taken in between is a trial by then.
    if not is_in_time or not (has_slots or _has_open_trials(transaction, study_id)):
        return "over"
    return "open" if stopped is None or stopped < since else "stopped"


def progress(transaction: Transaction, study_id: int) -> tuple[int, frozenset[str | None]]:
    """How many trials have ended, and the checkpoints of the others: another value means that somebody got on."""
    ended = TrialRow.state.in_(get_args(FinalState))
    count = select(func.count()).where(TrialRow.study_id == study_id, ended)
    others = select(TrialRow.checkpoint).where(TrialRow.study_id == study_id, ~ended)
    return transaction.execute(count).scalar_one(), frozenset(transaction.execute(others).scalars())


def delete_study(transaction: Transaction, study_id: int) -> None:
    """Deletes the study's rows."""
    for table in (TrialRow, StudyRow):
        transaction.execute(delete(table).where(table.study_id == study_id))


def exists(transaction: Transaction, study_id: int) -> bool:
    """Whether the study is still there."""
    return transaction.execute(select(StudyRow.study_id).where(StudyRow.study_id == study_id)).first() is not None


def now(transaction: Transaction) -> float:
    """Seconds since 1970 by the database's clock."""
    return transaction.execute(select(database_now())).scalar_one()


def request_stop(transaction: Transaction, study_id: int) -> None:
    """Asks the workers that are there now to leave."""
    transaction.execute(update(StudyRow).where(StudyRow.study_id == study_id).values(stopped=database_now()))


def is_stopped(transaction: Transaction, study_id: int, *, since: float) -> bool:
    """Whether the workers that were there at this time were asked to leave."""
    asked = select(StudyRow.study_id).where(StudyRow.study_id == study_id, StudyRow.stopped >= since)
    return transaction.execute(asked).first() is not None


def admits(transaction: Transaction, study_id: int, *, since: float | None) -> bool:
    """Whether the study is there, and the workers that were there at this time were not asked to leave.

    Until the commit nobody can keep claims out; who does so already is waited for.
    """
    # The weakest lock, which keeps out FOR UPDATE alone: other claims take and write the row meanwhile. A stronger one
    # would be shared by two that then both want to write, each waiting for the other.
    row = select(StudyRow.stopped).where(StudyRow.study_id == study_id).with_for_update(read=True, key_share=True)
    found = transaction.execute(row).one_or_none()
    return found is not None and (since is None or found.stopped is None or found.stopped < since)


def keep_claims_out(transaction: Transaction, study_id: int) -> None:
    """Waits for the claims that are being made, and keeps later ones waiting until the commit.

    PostgreSQL's strongest lock of a row, which no write of ours takes. It does not queue: while claims come without a
    gap it waits for one. In SQLite it is the first write that keeps everybody out.
    """
    transaction.execute(select(StudyRow.study_id).where(StudyRow.study_id == study_id).with_for_update())


def at_work(transaction: Transaction, study_id: int) -> list[str]:
    """The owners of the leases that have not run out."""
    held = select(TrialRow.owner).where(
        TrialRow.study_id == study_id, TrialRow.state == "running", TrialRow.lease_until > database_now()
    )
    return [owner or "" for owner in transaction.execute(held).scalars()]


def out_of_time(transaction: Transaction, study_id: int) -> bool:
    """Whether the study's hours are used up."""
    within = transaction.execute(select(StudyRow.study_id).where(StudyRow.study_id == study_id, _within_hours()))
    return within.one_or_none() is None


def _rows(result: Any) -> bool:
    assert isinstance(result, CursorResult)
    return bool(result.rowcount)
