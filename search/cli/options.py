"""Arguments and options that several commands share, and how a study or a storage is opened by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from search.storage.stored_study import StoredStudy
    from search.storage.study_storage import StudyStorage

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="study file, shipped study, or name in the storage")
]
BundleArgument = Annotated[
    str,
    typer.Argument(metavar="BUNDLE", help="the detector that `offkey train` wrote: a folder, or s3://BUCKET/PREFIX"),
]
NearestOption = Annotated[
    bool,
    typer.Option(
        "--nearest",
        help="for a --false-alarm-rate that takes more withheld clips than there are: as near to it as they allow",
    ),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage", metavar="URL", help="database of the studies; default: $OFFKEY_STORAGE, else sqlite:///offkey.db"
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="override a setting, for example --set corpus.root=DIR; repeatable"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="show the debug log; workers of a search write theirs to their log files"),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda:0, …")]
WorkersOption = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="number of worker processes; auto: one for each GPU of this host, without GPUs one for two cores",
    ),
]
OnOption = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="ADDRESS", help="run the workers on a Ray cluster: ray://HOST:10001, HOST:6379 or auto"
    ),
]
ArtifactsOption = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        metavar="DIR|s3://BUCKET",
        help="where checkpoints go; default: $OFFKEY_ARTIFACTS, else the cache",
    ),
]


def url_of(storage: str | None) -> str:
    """The URL of the storage: that of the option, or the default."""
    from search.storage.database import default_url

    return storage or default_url()


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Raises StorageError for what goes wrong with the database; imports it only when a command needs it."""
    from search.storage.database import storage_errors

    with storage_errors(url):
        yield


@contextmanager
def open_study(study: str, storage: str | None) -> Iterator[tuple[StudyStorage, StoredStudy]]:
    """Opens the storage and the study in it, which is given by its file or its name."""
    from search.storage.stored_study import open_study

    with open_study(url_of(storage), stored_name(study)) as opened:
        yield opened


def stored_name(study: str) -> str:
    """The stored name of a study that is given by its file or its name."""
    if not Path(study).is_file():
        return study
    from search.study.study_file import load_study

    return load_study(study).name
