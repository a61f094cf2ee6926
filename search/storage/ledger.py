"""The ledger: which worker holds which trial until when. A trial is leased to a worker, and outlives it.

Optuna's tables hold parameters and values. Tables of ours stand beside them in the same database:

    offkey_studies   the study file, the budget, how much of it was handed out, how long workers were at work
    offkey_trials    state, owner, lease, fencing token, checkpoint, attempts, and the validation clips' scores
    offkey_slots     the slots in which trials failed, and which ones
    offkey_retried   the trials that had ended and were put back

        (a slot of the budget) ──claim──► running ──finish──► complete | pruned | failed
                                           │   ▲
                     release, failure, end │   │ claim: token + 1
                              of the lease ▼   │
                                          waiting

Every function here runs one or a few statements on the caller's connection or session. The caller commits, so that
these statements share a transaction with Optuna's own writes. The callers are search.storage.study_ledger and
search.storage.hold; search.storage.study_rows has the statements on the studies' rows, search.storage.slots those on
the slots in which trials failed. Leases use the database's clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import CursorResult, Select, case, delete, func, select, update

from search.storage import slots
from search.storage.claims import Claim, LeaseLost, is_open, others_at_work
from search.storage.dialects import insert_of
from search.storage.lease_rules import KILLED_FOR_MEMORY, MOST_FAILURES
from search.storage.study_rows import StudyKey, Transaction, has_slots, seconds_left, within_hours
from search.storage.tables import RetriedRow, SlotRow, StudyRow, TrialRow, database_now, is_live

#: A trial rests so many times as long after its second failure: a fault that lasts for a minute passes meanwhile.
_LONGER_REST = 4

FinalState = Literal["complete", "pruned", "failed"]

#: What awaits a worker that got no trial: another trial may come free ("open"), or the reason to leave. "too late": the
#: budget has trials left, but none is expected to end within what is left of the study's hours.
Outlook = Literal["open", "stopped", "over", "too late", "deleted"]


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


def fail(transaction: Transaction, claim: Claim, reason: str, *, lease: float, of_a_place: bool = False) -> None:
    """Gives a trial back that its worker failed at: other tries tell whether the trial or the slot is at fault.

    lease      : for so many seconds it is left to others (search.storage.claims); after another failure for longer
    of_a_place : it was an error of a disk, a network or the recordings, which never counts against the trial

    Neither do failures in a slot in which different trials fail, one after the other, while others are at work: those
    that were counted before this showed are taken back.
    """
    slot = slots.slot_of(claim.owner)
    is_memory = reason.startswith(KILLED_FOR_MEMORY)  # the trial needs too much
    run = () if is_memory else slots.run_of(transaction, claim.study, slot, trial=claim.number)
    tells_against_slot = len(set(run)) > 1 and others_at_work(transaction, claim.study, slot)
    if tells_against_slot and len(set(run[:-1])) == 1:
        _take_back(transaction, claim.study, number=run[0], failures=len(run) - 1)
    counts = 0 if of_a_place or tells_against_slot else 1
    _, failed_on, before = last_failure(transaction, claim)
    rest = lease * _LONGER_REST ** min(before, MOST_FAILURES - 1)
    fence(
        transaction,
        claim,
        states=("running",),
        state="waiting",
        owner=None,
        lease_until=database_now() + rest,
        attempts=TrialRow.attempts + counts,
        failures=TrialRow.failures + counts,
        failed_on=json.dumps(sorted({*failed_on, slots.host_of(claim.owner)})),
        of_a_place=of_a_place,
        reason=reason,
    )
    if not is_memory:
        slots.note_failure(transaction, claim.study, slot, run=run, reason=reason)


def _take_back(transaction: Transaction, study: StudyKey, *, number: int, failures: int) -> None:
    """Counts so many failures of a trial no longer, if it has not ended."""
    left, tries = TrialRow.failures - failures, TrialRow.attempts - failures
    transaction.execute(
        update(TrialRow)
        .where(study.trials, TrialRow.number == number, is_open)
        .values(failures=case((left > 0, left), else_=0), attempts=case((tries > 1, tries), else_=1))
        .execution_options(synchronize_session=False)
    )


def last_failure(transaction: Transaction, claim: Claim) -> tuple[str | None, list[str], int]:
    """Why the trial's last worker failed, if one did, the hosts on which workers failed at it, and how many."""
    failures = select(TrialRow.reason, TrialRow.failed_on, TrialRow.failures).where(
        TrialRow.trial_id == claim.trial_id, claim.study.trials
    )
    row = transaction.execute(failures).one_or_none()
    return (None, [], 0) if row is None else (row.reason, json.loads(row.failed_on or "[]"), row.failures)


def settle(transaction: Transaction, claim: Claim, digest: str, *, first: int) -> int:
    """Enters a trial's parameters by their digest, as the n-th trial of the study that has them. Returns n, from 0.

    The database never lets two trials be the n-th of the same parameters: it raises IntegrityError for the later one.
    A trial that was entered before keeps its number.
    """
    entered = transaction.execute(_settings_of(claim)).scalar_one_or_none()
    if entered is not None and entered.startswith(f"{digest}:"):
        return int(entered.rpartition(":")[2])
    fence(transaction, claim, settings=f"{digest}:{first}")
    return first


def is_settled(transaction: Transaction, claim: Claim) -> bool:
    """Whether the trial has all its parameters."""
    return transaction.execute(_settings_of(claim)).scalar_one_or_none() is not None


def _settings_of(claim: Claim) -> Select[str | None]:
    return select(TrialRow.settings).where(TrialRow.trial_id == claim.trial_id, claim.study.trials)


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
    which = ~is_live(TrialRow) if owner is None else TrialRow.owner == owner
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


def failed(transaction: Transaction, study: StudyKey) -> dict[int, int]:
    """The IDs of the trials that failed, by number."""
    of_study = select(TrialRow.number, TrialRow.trial_id).where(study.trials, TrialRow.state == "failed")
    return {row.number: row.trial_id for row in transaction.execute(of_study)}


def put_back(transaction: Transaction, study: StudyKey, trial_ids: Sequence[int]) -> None:
    """Lets failed trials wait for a worker, as if nobody had tried them, and enters that they were put back.

    The caller has locked the study's row.
    """
    transaction.execute(
        update(TrialRow)
        .where(study.trials, TrialRow.trial_id.in_(trial_ids))
        .values(
            state="waiting",
            owner=None,
            lease_until=None,
            token=TrialRow.token + 1,  # a worker whose answer was lost writes no more
            attempts=1,
            failures=0,
            failed_on=None,
            of_a_place=False,
            reason=None,
            checkpoint=None,
            scores=None,
        )
        .execution_options(synchronize_session=False)
    )
    again = [{"trial_id": trial_id, "study_id": study.study_id} for trial_id in trial_ids]
    if again:
        transaction.execute(insert_of(transaction, RetriedRow).values(again).on_conflict_do_nothing())


def uncleared(transaction: Transaction, study: StudyKey, *, ended: bool = True) -> list[Leftover]:
    """The trials (only those that `ended`, or all) whose checkpoints may still be there."""
    is_ended, is_entered = TrialRow.state.in_(get_args(FinalState)), TrialRow.checkpoint.is_not(None)
    # A trial that has not ended may have a checkpoint that its worker wrote and was killed before entering.
    left = select(TrialRow.trial_id, TrialRow.number, TrialRow.token).where(
        study.trials, is_ended & is_entered if ended else ~is_ended | is_entered
    )
    return [Leftover(*row) for row in transaction.execute(left)]


def clear(transaction: Transaction, study: StudyKey, trial_id: int) -> None:
    """Enters that the checkpoints of a trial that has ended are gone."""
    transaction.execute(
        update(TrialRow)
        .where(TrialRow.trial_id == trial_id, study.trials, TrialRow.state.in_(get_args(FinalState)))
        .values(checkpoint=None)
        .execution_options(synchronize_session=False)
    )


def unfinished(transaction: Transaction, study: StudyKey) -> bool:
    """Whether any trial of the study has not ended, or further ones may begin."""
    open_slots = select(StudyRow.study_id).where(study.row, has_slots())
    # Slots first: a slot that is taken between the two statements is a trial by the second one.
    return transaction.execute(open_slots).first() is not None or _has_open_trials(transaction, study)


def _has_open_trials(transaction: Transaction, study: StudyKey) -> bool:
    open_trials = select(TrialRow.trial_id).where(study.trials, is_open)
    return transaction.execute(open_trials.limit(1)).first() is not None


def outlook(transaction: Transaction, study: StudyKey, *, stops_before: int, fits: Callable[[float], bool]) -> Outlook:
    """What awaits a worker that got no trial, and came when there had been `stops_before` requests to leave.

    `fits` says whether a new trial is expected to end within so many seconds; it is asked if the study has hours.
    Takes at most two statements beside: many workers ask while the last trials run.
    """
    columns = has_slots(), within_hours(), StudyRow.stops, seconds_left()
    query = select(*columns).where(study.row)
    row = transaction.execute(query).one_or_none()
    if row is None:
        return "deleted"
    slots_left, is_in_time, stops, seconds = row
    may_begin = slots_left and (seconds is None or fits(seconds))
    # Slots first: a slot that is taken between the two statements is a trial by the second one.
    if not is_in_time or not (may_begin or _has_open_trials(transaction, study)):
        return "too late" if is_in_time and slots_left else "over"
    return "open" if stops <= stops_before else "stopped"


def progress(transaction: Transaction, study: StudyKey) -> tuple[int, frozenset[str | None]]:
    """How many trials have ended, and the checkpoints of the others. Another value means that a trial advanced."""
    ended = TrialRow.state.in_(get_args(FinalState))
    count = select(func.count()).where(study.trials, ended)
    others = select(TrialRow.checkpoint).where(study.trials, ~ended)
    return transaction.execute(count).scalar_one(), frozenset(transaction.execute(others).scalars())


def at_work(transaction: Transaction, study: StudyKey) -> list[str]:
    """The owners of the leases that have not run out."""
    held = select(TrialRow.owner).where(study.trials, TrialRow.state == "running", is_live(TrialRow))
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
    """Deletes a study's rows from all tables."""
    uid = select(StudyRow.uid).where(StudyRow.study_id == study_id)
    transaction.execute(delete(SlotRow).where(SlotRow.uid.in_(uid)))
    for table in (RetriedRow, TrialRow, StudyRow):
        transaction.execute(delete(table).where(table.study_id == study_id))
