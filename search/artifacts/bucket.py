"""Files below an address in S3, or in another service that speaks it: `s3://BUCKET[/PREFIX]`.

boto3 finds who asks, and which service ($AWS_ENDPOINT_URL), as it always does; it is imported where a bucket is named.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from features.errors import StoreError
from search.errors import StudyError


def bucket_of(place: str | Path) -> tuple[str, str] | None:
    """The bucket, and what the names of its files begin with ("" or "PREFIX/"); None if a folder is meant.

    A Path has lost a slash of `s3://`: no folder is called `s3:`.
    """
    if not str(place).startswith("s3:/"):
        return None
    bucket, _, prefix = str(place).removeprefix("s3:").strip("/").partition("/")
    return bucket, prefix and f"{prefix}/"


def bucket_client(place: str | Path) -> Any:
    """A client of the service. Raises StudyError if its package is missing, StoreError if its settings make none."""
    try:
        import boto3  # type: ignore[import-untyped]
    except ImportError as error:
        raise StudyError(f"{place} needs boto3: pip install 'offkey[s3]'") from error
    try:
        return boto3.client("s3")
    except Exception as error:
        if not isinstance(error, ValueError) and not is_refusal(error):  # ValueError: $AWS_ENDPOINT_URL is no URL
            raise
        raise StoreError(f"{place} cannot be reached: {error}") from error


def is_refusal(error: Exception) -> bool:
    """Whether it is the service, or the way there, that fails: such errors are of packages that may not be there."""
    return type(error).__module__.partition(".")[0] in ("boto3", "botocore")


class BucketFolder:
    """Files that belong together, as if their prefix were a folder.

    Opening raises as `bucket_client`, everything else StoreError if the service refuses.
    """

    def __init__(self, place: str | Path) -> None:
        address = bucket_of(place)
        assert address is not None
        self.place = place
        self._bucket, self._prefix = address
        self._client = bucket_client(place)

    def is_empty(self) -> bool:
        with self._errors("read"):
            listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        return not listed.get("Contents")

    def fetch(self, names: Sequence[str], folder: Path) -> None:
        """Copies files to a folder on this host. Raises FileNotFoundError if one is missing."""
        for name in names:
            with self._errors("read", name), (folder / name).open("wb") as file:
                content = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"]
                shutil.copyfileobj(content, file)

    def put(self, names: Sequence[str], folder: Path) -> None:
        """Copies files from a folder, in their order: all of them, or none stays.

        Raises FileExistsError if one is there: of two that write at once, one is refused.
        """
        writer = {"offkey-writer": secrets.token_hex(8)}
        try:
            for name in names:
                self._put(name, folder / name, writer)
        except BaseException:
            with suppress(StoreError):  # what cannot be removed either will be in the way, which is told then
                for name in names:
                    if self._is_of(writer, name):
                        self._remove(name)
            raise

    def _put(self, name: str, path: Path, writer: dict[str, str]) -> None:
        with self._errors("written", name), path.open("rb") as file:
            key = self._prefix + name
            try:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=file, IfNoneMatch="*", Metadata=writer)
            except self._client.exceptions.ClientError as error:
                # A request is repeated whose answer got lost, and then is in its own way.
                if not _is_in_the_way(error) or not self._is_of(writer, name):
                    raise

    def _is_of(self, writer: dict[str, str], name: str) -> bool:
        """Whether the file is there, and of this writer."""
        with self._errors("read", name):
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
            except self._client.exceptions.ClientError as error:
                if _code(error) == "404":
                    return False
                raise
        return bool(found["Metadata"] == writer)

    def _remove(self, name: str) -> None:
        with self._errors("written", name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _errors(self, done: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_refusal(error):
                raise
            if _code(error) == "NoSuchKey":
                raise FileNotFoundError(f"{self.place} has no {name}") from error
            if _is_in_the_way(error):
                raise FileExistsError(f"{self.place} has a {name} by now") from error
            reason = " ".join(str(error).split()).rstrip(".")
            raise StoreError(
                f"{self.place} cannot be {done}: {reason}. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the other "
                "usual variables say who asks, AWS_ENDPOINT_URL which service."
            ) from error


def _code(error: Exception) -> str | None:
    """What a service calls its refusal."""
    code: str | None = getattr(error, "response", {}).get("Error", {}).get("Code")
    return code


def _is_in_the_way(error: Exception) -> bool:
    """Whether a file was not to be there and is, or is being written."""
    return _code(error) in ("PreconditionFailed", "ConditionalRequestConflict")
