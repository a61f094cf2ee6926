"""Finds the study that the user names: by a file, the name of a shipped study, or a name in the storage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from features.did_you_mean import did_you_mean
from search.errors import MisuseError, NoStorageError, StudyFileError
from search.storage.database import parse_url, shown
from search.storage.stored_study import open_study
from search.storage.study_storage import open_storage
from search.study.study import Study
from search.study.study_file import load_study, shipped_studies


def find_study(source: str, url: str, *, overrides: Sequence[str] = (), name: str | None = None) -> Study:
    """Finds a study by a file, a shipped name or a name in the storage, and applies the `--set` overrides.

    Raises StudyFileError if the study breaks a rule or `source` is none of the three, MisuseError if a stored study is
    to get another name, StorageError if the storage cannot be read.
    """
    if Path(source).is_file() or source in shipped_studies():
        return load_study(source, overrides=overrides, name=name)
    require_stored(source, url)
    with open_study(url, source) as (_, stored):
        pass
    if name not in (None, source):
        raise MisuseError(f"--study {name}: {source} is a stored study and has its name; give a file to start another")
    return stored.study(overrides=tuple(overrides))


def require_stored(source: str, url: str) -> None:
    """Raises StudyFileError, with the nearest names, if there is no study of this name."""
    held, where = held_in(url)
    if source not in held:
        shipped = shipped_studies()
        hint = did_you_mean(source, [*held, *shipped]) or f"; studies that ship: {', '.join(shipped)}"
        raise StudyFileError(f"{source}: no such study file, no study of that name ships, and {where}{hint}")


def held_in(url: str) -> tuple[list[str], str]:
    """The names of the studies in a storage, which need not exist, and a clause about what it holds."""
    try:
        held = names_in(url)
    except NoStorageError:
        return [], f"there is no study storage {shown(parse_url(url))}"
    return held, f"{shown(parse_url(url))} holds {', '.join(held) or 'no study'}"


def names_in(url: str) -> list[str]:
    """The names of the studies in a storage, sorted. Raises StorageError if the storage cannot be read."""
    with open_storage(url) as storage:
        return sorted(study.study_name for study in storage.get_all_studies())
