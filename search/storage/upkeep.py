"""What is done to a stored study as a whole: its workers asked to leave, another name, the end."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from contextlib import suppress

from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from features.errors import OffkeyError
from search.artifacts.artifact_store import open_artifacts, place_of, store_errors
from search.artifacts.checkpoints import Checkpoints
from search.errors import StudyError
from search.storage import ledger, optuna_rows
from search.storage.ledger import Claim
from search.storage.stored_study import StoredStudy, was_deleted
from search.storage.study_storage import StudyStorage
from search.storage.tables import StudyRow
from search.study.recipe import NAME

_log = logging.getLogger(__name__)


def stop_study(storage: StudyStorage, stored: StoredStudy) -> int:
    """Asks the study's workers, on whatever host, to give their trials back and leave; how many are at work."""

    def stop(session: Session) -> int:
        ledger.request_stop(session, stored.study_id)
        return len(ledger.at_work(session, stored.study_id))

    return storage.transact(stop)


def rename_study(storage: StudyStorage, stored: StoredStudy, name: str) -> None:
    """Gives the study another name. Raises StudyError if the name is taken or no name, or workers are there."""
    if not re.fullmatch(NAME, name) or len(name) > 200:
        raise StudyError(
            f"{name!r} cannot be a study's name: up to 200 letters, digits and . _ + -, the first a letter or a digit"
        )

    def rename(session: Session) -> None:
        _require_idle(session, stored)
        optuna_rows.rename_study(session, stored.study_id, name)
        row = session.get_one(StudyRow, stored.study_id)
        document, identity = json.loads(row.document), json.loads(row.identity)
        document["study"] = identity["study"]["study"] = name
        row.document, row.identity = json.dumps(document), json.dumps(identity)

    try:
        storage.transact(rename)
    except IntegrityError as error:
        raise StudyError(f"There is a study {name!r} in {storage.shown_url} already.") from error


def delete_study(storage: StudyStorage, stored: StoredStudy, *, exhibits_in: Sequence[str] | None = None) -> None:
    """Deletes the study with all its trials, checkpoints and exhibits. Raises StudyError if workers are there.

    `exhibits_in` are the places to look for exhibits in; None: where its workers put them.
    A file that cannot be removed costs a line in the log: nobody looks for it any more.
    """

    def delete(session: Session) -> tuple[list[Claim], list[str]]:
        _require_idle(session, stored)
        files = ledger.uncleared(session, stored.study_id, ended=False), optuna_rows.artifacts(session, stored.study_id)
        ledger.delete_study(session, stored.study_id)  # first, as a worker's writes touch it first
        optuna_rows.delete_study(session, stored.study_id)
        return files

    claims, exhibits = storage.transact(delete)
    try:
        for claim in claims:
            Checkpoints(stored.artifacts, stored.uid).remove(trial=claim.number, token=claim.token)
    except OffkeyError as error:
        _log.warning("checkpoints of %s were left behind: %s", stored.name, error)
    for place in [place_of(stored.artifacts)] if exhibits_in is None else exhibits_in:
        try:
            with store_errors(place, "Exhibits", "removed"):
                store = open_artifacts(place, make=False)
                for exhibit in exhibits:
                    with suppress(ArtifactNotFound):
                        store.remove(exhibit)
        except OffkeyError as error:
            _log.warning("exhibits of %s may be left behind: %s", stored.name, error)


def lock_study(session: Session, stored: StoredStudy) -> None:
    """Keeps everybody else from writing its row until the commit. Raises StudyError if it is there no more."""
    row = update(StudyRow).where(StudyRow.study_id == stored.study_id, StudyRow.uid == stored.uid)
    locked = row.values(uid=stored.uid).returning(StudyRow.study_id).execution_options(synchronize_session=False)
    if session.execute(locked).one_or_none() is None:
        raise was_deleted(stored.name)


def _require_idle(session: Session, stored: StoredStudy) -> None:
    """Locks the study, for claims too. Raises StudyError if workers are at work on it, or it is there no more."""
    ledger.keep_claims_out(session, stored.study_id)
    lock_study(session, stored)
    owners = ledger.at_work(session, stored.study_id)
    if owners:
        raise StudyError(
            f"{len(owners)} workers are at work on {stored.name} ({owners[0]} for one). `offkey stop {stored.name}` "
            "makes them leave; wait until they have."
        )
