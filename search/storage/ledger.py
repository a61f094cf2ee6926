"""The ledger: which worker holds which trial until when. A trial is leased to a worker, and outlives it.

Optuna's tables hold parameters and values. Two tables of ours stand beside them in the same database:

    offkey_studies   the study file, the budget, how much of it was handed out, how long workers were at work
    offkey_trials    state, owner, lease, fencing token, checkpoint, attempts, and the validation clips' scores

        (a slot of the budget) ──claim──► running ──finish──► complete | pruned | failed
                                           │   ▲
                            release, lease │   │ claim: token + 1
                               run out     ▼   │
                                          waiting

Every function here runs one or a few statements on the caller's connection or session. The caller commits, so that
these statements share a transaction with Optuna's own writes. The callers are search.storage.study_ledger and
search.storage.hold; search.storage.study_rows has the statements on the studies' rows. Leases use the database's clock.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import CursorResult, case, delete, func, insert, literal_column, or_, select, update

from search.storage.study_rows import Remaining, StudyKey, Transaction, has_slots, seconds_left, within_hours
from search.storage.tables import StudyRow, TrialRow, database_now

FinalState = Literal["complete", "pruned", "failed"]

#: What awaits a worker that got no trial: another trial may come free ("open"), or the reason to leave. "too late": the
#: budget has trials left, but none is expected to end within what is left of the study's hours.
Outlook = Literal["open", "stopped", "over", "too late", "deleted"]

#: Literals, as in the index `offkey_trials_open`: SQLite would not use that index if the states were parameters.
_is_open = TrialRow.state.in_((literal_column("'running'"), literal_column("'waiting'")))


def new_owner(worker: int) -> str:
    """A name for a worker that no other worker ever had."""
    return f"{socket.gethostname()}:{worker}:{secrets.token_hex(3)}"


class LeaseLost(Exception):
    """Another worker holds the trial now: this worker's write must not happen."""


@dataclass(frozen=True)
class Claim:
    """A claimed trial: it belongs to the worker as long as its row carries this token."""

    study: StudyKey
    trial_id: int
    number: int
    token: int
    attempts: int
    checkpoint: str | None
    seconds: float = 0.0  # that earlier workers worked on the trial, as far as is known
    remaining: Remaining | None = None  # if the trial begins with this claim


class Leftover(NamedTuple):
    """A trial whose checkpoints may still be there, with the token of its last holder."""

    trial_id: int
    number: int
    token: int


class Snapshot(NamedTuple):
    """The ledger of a study at one moment."""

    now: float  # by the database's clock
    trials: Sequence[Any]  # a row each, by number
    budget: int
    enough: str | None  # JSON: why the study has ended itself; None while it has not


def take_over(
    transaction: Transaction, study: StudyKey, owner: str, lease: float, *, lost_too: bool = True
) -> Claim | None:
    """Takes the oldest trial that was released or, if `lost_too`, whose lease ran out.

    A worker works on one trial at a time. If it already holds one, the answer to its claim was lost: it gets that
    trial again.
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
    row = transaction.execute(
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
    return None if row is None else Claim(study, *row)


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
    """Writes `values` to the claim's row, which stays locked until the commit.

    Raises LeaseLost if another worker holds the trial, or if `states` are given and the trial is in none of them.
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
    """Extends a lease, and writes the worker's vitals. Raises LeaseLost if another worker holds the trial."""
    fence(transaction, claim, states=("running",), lease_until=database_now() + lease, **values)


def release(transaction: Transaction, claim: Claim) -> None:
    """Gives a trial back unfinished: the next worker goes on with it. This does not count as a failed attempt."""
    fence(transaction, claim, states=("running", "waiting"), state="waiting", owner=None, lease_until=None)


def abandon(transaction: Transaction, claim: Claim, reason: str) -> None:
    """Ends the lease of a worker that cannot go on and enters the reason; another worker may try the trial."""
    fence(transaction, claim, states=("running",), lease_until=0.0, reason=reason)


def settle(transaction: Transaction, claim: Claim, digest: str, *, first: int) -> int:
    """Enters a trial's parameters by their digest, as the n-th trial of the study that has them. Returns n, from 0.

    The database never lets two trials be the n-th of the same parameters: it raises IntegrityError for the later one.
    A trial that was entered before keeps its number.
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
    """Whether the claim's trial has ended, whichever worker ended it."""
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
    """Sets to waiting the trials of an owner that was ended on purpose, or all whose lease ran out (None).

    Returns their IDs. Counts no failed attempt.
    """
    which = TrialRow.lease_until < database_now() if owner is None else TrialRow.owner == owner
    running = select(TrialRow.trial_id).where(study.trials, TrialRow.state == "running", which)
    # Among lost trials, skips those that another transaction frees: two that wait for each other would deadlock.
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
    """The trials (only those that `ended`, or all) whose checkpoints may still be there."""
    is_ended, is_entered = TrialRow.state.in_(get_args(FinalState)), TrialRow.checkpoint.is_not(None)
    # A trial that has not ended may have a checkpoint that its worker wrote and was killed before entering.
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
    """Whether any trial of the study has not ended, or further ones may begin."""
    open_slots = select(StudyRow.study_id).where(study.row, has_slots())
    # Slots first: a slot that is taken between the two statements is a trial by the second one.
    return transaction.execute(open_slots).first() is not None or _has_open_trials(transaction, study)


def _has_open_trials(transaction: Transaction, study: StudyKey) -> bool:
    open_trials = select(TrialRow.trial_id).where(study.trials, _is_open)
    return transaction.execute(open_trials.limit(1)).first() is not None


def outlook(transaction: Transaction, study: StudyKey, *, since: float, fits: Callable[[float], bool]) -> Outlook:
    """What awaits a worker that got no trial and has been there since `since`.

    `fits` says whether a new trial is expected to end within so many seconds; it is asked if the study has hours.
    Takes at most two statements beside: many workers ask while the last trials run.
    """
    columns = has_slots(), within_hours(), StudyRow.stopped, seconds_left()
    query = select(*columns).where(study.row)
    row = transaction.execute(query).one_or_none()
    if row is None:
        return "deleted"
    slots_left, is_in_time, stopped, seconds = row
    may_begin = slots_left and (seconds is None or fits(seconds))
    # Slots first: a slot that is taken between the two statements is a trial by the second one.
    if not is_in_time or not (may_begin or _has_open_trials(transaction, study)):
        return "too late" if is_in_time and slots_left else "over"
    return "open" if stopped is None or stopped < since else "stopped"


def progress(transaction: Transaction, study: StudyKey) -> tuple[int, frozenset[str | None]]:
    """How many trials have ended, and the checkpoints of the others. Another value means that a trial advanced."""
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
    """All trials as they stand, with the last vitals of their workers."""
    columns = (
        TrialRow.number,
        TrialRow.state,
        TrialRow.owner,
        TrialRow.lease_until,
        TrialRow.attempts,
        TrialRow.checkpoint,
        TrialRow.reason,
        TrialRow.device,
        TrialRow.rate,
        TrialRow.memory,
    )
    trials = transaction.execute(select(*columns).where(study.trials).order_by(TrialRow.number)).all()
    budget, enough = transaction.execute(select(StudyRow.budget, StudyRow.enough).where(study.row)).one()
    # Last: a lease that was renewed since an earlier `now` would seem longer than it is.
    return Snapshot(transaction.execute(select(database_now())).scalar_one(), trials, budget, enough)


def scores(transaction: Transaction, study: StudyKey, numbers: Collection[int] | None) -> dict[int, bytes]:
    """The validation clips' scores of the ended trials (or of these `numbers`), by number."""
    scored = select(TrialRow.number, TrialRow.scores).where(study.trials, TrialRow.scores.is_not(None))
    if numbers is not None:
        scored = scored.where(TrialRow.number.in_(numbers))
    return {number: blob for number, blob in transaction.execute(scored) if blob is not None}


def delete_study(transaction: Transaction, study_id: int) -> None:
    """Deletes a study's rows from both tables."""
    for table in (TrialRow, StudyRow):
        transaction.execute(delete(table).where(table.study_id == study_id))
