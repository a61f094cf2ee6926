"""The store of files that do not fit a database: a folder or a bucket that a study's hosts share."""

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
    """The folder or `s3://BUCKET[/PREFIX]` of `artifacts`; a folder in this host's cache if it is None."""
    return artifacts or str(cache_folder() / "artifacts")


def open_artifacts(place: str, *, make: bool = True) -> ArtifactStore:
    """Opens the store in a folder or in a bucket. Creates a missing folder if `make`.

    Raises StudyError or StoreError if there is no client for the bucket, OSError if the folder cannot be created.
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
    """Turns a store's error into a StoreError that names `place`: "{what} in {place} cannot be {done}".

    ArtifactNotFound passes as it is.
    """
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
    """A store below a prefix, with which all its names begin."""

    def __init__(self, store: ArtifactStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def open_reader(self, artifact_id: str) -> BinaryIO:
        return self._store.open_reader(self._prefix + artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        self._store.remove(self._prefix + artifact_id)
