"""Files below an address in S3, or in another service with its protocol: `s3://BUCKET[/PREFIX]`.

boto3 takes credentials and the service ($AWS_ENDPOINT_URL) from its usual places. It is imported only where a bucket is
named.
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
    """The bucket and the prefix of its files' names ("" or "PREFIX/"); None if `place` is a folder.

    A Path has lost one slash of `s3://`, so `s3:/` counts as a bucket too: a folder `s3:` cannot be named.
    """
    if not str(place).startswith("s3:/"):
        return None
    bucket, _, prefix = str(place).removeprefix("s3:").strip("/").partition("/")
    return bucket, prefix and f"{prefix}/"


def bucket_client(place: str | Path) -> Any:
    """A client of the service. Raises StudyError if boto3 is missing, StoreError if the settings are invalid."""
    try:
        import boto3  # type: ignore[import-untyped]
    except ImportError as error:
        raise StudyError(f"{place} needs boto3: pip install 'offkey[s3]'") from error
    try:
        return boto3.client("s3")
    except Exception as error:
        if not isinstance(error, ValueError) and not is_refusal(error):  # ValueError: $AWS_ENDPOINT_URL is not a URL
            raise
        raise StoreError(f"{place} cannot be reached: {error}") from error


def is_refusal(error: Exception) -> bool:
    """Whether the error comes from the service or the connection to it.

    The error's classes belong to packages that may not be installed: their names are compared instead.
    """
    return type(error).__module__.partition(".")[0] in ("boto3", "botocore")


class BucketFolder:
    """Files of a bucket below one prefix, handled like a folder.

    The constructor raises the errors of `bucket_client`; methods raise StoreError if the service refuses.
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
        """Copies files from a folder, in their order. If one fails, it removes the others again.

        Raises FileExistsError if one exists: of two writers at the same time, one is refused.
        """
        writer = {"offkey-writer": secrets.token_hex(8)}
        try:
            for name in names:
                self._put(name, folder / name, writer)
        except BaseException:
            with suppress(StoreError):  # a file that cannot be removed is reported by the next attempt to write it
                for name in names:
                    if self._is_of(writer, name):
                        self._remove(name)
            raise

    def replace(self, name: str, content: bytes) -> None:
        """Writes a file, whether it exists or not."""
        with self._errors("written", name):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def _put(self, name: str, path: Path, writer: dict[str, str]) -> None:
        with self._errors("written", name), path.open("rb") as file:
            key = self._prefix + name
            try:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=file, IfNoneMatch="*", Metadata=writer)
            except self._client.exceptions.ClientError as error:
                # boto3 repeats a request whose answer was lost, and the repeat meets the file of the first one.
                if not _is_in_the_way(error) or not self._is_of(writer, name):
                    raise

    def _is_of(self, writer: dict[str, str], name: str) -> bool:
        """Whether the file exists and this writer wrote it."""
        with self._errors("read", name):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
            except self._client.exceptions.ClientError as error:
                if _code(error) == "404":
                    return False
                raise
        return bool(head["Metadata"] == writer)

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
                "usual variables set the credentials, AWS_ENDPOINT_URL the service."
            ) from error


def _code(error: Exception) -> str | None:
    """The service's error code, None if the error has none."""
    code: str | None = getattr(error, "response", {}).get("Error", {}).get("Code")
    return code


def _is_in_the_way(error: Exception) -> bool:
    """Whether a file exists that must not exist, or is being written by another writer."""
    return _code(error) in ("PreconditionFailed", "ConditionalRequestConflict")
