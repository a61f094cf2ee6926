"""What is done to a stored study as a whole: its workers asked to leave, another name, the end."""

from __future__ import annotations

import json
import logging
import re

from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from features.errors import StoreError
from search import ledger, optuna_rows
from search.artifact_store import open_artifacts, place_of, store_errors
from search.checkpoints import Checkpoints
from search.errors import StudyError
from search.ledger import StudyRow
from search.recipe import NAME
from search.storage import StudyStorage
from search.stored_study import StoredStudy

_log = logging.getLogger("offkey.upkeep")


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


def delete_study(storage: StudyStorage, stored: StoredStudy) -> None:
    """Deletes the study with all its trials, checkpoints and exhibits. Raises StudyError if workers are there.

    A file that cannot be removed costs a line in the log: nobody looks for it any more.
    """
    storage.transact(lambda session: _require_idle(session, stored))
    claims = storage.transact(lambda session: ledger.uncleared(session, stored.study_id, ended=False))
    checkpoints, place = Checkpoints(stored.artifacts, stored.uid), place_of(stored.artifacts)
    try:
        for claim in claims:
            checkpoints.remove(claim)
        with store_errors(place, "Exhibits", "removed"):
            store = open_artifacts(place)
            for artifact in storage.transact(lambda session: optuna_rows.artifacts(session, stored.study_id)):
                try:
                    store.remove(artifact)
                except ArtifactNotFound:
                    continue
    except StoreError as error:
        _log.warning("files of %s were left behind: %s", stored.name, error)
    storage.delete_study(stored.study_id)


def _require_idle(session: Session, stored: StoredStudy) -> None:
    owners = ledger.at_work(session, stored.study_id)
    if owners:
        raise StudyError(
            f"{len(owners)} workers are at work on {stored.name} ({owners[0]} for one). `offkey stop {stored.name}` "
            "makes them leave; wait until they have."
        )
