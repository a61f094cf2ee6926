"""Where files go that do not fit a database: a folder or a bucket that a study's hosts share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from features.cache import cache_folder
from features.errors import StoreError
from search.artifacts.bucket import bucket_client, bucket_of, is_refusal

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore


def place_of(artifacts: str | None) -> str:
    """The folder or `s3://BUCKET[/PREFIX]` that is meant: this host's cache if none is given."""
    return artifacts or str(cache_folder() / "artifacts")


def open_artifacts(place: str, *, make: bool = True) -> ArtifactStore:
    """The store in a folder, or in a bucket.

    A folder that is missing is made, for whoever wants to write (`make`).
    Raises StudyError or StoreError if there is no client for the bucket, OSError if the folder cannot be made.
    """
    address = bucket_of(place)
    if address is None:
        if make:
            Path(place).mkdir(parents=True, exist_ok=True)
        return FileSystemArtifactStore(place)
    client = bucket_client(place)
    from optuna.artifacts import Boto3ArtifactStore

    bucket, prefix = address
    store = Boto3ArtifactStore(bucket, client)
    return _Below(store, prefix) if prefix else store


@contextmanager
def store_errors(place: str, what: str, done: str) -> Iterator[None]:
    """A store that refuses is a StoreError that names it."""
    try:
        yield
    except ArtifactNotFound:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not is_refusal(error):
            raise
        raise StoreError(
            f"{what} in {place} cannot be {done}: {error}. --artifacts or $OFFKEY_ARTIFACTS names "
            "another folder, or s3://BUCKET."
        ) from error


class _Below:
    """A store whose names all begin with a prefix."""

    def __init__(self, store: ArtifactStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def open_reader(self, artifact_id: str) -> BinaryIO:
        return self._store.open_reader(self._prefix + artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        self._store.remove(self._prefix + artifact_id)
