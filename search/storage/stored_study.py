"""A study in the storage: created once, then joined; a study that differs from the stored one is refused.

Its identity is what workers must agree on: the search space, the data (names and contents of the clips, not
where they lie), and the versions of Offkey, its computation, Optuna and librosa.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from sqlalchemy import ColumnElement, case, insert, null, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from features.clips.corpus import Corpus
from search.errors import NoStorageError, StudyError
from search.evaluation.metrics import Metric
from search.evaluation.truth import Truth
from search.storage.study_storage import StudyStorage, open_storage
from search.storage.tables import StudyRow, TrialRow, is_live
from search.study.identity import Identity, identity_of
from search.study.objectives import IN_WORDS, METRICS, directions_of
from search.study.portfolio import Values, values_by_number
from search.study.recipe import Objective, ValidationSettings
from search.study.search_settings import SearchSettings
from search.study.space import Tree
from search.study.study import Study, trained_on
from search.study.study_file import study_of_tree
from search.validation.views import ValidationData, validation_data_of


@dataclass(frozen=True)
class StoredStudy:
    """A study as the storage holds it."""

    study_id: int
    uid: str
    name: str
    tree: Mapping[str, Any]
    identity: Identity
    truth: Truth
    budget: int
    artifacts: str | None  # folder or bucket that the hosts share
    hours: float | None = None  # limit, over all workers
    first_name: str = ""  # at its creation, whatever its name is now

    def study(self, *, overrides: tuple[str, ...] = ()) -> Study:
        """Checks the stored document and returns its study. Imports the model families that it names."""
        return study_of_tree(dict(self.tree), origin=f"study {self.name!r} in the storage", overrides=overrides)

    @property
    def root(self) -> str:
        return str(self.tree["corpus"]["root"])

    @property
    def validation(self) -> ValidationSettings:
        return ValidationSettings.model_validate(self.tree.get("validation", {}))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is searched for, the most important first."""
        return self.validation.objectives

    @property
    def metric(self) -> Metric:
        """The metric of the most important objective."""
        return METRICS[self.objectives[0]]

    @property
    def metric_name(self) -> str:
        """The metric's name for people."""
        return IN_WORDS[self.objectives[0]]

    def validation_data(self, corpus: Corpus) -> ValidationData:
        """A corpus as the study's trials see it."""
        return validation_data_of(corpus, self.validation, trained_on(self.tree))

    @property
    def first(self) -> list[dict[str, Any]] | None:
        """The entries of `search.first`, in the order in which they are tried."""
        first: list[dict[str, Any]] | None = (self.tree.get("search") or {}).get("first")
        return first

    @property
    def tried_first(self) -> dict[int, Values]:
        """The values of the trials that are tried first, by number: the baseline's, then those of `search.first`."""
        return values_by_number(self.tree.get("baseline") or {}, self.first)

    @property
    def search(self) -> SearchSettings:
        return SearchSettings.model_validate(self.tree.get("search") or {})

    @property
    def may_end_itself(self) -> bool:
        """Whether the study may end before its budget, because enough is known."""
        return self.search.stop == "told_apart"

    @property
    def machines(self) -> list[str] | None:
        machines: list[str] | None = self.tree["corpus"].get("machines")
        return machines


def create_or_join(
    storage: StudyStorage, study: Study, corpus: Corpus, truth: Truth, *, artifacts: str | None = None
) -> StoredStudy:
    """Creates the stored study, or joins the one of this name. Raises its limits if the study's are larger.

    Joining changes nothing that others rely on: it lowers neither trials nor hours nor stall_minutes, and the study
    keeps its place for `artifacts` while workers or checkpoints of trials that have not ended may need it. A study that
    has ended itself goes on if its budget is raised or if `search.stop` is never.

    `truth` holds the labels of the study's validation clips. `artifacts` is the folder or bucket that its hosts share.
    Raises StudyError, which names every difference, if a study of this name has another identity.
    """
    directions = directions_of(study.objectives)
    created = optuna.create_study(study_name=study.name, storage=storage, directions=directions, load_if_exists=True)
    is_ours = storage.transact(lambda session: session.get(StudyRow, created._study_id)) is not None
    if not is_ours and (created.get_trials(deepcopy=False) or created.directions != directions):
        raise _foreign(storage, study.name)  # one of ours whose creation was interrupted has no trial yet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # The dashboard's axis labels.
        names = [f"validation {IN_WORDS[o]}" if o in METRICS else IN_WORDS[o] for o in study.objectives]
        created.set_metric_names(names)
    identity = identity_of(study, corpus)
    if not is_ours:
        row = {
            "study_id": created._study_id,
            "uid": uuid.uuid4().hex,
            "document": json.dumps(study.tree),
            "identity": json.dumps(identity),
            "truth": json.dumps(asdict(truth)),
            "budget": study.search.trials,
            "handed_out": 0,
            "hours": study.search.hours,
            "active_seconds": 0.0,
            "artifacts": artifacts,
        }
        try:
            storage.transact(lambda session: session.execute(insert(StudyRow).values(row)))
            return load_stored(storage, study.name)
        except IntegrityError:
            pass  # another process created it at the same moment
    joined = load_stored(storage, study.name)
    require_same(joined, identity)
    larger = case((StudyRow.budget < study.search.trials, study.search.trials), else_=StudyRow.budget)
    enough = case((StudyRow.budget < study.search.trials, null()), else_=StudyRow.enough)
    changes: dict[str, Any] = {"budget": larger, "enough": enough}
    if (hours := study.search.hours) is not None:
        changes["hours"] = case((StudyRow.hours < hours, hours), else_=StudyRow.hours)  # NULL, without a limit, stays
    if artifacts is not None:
        changes["artifacts"] = case((_needs_its_place(created._study_id), StudyRow.artifacts), else_=artifacts)

    def join(session: Session) -> None:
        own = StudyRow.study_id == joined.study_id, StudyRow.uid == joined.uid
        session.execute(update(StudyRow).where(*own).values(changes))
        row = session.execute(select(StudyRow).where(*own)).scalar_one_or_none()
        if row is None:
            raise was_deleted(joined.name)
        if study.search.stop is not None:
            _set_stop(row, study.search.stop)
        if (minutes := study.search.stall_minutes) is not None and minutes > joined.search.longest_silence:
            _set(row, "stall_minutes", minutes)

    storage.transact(join)
    return load_stored(storage, study.name)


def _needs_its_place(study_id: int) -> ColumnElement[bool]:
    """Whether a trial of the study is at work, or has not ended and may go on at a checkpoint."""
    of_study, is_open = TrialRow.study_id == study_id, TrialRow.state.in_(("running", "waiting"))
    return select(TrialRow.trial_id).where(of_study, is_open, TrialRow.checkpoint.is_not(None)).exists() | (
        select(TrialRow.trial_id).where(of_study, TrialRow.state == "running", is_live(TrialRow)).exists()
    )


def _set_stop(row: StudyRow, stop: str) -> None:
    """Changes `search.stop` of a stored study. One that is never to end itself has not."""
    _set(row, "stop", stop)
    if stop == "never":
        row.enough = None


def _set(row: StudyRow, name: str, value: Any) -> None:
    """Changes a setting of the `search` block of a stored study."""
    document = json.loads(row.document)
    document["search"] = {**(document.get("search") or {}), name: value}
    row.document = json.dumps(document)


def with_stored_choices(study: Study, url: str) -> Study:
    """The study, with what the first search of the stored study of its name has chosen and the storage keeps.

    These are the proxies, where the study lists none itself, and the entries of `search.first` that were found in other
    studies and recipes. Raises StorageError if the storage cannot be read.
    """
    wants_proxies = study.validation.uses_proxies and study.validation.proxies is None
    if not wants_proxies and not study.search.first:
        return study
    try:
        with open_study(url, study.name) as (_, stored):
            pass
    except (NoStorageError, StudyError):  # there is none, or one that Offkey did not create, which joining refuses
        return study
    if wants_proxies and (proxies := stored.validation.proxies) is not None:
        tree = {**study.tree, "validation": {**study.tree["validation"], "proxies": proxies}}
        study = replace(study_of_tree(tree, origin=f"study {study.name}"), document=study.document)
    first, in_file = stored.first, stored.identity["study"].get("search", {}).get("first")
    if study.search.first in (first, in_file):
        study = replace(study, search=study.search.model_copy(update={"first": first}), first_in_file=in_file)
    return study


def load_stored(storage: StudyStorage, name: str) -> StoredStudy:
    """Loads the stored study of this name. Raises StudyError if there is none, or if Offkey did not create it."""
    ids = {stored.study_name: stored._study_id for stored in storage.get_all_studies()}
    if name not in ids:
        known = f"it holds {', '.join(sorted(ids))}" if ids else "it holds no study yet"
        raise StudyError(f"There is no study {name!r} in {storage.shown_url}; {known}.")

    def read(session: Session) -> StoredStudy | None:
        row = session.get(StudyRow, ids[name])
        return None if row is None else _stored(name, row)

    stored = storage.transact(read)
    if stored is None:
        raise _foreign(storage, name)
    return stored


def artifact_places(storage: StudyStorage) -> list[str | None]:
    """The folders and buckets of the storage's studies; None stands for each host's own cache."""
    return storage.transact(lambda session: list(session.execute(select(StudyRow.artifacts).distinct()).scalars()))


@contextmanager
def open_study(url: str, name: str) -> Iterator[tuple[StudyStorage, StoredStudy]]:
    """Opens a storage and loads its study of this name; closes the connection afterwards.

    Raises StorageError if the storage cannot be read, StudyError if there is no such study.
    """
    with open_storage(url) as storage:
        yield storage, load_stored(storage, name)


def was_deleted(name: str) -> StudyError:
    """The error of workers whose study was deleted."""
    return StudyError(f"The study {name!r} was deleted while it was at work.")


def _stored(name: str, row: StudyRow) -> StoredStudy:
    truth = json.loads(row.truth)
    rule = truth.pop("rule", None)
    identity = json.loads(row.identity)
    return StoredStudy(
        study_id=row.study_id,
        uid=row.uid,
        name=name,
        tree=_with_its_precision(json.loads(row.document), identity),
        identity=identity,
        truth=Truth(**{key: tuple(column) for key, column in truth.items()}, rule=rule),
        budget=row.budget,
        artifacts=row.artifacts,
        hours=row.hours,
        first_name=row.first_name or name,
    )


def _with_its_precision(tree: Tree, identity: Identity) -> Tree:
    """A stored study's tree with the default precision of the version that created it, which its identity holds.

    It was float32 before it was auto: without it, the trials that are left would train in another precision.
    """
    default = identity["study"].get("training", {}).get("precision", "auto")
    return tree if default == "auto" else tree | {"training": {"precision": default, **(tree.get("training") or {})}}


def require_same(stored: StoredStudy, here: Identity) -> None:
    """Raises StudyError, which lists every difference, if the stored identity is not the one here."""
    there_flat, here_flat = dict(_flat(stored.identity)), dict(_flat(here))
    differing = [key for key in there_flat | here_flat if there_flat.get(key) != here_flat.get(key)]
    if differing:
        lines = "\n".join(
            f"  {key.removeprefix('study.')}: stored {there_flat.get(key, '—')}, here {here_flat.get(key, '—')}"
            for key in differing
        )
        raise StudyError(
            f"The study {stored.name!r} exists and differs:\n{lines}\n"
            "Give this one a name of its own (--study NAME, in a notebook name=…), or make it the same again."
        )


def _foreign(storage: StudyStorage, name: str) -> StudyError:
    return StudyError(f"The study {name!r} in {storage.shown_url} was not made by Offkey: choose another name.")


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every leaf with its dotted path."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
