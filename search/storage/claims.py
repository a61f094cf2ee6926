"""Claims: which worker gets which trial, and who is to try a trial that failed.

Statements run in the caller's transaction, as in search.storage.ledger.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass

from sqlalchemy import ColumnElement, case, func, insert, literal_column, or_, select, update
from sqlalchemy.orm import aliased

from search.storage import slots
from search.storage.lease_rules import MOST_DIFFERENT, MOST_FAILURES
from search.storage.study_rows import Remaining, StudyKey, Transaction, has_slots, within_hours
from search.storage.tables import FAR, StudyRow, TrialRow, database_now, is_live

#: Literals, as in the index `offkey_trials_open`: SQLite would not use that index if the states were parameters.
is_open = TrialRow.state.in_((literal_column("'running'"), literal_column("'waiting'")))

#: The fields of a `Claim`, from `trial_id` to `checkpoint`.
_CLAIMED = TrialRow.trial_id, TrialRow.number, TrialRow.token, TrialRow.attempts, TrialRow.checkpoint


def host_name() -> str:
    """This host's name in the ledger: $OFFKEY_HOST where several containers are one host, for example a node's."""
    return os.environ.get("OFFKEY_HOST") or socket.gethostname()


def new_owner(slot: str) -> str:
    """A name for a worker that no other worker ever had; `slot` is its place on this host."""
    return f"{host_name()}:{slot}:{secrets.token_hex(3)}"


def own_slot(place: int | str) -> str:
    """A slot of this host, or of this container there: the `place`, a fleet's number or a device, stays when it is
    started again, so that what failed in it is remembered.
    """
    container = f"{socket.gethostname()}-" if os.environ.get("OFFKEY_HOST") else ""
    return f"{container}{place}"


class LeaseLost(Exception):
    """Another worker holds the trial now: this worker's write must not happen."""


@dataclass(frozen=True)
class Claim:
    """A claimed trial: it belongs to the worker as long as its row carries this token."""

    study: StudyKey
    owner: str  # of the worker
    trial_id: int
    number: int
    token: int
    attempts: int  # workers since the last checkpoint, this one included
    checkpoint: str | None
    failures: int = 0  # of the workers before, those that failed
    may_be_at_fault: bool = False  # whether trials failed in this worker's slot, and none has got on there since
    seconds: float = 0.0  # that earlier workers worked on the trial, as far as is known
    remaining: Remaining | None = None  # if the trial begins with this claim


def take_over(
    transaction: Transaction,
    study: StudyKey,
    owner: str,
    lease: float,
    *,
    failed_in_slot: int = 0,
    lost_too: bool = True,
) -> Claim | None:
    """Takes the oldest trial that was released or, if `lost_too`, whose lease ran out.

    A worker works on one trial at a time. If it already holds one, the answer to its claim was lost: it gets that
    trial again.

    Of the trials that failed, a worker takes those that its slot can say something about (`_can_judge`), in which so
    many different trials failed since one last got on there.
    """
    lost = (TrialRow.state == "running") & ~is_live(TrialRow) & (TrialRow.owner != owner)
    own = (TrialRow.state == "running") & (TrialRow.owner == owner)
    free = (
        select(TrialRow.trial_id)
        .where(
            TrialRow.study_id == study.study_id,
            is_open,
            or_(TrialRow.state == "waiting", own, *([lost] if lost_too else [])),
            select(StudyRow.study_id).where(study.row, within_hours()).exists(),
            or_(own, _can_judge(study, owner, lease, failed_in_slot)),
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
        .returning(*_CLAIMED, TrialRow.failures)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if row is None else Claim(study, owner, *row, may_be_at_fault=failed_in_slot > 0)


def _can_judge(study: StudyKey, owner: str, lease: float, failed_in_slot: int) -> ColumnElement[bool]:
    """Whether a worker's try at a trial tells who is at fault, the trial or a slot.

    Any slot can try a trial that has not failed. One that failed is not tried on a host where it did, as long as others
    are at work elsewhere, or may be about to take it. A slot that may be at fault itself takes no trial that others
    have lost, as long as others are at work. Alone, it tries new ones before those that failed, until
    `MOST_DIFFERENT` have failed in it. An error of a place says nothing of the trial: any slot may try that one again
    after its rest, once there are no new ones.
    """
    new_ones = select(StudyRow.study_id).where(study.row, has_slots()).exists()
    is_to_be_given_up = TrialRow.failures >= MOST_FAILURES
    if failed_in_slot == 0:
        # Other hosts first, then other slots of the host.
        left_to_others = _failed_on(owner) & or_(_others_at_work(study, slots.host_of(owner)), _rests(lease / 2))
        return or_(TrialRow.failed_on.is_(None), is_to_be_given_up, ~left_to_others)
    not_lost = TrialRow.failed_on.is_(None) & (TrialRow.attempts == 1)
    new_ones_first = [new_ones] if failed_in_slot < MOST_DIFFERENT else []
    not_yet = or_(_others_at_work(study, slots.slot_of(owner)), _failed_on(owner) & _rests(), *new_ones_first)
    only_of_a_place = TrialRow.of_a_place & (TrialRow.failures == 0) & ~_rests() & ~new_ones
    return or_(not_lost, is_to_be_given_up, only_of_a_place, ~not_yet)


def waits_for_others(transaction: Transaction, study: StudyKey, owner: str, failed_in_slot: int) -> bool:
    """Whether a slot begins no new trial, but leaves those that failed there to others for the time of their rest.

    Alone it would fail at one new trial after the other, and others may be about to come.
    """
    if failed_in_slot < MOST_DIFFERENT:
        return False
    resting = (TrialRow.state == "waiting") & _failed_on(owner) & _rests()
    waits = select(TrialRow.trial_id).where(study.trials, resting, ~_others_at_work(study, slots.slot_of(owner)))
    return transaction.execute(waits.limit(1)).first() is not None


def others_at_work(transaction: Transaction, study: StudyKey, slot: str) -> bool:
    """Whether workers in other slots are at work, or have just ended a trial."""
    return bool(transaction.execute(select(_others_at_work(study, slot))).scalar_one())


def _others_at_work(study: StudyKey, own: str) -> ColumnElement[bool]:
    """Whether workers are at work outside of this host or slot, or have just ended a trial."""
    other = aliased(TrialRow)
    is_another = ~other.owner.startswith(f"{own}:", autoescape=True)
    at_work = select(other.trial_id).where(other.study_id == study.study_id, is_live(other), is_another)
    return at_work.correlate(None).exists()


def _failed_on(owner: str) -> ColumnElement[bool]:
    """Whether a trial has failed on the host of this worker."""
    return func.coalesce(TrialRow.failed_on, "").contains(json.dumps(slots.host_of(owner)), autoescape=True)


def _rests(seconds: float = 0.0) -> ColumnElement[bool]:
    """Whether a trial that has failed is left to others for more than so many seconds (search.storage.ledger.fail)."""
    until = func.coalesce(TrialRow.lease_until, 0.0)
    return (until > database_now() + seconds) & (until < database_now() + FAR)


def add_trial(
    transaction: Transaction,
    study: StudyKey,
    *,
    trial_id: int,
    number: int,
    owner: str,
    lease: float,
    may_be_at_fault: bool = False,
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
    return Claim(study, owner, trial_id, number, token=1, attempts=1, checkpoint=None, may_be_at_fault=may_be_at_fault)


def claim_of(transaction: Transaction, study: StudyKey, owner: str) -> Claim | None:
    """The claim of a worker, as far as it still holds its trial; its row stays locked until the commit."""
    held = select(*_CLAIMED).where(study.trials, TrialRow.owner == owner, TrialRow.state == "running")
    row = transaction.execute(held.with_for_update()).one_or_none()
    return None if row is None else Claim(study, owner, *row)
