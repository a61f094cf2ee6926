"""A study in the storage: made once, joined by everyone after, refused where something differs.

Its identity is what workers must agree on: the search space, the data (names and contents of the clips, not
where they lie), and the versions of Offkey (its code too) and Optuna.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from sqlalchemy import case, insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from features.corpus import Corpus
from search.errors import NoStorageError, StudyError
from search.evaluation import Metric, Truth
from search.ledger import StudyRow
from search.recipe import Cost, Figure, ValidationSettings
from search.steering import IN_WORDS, METRICS, Steering, directions_of, steering_of, trained_on
from search.storage import StudyStorage
from search.study_file import Study, study_of_tree

Identity = Mapping[str, Any]

_NOT_IDENTITY = (
    ("corpus", "root"),
    ("search", "trials"),
    ("search", "hours"),
    ("training", "threads"),
)


@dataclass(frozen=True)
class StoredStudy:
    """A study as its storage has it."""

    study_id: int
    uid: str
    name: str
    tree: Mapping[str, Any]
    identity: Identity
    truth: Truth
    budget: int
    artifacts: str | None  # folder or bucket that the hosts share

    def study(self, *, overrides: tuple[str, ...] = ()) -> Study:
        """The checked study. Imports the model families that it names."""
        return study_of_tree(dict(self.tree), origin=f"study {self.name!r} in the storage", overrides=overrides)

    @property
    def root(self) -> str:
        return str(self.tree["corpus"]["root"])

    @property
    def validation(self) -> ValidationSettings:
        return ValidationSettings.model_validate(self.tree.get("validation", {}))

    @property
    def objectives(self) -> tuple[Figure | Cost, ...]:
        """What is searched for, the most important first."""
        return self.validation.objectives

    @property
    def metric(self) -> Metric:
        """What the most important objective makes of scores."""
        return METRICS[self.objectives[0]]

    @property
    def metric_name(self) -> str:
        """What it is called where people read it."""
        return IN_WORDS[self.objectives[0]]

    def steering(self, corpus: Corpus) -> Steering:
        """How its trials see a corpus."""
        return steering_of(corpus, self.validation, trained_on(self.tree))

    @property
    def machines(self) -> list[str] | None:
        machines: list[str] | None = self.tree["corpus"].get("machines")
        return machines


def identity_of(study: Study, corpus: Corpus) -> Identity:
    """What workers on this study and corpus must agree on."""
    return {**surroundings(corpus), "study": _without(_with_defaults(study))}


def surroundings(corpus: Corpus) -> Identity:
    """The part of an identity that is not in the study file: data and versions."""
    return {
        "versions": {
            "offkey": version("offkey"),
            "code": code_digest(),
            "optuna": optuna.__version__,
            "librosa": version("librosa"),
        },
        "data": {"clips": len(corpus.clips), "fingerprint": corpus.fingerprint[:16]},
    }


@cache
def code_digest() -> str:
    """Digest of the sources: two hosts with the same version may still run different code."""
    digest = hashlib.sha256()
    house = Path(__file__).parent.parent
    for package in ("features", "models", "search"):
        for module in sorted((house / package).rglob("*.py")):
            digest.update(f"{module.relative_to(house)}\0".encode() + module.read_bytes())
    return digest.hexdigest()[:12]


def create_or_join(storage: StudyStorage, study: Study, corpus: Corpus, *, artifacts: str | None = None) -> StoredStudy:
    """The stored study of this name, made if there is none; its budget is raised to the study's if that is more.

    `artifacts` is the folder or bucket that its hosts share.
    Raises StudyError naming what differs if a study of this name has another identity.
    """
    directions = directions_of(study.objectives)
    created = optuna.create_study(study_name=study.name, storage=storage, directions=directions, load_if_exists=True)
    is_ours = storage.transact(lambda session: session.get(StudyRow, created._study_id)) is not None
    if not is_ours and (created.get_trials(deepcopy=False) or created.directions != directions):
        raise _foreign(storage, study.name)  # one of ours whose making was interrupted has no trial yet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # What a dashboard writes at its axes.
        names = [f"validation {IN_WORDS[o]}" if o in METRICS else IN_WORDS[o] for o in study.objectives]
        created.set_metric_names(names)
    identity = identity_of(study, corpus)
    if not is_ours:
        row = {
            "study_id": created._study_id,
            "uid": uuid.uuid4().hex,
            "document": json.dumps(study.tree),
            "identity": json.dumps(identity),
            "truth": json.dumps(asdict(steering_of(corpus, study.validation, trained_on(study.tree)).truth)),
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
            pass  # somebody else made it at the same moment
    require_same(load_stored(storage, study.name), identity)
    larger = case((StudyRow.budget < study.search.trials, study.search.trials), else_=StudyRow.budget)
    changes: dict[str, Any] = {"budget": larger}
    changes |= {} if study.search.hours is None else {"hours": study.search.hours}
    changes |= {} if artifacts is None else {"artifacts": artifacts}
    storage.transact(
        lambda session: session.execute(update(StudyRow).where(StudyRow.study_id == created._study_id).values(changes))
    )
    return load_stored(storage, study.name)


def with_stored_proxies(study: Study, url: str) -> Study:
    """The study, with the proxies that the stored one of its name goes by, where it names none: they are found once.

    Raises StorageError if the storage cannot be read.
    """
    if not study.validation.goes_by_proxies or study.validation.proxies is not None:
        return study
    try:
        storage = StudyStorage(url)
    except NoStorageError:
        return study
    try:
        proxies = load_stored(storage, study.name).validation.proxies
    except StudyError:  # there is none, or one of somebody else's, which joining refuses
        return study
    finally:
        storage.engine.dispose()
    if proxies is None:
        return study
    tree = study.tree
    return study_of_tree(
        {**tree, "validation": {**tree["validation"], "proxies": proxies}}, origin=f"study {study.name}"
    )


def load_stored(storage: StudyStorage, name: str) -> StoredStudy:
    """The stored study of this name. Raises StudyError if there is none, or Offkey did not make it."""
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


def was_deleted(name: str) -> StudyError:
    """What those say who are at work on a study that is there no more."""
    return StudyError(f"The study {name!r} was deleted while it was at work.")


def _stored(name: str, row: StudyRow) -> StoredStudy:
    truth = {key: tuple(values) for key, values in json.loads(row.truth).items()}
    return StoredStudy(
        study_id=row.study_id,
        uid=row.uid,
        name=name,
        tree=json.loads(row.document),
        identity=json.loads(row.identity),
        truth=Truth(**truth),
        budget=row.budget,
        artifacts=row.artifacts,
    )


def require_same(stored: StoredStudy, here: Identity) -> None:
    """Raises StudyError with every difference between the stored identity and the one here."""
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


def _with_defaults(study: Study) -> dict[str, Any]:
    """The study's tree with what it leaves out: a default that is written out makes no other study."""
    tree = study.tree
    blocks = {key: default for key, default in study.first_recipe().tree().items() if isinstance(default, dict)}
    filled = {key: {**default, **tree.get(key, {})} for key, default in blocks.items() if key != "model"}
    if isinstance(tree["model"], dict):
        filled["model"] = {**blocks["model"], **tree["model"]}
    return {**tree, **filled}


def _without(tree: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps(tree))
    for section, key in _NOT_IDENTITY:
        kept.get(section, {}).pop(key, None)
    return kept


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
