"""`offkey status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.cli.options import JsonOption, StorageOption, StudyArgument, open_study
from search.cli.terminal import out, print_json

if TYPE_CHECKING:
    from search.results.comparison import Comparison
    from search.results.status import Status
    from search.storage.stored_study import StoredStudy
    from search.storage.study_storage import StudyStorage


def status(study: StudyArgument, storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """Shows the progress of a study, its workers and leases, and the best trials with intervals and ties."""
    from search.results.comparison import as_json as document

    with open_study(study, storage) as (opened, stored):
        current, comparison = status_of(opened, stored)
    if as_json:
        print_json(document(current, comparison))
    else:
        show_summary(current, comparison)


def status_of(storage: StudyStorage, stored: StoredStudy) -> tuple[Status, Comparison | None]:
    """Reads the status of a stored study, and compares its best trials."""
    import optuna

    from search.results.comparison import compare
    from search.results.status import read_status

    current = read_status(storage, stored, optuna.load_study(study_name=stored.name, storage=storage))
    return current, compare(storage, stored, current)


def show_summary(current: Status, comparison: Comparison | None) -> None:
    """Prints the status of a study."""
    from search.cli.study.study_tables import summary

    out.print(summary(current, comparison))
