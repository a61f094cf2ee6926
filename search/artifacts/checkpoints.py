"""Checkpoints of running trials, in a folder or a bucket that the study's hosts share.

Each holder of a trial writes under two names in turn, which contain its fencing token. It never overwrites the
checkpoint that the ledger refers to. The ledger's entry is `name@epoch/steps`, written in the transaction of that
epoch's report. Therefore:

- a checkpoint that the ledger refers to is never half written;
- a worker that lost its trial overwrites no other worker's checkpoint;
- the names to remove when a trial ends are known without listing the store.
"""

from __future__ import annotations

import hashlib
import io
import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from optuna.artifacts.exceptions import ArtifactNotFound

from features.disk_space import lack_of_space
from features.errors import StoreError
from search.artifacts.artifact_store import open_artifacts, place_of, store_errors
from search.artifacts.bucket import bucket_of

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

_log = logging.getLogger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size
_EPOCH_BYTES = 8


class Resumable(Protocol):
    """A training that can be saved after an epoch and resumed there."""

    @property
    def epoch(self) -> int: ...

    @property
    def steps(self) -> int:
        """The number of steps so far, at which trials are compared: epochs, or folds of several epochs."""

    def save(self, file: BinaryIO) -> None: ...

    def resume(self, file: BinaryIO) -> None: ...


def steps_of(entry: str) -> int:
    """The number of reports that the training had sent at a ledger's entry."""
    return _parts(entry)[2]


def _parts(entry: str) -> tuple[str, int, int]:
    name, _, reached = entry.rpartition("@")
    epoch, _, steps = reached.partition("/")
    return name, int(epoch), int(steps)


class Checkpoints:
    """The checkpoints of one study."""

    def __init__(self, place: str | None, uid: str) -> None:
        """`place` is a folder or `s3://BUCKET[/PREFIX]`; None is this host's cache. Opens nothing yet."""
        self.place = place_of(place)
        self._is_shared = place is not None
        self._uid = uid
        self._store: ArtifactStore | None = None
        self._has_written = False

    def write(self, training: Resumable, *, trial: int, token: int, beside: str | None) -> str | None:
        """Saves a training, and does not overwrite the checkpoint `beside`. Returns the entry for the ledger.

        beside : the ledger's present entry, if this holder wrote it

        Raises StoreError if this is the first checkpoint and the place takes none. If a later one cannot be written,
        the error is logged and `beside` is returned: the trial keeps its older checkpoint.
        """
        file = io.BytesIO()
        training.save(file)
        contents = training.epoch.to_bytes(_EPOCH_BYTES) + file.getvalue()
        names = [self._name(trial, token, turn) for turn in (0, 1)]
        name = names[beside is not None and beside.startswith(f"{names[0]}@")]
        try:
            with self._errors("written"):
                store = self._opened()
                if bucket_of(self.place) is None and (lack := lack_of_space(Path(self.place), len(contents))):
                    raise OSError(f"{lack}. `offkey delete STUDY` removes a study with its checkpoints")
                store.write(name, io.BytesIO(hashlib.sha256(contents).digest() + contents))
        except StoreError as error:
            if not self._has_written:
                raise
            _log.warning("trial %d: going on without a new checkpoint: %s", trial, error)
            return beside
        self._has_written = True
        _log.debug("trial %d: epoch %d is kept in %s, %d bytes", trial, training.epoch, name, len(contents))
        return f"{name}@{training.epoch}/{training.steps}"

    def read(self, entry: str, *, empty_is_away: bool = True) -> BinaryIO | None:
        """The checkpoint of a ledger's entry. Returns None and logs the reason if it is missing or damaged here.

        Raises StoreError if the place cannot be read, or if hosts share it and it is no folder. If `empty_is_away`,
        also if it has no checkpoint of the study, for example because it is not mounted: it may come back.
        """
        name, epoch, _ = _parts(entry)
        if self._is_shared and bucket_of(self.place) is None:
            folder = Path(self.place)
            if not folder.is_dir() or (empty_is_away and not any(folder.glob(f"{self._uid}-*"))):
                raise StoreError(f"Checkpoints in {self.place} cannot be read: none of the study's is there now.")
        try:
            with self._errors("read"), self._opened().open_reader(name) as file:
                blob = file.read()
        except ArtifactNotFound:
            _log.warning("the checkpoint %s is not in %s: starting over", name, self.place)
            return None
        digest, contents = blob[:_DIGEST_BYTES], blob[_DIGEST_BYTES:]
        if hashlib.sha256(contents).digest() != digest or int.from_bytes(contents[:_EPOCH_BYTES]) != epoch:
            _log.warning("the checkpoint %s in %s is damaged, or another epoch's: starting over", name, self.place)
            return None
        return io.BytesIO(contents[_EPOCH_BYTES:])

    def remove(self, *, trial: int, token: int) -> None:
        """Removes the checkpoints of the trial's holders, up to the one with this token."""
        for held in range(1, token + 1):
            for turn in (0, 1):
                try:
                    with self._errors("removed"):
                        self._opened().remove(self._name(trial, held, turn))
                except ArtifactNotFound:
                    continue

    def _name(self, trial: int, token: int, turn: int) -> str:
        return f"{self._uid}-trial-{trial}-{token}-{turn}"

    def _opened(self) -> ArtifactStore:
        if self._store is None:
            self._store = open_artifacts(self.place)
        return self._store

    def _errors(self, done: str) -> AbstractContextManager[None]:
        return store_errors(self.place, "Checkpoints", done)
