"""Renames a stored study, or deletes it with its files."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import suppress

from optuna.artifacts.exceptions import ArtifactNotFound

from features.errors import OffkeyError
from search.artifacts.artifact_store import open_artifacts, place_of, store_errors
from search.artifacts.checkpoints import Checkpoints
from search.errors import StudyError
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.recipe import NAME

_log = logging.getLogger(__name__)


def rename_study(storage: StudyStorage, stored: StoredStudy, name: str) -> None:
    """Gives the study another name. Raises StudyError if the name is invalid or taken, or if workers are at work."""
    if not re.fullmatch(NAME, name) or len(name) > 200:
        raise StudyError(
            f"{name!r} cannot be a study's name: up to 200 letters, digits and . _ + -, the first a letter or a digit"
        )
    StudyLedger(storage, stored).rename(name)


def delete_study(storage: StudyStorage, stored: StoredStudy, *, exhibits_in: Sequence[str] | None = None) -> None:
    """Deletes the study with all its trials, checkpoints and exhibits. Raises StudyError if workers are at work.

    `exhibits_in` are the places to look for exhibits in; None means the place where its workers put them.
    A file that cannot be removed is logged and left: nothing refers to it any more.
    """
    trials, exhibits = StudyLedger(storage, stored).delete()
    try:
        for trial in trials:
            Checkpoints(stored.artifacts, stored.uid).remove(trial=trial.number, token=trial.token)
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
