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
they share a transaction with Optuna's own writes. search.storage.study_ledger and search.storage.hold are the callers;
search.storage.study_rows has the statements on the studies' rows. Leases use the database's clock.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import CursorResult, case, delete, func, insert, literal_column, or_, select, update

from search.storage.study_rows import StudyKey, Transaction, within_hours
from search.storage.tables import StudyRow, TrialRow, database_now

LEASE_SECONDS = 30.0

#: A trial whose worker was lost this often is given up: it may be what kills them.
MAX_ATTEMPTS = 3

FinalState = Literal["complete", "pruned", "failed"]

#: What a worker may expect that found no trial: that another comes free, or why it may leave.
Outlook = Literal["open", "stopped", "over", "deleted"]

#: As the index says it: with parameters for the two states, SQLite would not know it again.
_is_open = TrialRow.state.in_((literal_column("'running'"), literal_column("'waiting'")))


def new_owner(worker: int) -> str:
    """A name for a worker, which no other ever had."""
    return f"{socket.gethostname()}:{worker}:{secrets.token_hex(3)}"


class LeaseLost(Exception):
    """Another worker holds the trial now: this one's write must not happen."""


@dataclass(frozen=True)
class Claim:
    """A trial as a worker took it: its own while the row still carries this token."""

    study: StudyKey
    trial_id: int
    number: int
    token: int
    attempts: int
    checkpoint: str | None


class Leftover(NamedTuple):
    """A trial whose checkpoints may still be there, with the token of whoever held it last."""

    trial_id: int
    number: int
    token: int


class Snapshot(NamedTuple):
    """The ledger of a study at one moment."""

    now: float  # by the database's clock
    trials: Sequence[Any]  # a row each, by number
    budget: int


def take_over(
    transaction: Transaction, study: StudyKey, owner: str, lease: float, *, lost_too: bool = True
) -> Claim | None:
    """Takes the oldest trial that was released or, if `lost_too`, whose lease ran out.

    A worker works on one trial at a time: one that it seems to hold already is a claim whose answer got lost.
    """
    lost = (TrialRow.state == "running") & (TrialRow.lease_until < database_now()) & (TrialRow.owner != owner)
    own = (TrialRow.state == "running") & (TrialRow.owner == owner)
    free = (
        select(TrialRow.trial_id)
        .where(
            TrialRow.study_id == study.study_id,
            _is_open,
            or_(TrialRow.state == "waiting", own, *([lost] if lost_too else [])),
            select(StudyRow.study_id).where(study.row, within_hours()).exists(),
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
    return None if taken is None else Claim(study, *taken)


def add_trial(
    transaction: Transaction, study: StudyKey, *, trial_id: int, number: int, owner: str, lease: float
) -> Claim:
    """Enters a new trial, held by its first worker."""
    transaction.execute(
        insert(TrialRow).values(
            trial_id=trial_id,
            study_id=study.study_id,
            number=number,
            state="running",
            owner=owner,
            lease_until=database_now() + lease,
            token=1,
            attempts=1,
        )
    )
    return Claim(study, trial_id=trial_id, number=number, token=1, attempts=1, checkpoint=None)


def fence(transaction: Transaction, claim: Claim, *, states: Sequence[str] = (), **values: Any) -> None:
    """Writes to the claim's row, which stays locked until the commit.

    Raises LeaseLost if another holds the trial, or if it is in none of the `states` (where any are given).
    """
    still = [TrialRow.state.in_(states)] if states else []
    written = transaction.execute(
        update(TrialRow)
        .where(TrialRow.trial_id == claim.trial_id, TrialRow.token == claim.token, claim.study.trials, *still)
        .values(**(values or {"token": claim.token}))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(written, CursorResult)
    if not written.rowcount:
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


def count_settled(transaction: Transaction, study: StudyKey, digest: str) -> int:
    """How many trials of the study have these parameters."""
    same = select(func.count()).where(study.trials, TrialRow.settings.startswith(f"{digest}:"))
    return transaction.execute(same).scalar_one()


def is_ended(transaction: Transaction, claim: Claim) -> bool:
    """Whether the claim's trial has ended, by whomever."""
    ended = select(TrialRow.trial_id).where(
        TrialRow.trial_id == claim.trial_id, claim.study.trials, TrialRow.state.in_(get_args(FinalState))
    )
    return transaction.execute(ended).first() is not None


def has_ended_any(transaction: Transaction, study: StudyKey, owner: str) -> bool:
    """Whether the worker has ended a trial of the study."""
    ended = TrialRow.state.in_(get_args(FinalState))
    own = select(TrialRow.trial_id).where(study.trials, TrialRow.owner == owner, ended)
    return transaction.execute(own.limit(1)).first() is not None


def expire(transaction: Transaction, study: StudyKey, owner: str) -> None:
    """Ends the leases of a worker that is known to be dead."""
    transaction.execute(
        update(TrialRow)
        .where(study.trials, TrialRow.owner == owner, TrialRow.state == "running")
        .values(lease_until=0.0)
        .execution_options(synchronize_session=False)
    )


def set_free(transaction: Transaction, study: StudyKey, owner: str | None) -> list[int]:
    """Lets trials wait whose worker was ended on purpose, or all lost ones (None); their IDs. No attempt failed."""
    which = TrialRow.lease_until < database_now() if owner is None else TrialRow.owner == owner
    running = select(TrialRow.trial_id).where(study.trials, TrialRow.state == "running", which)
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


def uncleared(transaction: Transaction, study: StudyKey, *, ended: bool = True) -> list[Leftover]:
    """The trials (`ended` ones, or all) whose checkpoints may still be there."""
    is_ended, is_entered = TrialRow.state.in_(get_args(FinalState)), TrialRow.checkpoint.is_not(None)
    # Of a trial that has not ended there may be one that its worker was killed before it could enter.
    left = select(TrialRow.trial_id, TrialRow.number, TrialRow.token).where(
        study.trials, is_ended & is_entered if ended else ~is_ended | is_entered
    )
    return [Leftover(*row) for row in transaction.execute(left)]


def clear(transaction: Transaction, study: StudyKey, trial_id: int) -> None:
    """Enters that a trial's checkpoints are gone."""
    transaction.execute(
        update(TrialRow)
        .where(TrialRow.trial_id == trial_id, study.trials)
        .values(checkpoint=None)
        .execution_options(synchronize_session=False)
    )


def unfinished(transaction: Transaction, study: StudyKey) -> bool:
    """Whether a trial of the study is still to be done, by whomever."""
    open_slots = select(StudyRow.study_id).where(study.row, StudyRow.handed_out < StudyRow.budget)
    # Slots first: one that is taken in between is a trial by then.
    return transaction.execute(open_slots).first() is not None or _has_open_trials(transaction, study)


def _has_open_trials(transaction: Transaction, study: StudyKey) -> bool:
    open_trials = select(TrialRow.trial_id).where(study.trials, _is_open)
    return transaction.execute(open_trials.limit(1)).first() is not None


def outlook(transaction: Transaction, study: StudyKey, *, since: float) -> Outlook:
    """What a worker may expect that was there at this time, and found no trial to work on: in two statements, since
    many ask while the last trials run."""
    asked = select(StudyRow.handed_out < StudyRow.budget, within_hours(), StudyRow.stopped).where(study.row)
    found = transaction.execute(asked).one_or_none()
    if found is None:
        return "deleted"
    has_slots, is_in_time, stopped = found
    # Slots first: one that is taken in between is a trial by then.
    if not is_in_time or not (has_slots or _has_open_trials(transaction, study)):
        return "over"
    return "open" if stopped is None or stopped < since else "stopped"


def progress(transaction: Transaction, study: StudyKey) -> tuple[int, frozenset[str | None]]:
    """How many trials have ended, and the checkpoints of the others: another value means that somebody got on."""
    ended = TrialRow.state.in_(get_args(FinalState))
    count = select(func.count()).where(study.trials, ended)
    others = select(TrialRow.checkpoint).where(study.trials, ~ended)
    return transaction.execute(count).scalar_one(), frozenset(transaction.execute(others).scalars())


def at_work(transaction: Transaction, study: StudyKey) -> list[str]:
    """The owners of the leases that have not run out."""
    held = select(TrialRow.owner).where(
        study.trials, TrialRow.state == "running", TrialRow.lease_until > database_now()
    )
    return [owner or "" for owner in transaction.execute(held).scalars()]


def snapshot(transaction: Transaction, study: StudyKey) -> Snapshot:
    """All trials as they stand, with what their workers said of themselves last."""
    columns = (
        TrialRow.number,
        TrialRow.state,
        TrialRow.owner,
        TrialRow.lease_until,
        TrialRow.attempts,
        TrialRow.reason,
        TrialRow.device,
        TrialRow.rate,
        TrialRow.memory,
    )
    now = transaction.execute(select(database_now())).scalar_one()
    trials = transaction.execute(select(*columns).where(study.trials).order_by(TrialRow.number)).all()
    return Snapshot(now, trials, transaction.execute(select(StudyRow.budget).where(study.row)).scalar_one())


def scores(transaction: Transaction, study: StudyKey, numbers: Collection[int] | None) -> dict[int, bytes]:
    """The validation clips' scores of the ended trials (or of these `numbers`), by number."""
    scored = select(TrialRow.number, TrialRow.scores).where(study.trials, TrialRow.scores.is_not(None))
    if numbers is not None:
        scored = scored.where(TrialRow.number.in_(numbers))
    return {number: blob for number, blob in transaction.execute(scored) if blob is not None}


def delete_study(transaction: Transaction, study_id: int) -> None:
    """Deletes what the two tables hold under a study's key."""
    for table in (TrialRow, StudyRow):
        transaction.execute(delete(table).where(table.study_id == study_id))
