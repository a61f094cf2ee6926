"""`offkey stop`, `offkey rename`, `offkey delete`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from search.cli.options import StorageOption, StudyArgument, open_study
from search.cli.terminal import err


def stop(study: StudyArgument, storage: StorageOption = None) -> None:
    """Asks the workers of a study, on every host, to give their trials back and leave."""
    from search.storage.study_ledger import StudyLedger

    with open_study(study, storage) as (opened, stored):
        workers = StudyLedger(opened, stored).request_stop()
    leave = "1 worker leaves" if workers == 1 else f"{workers} workers leave"
    err.print(f"{escape(stored.name)}: {leave} within 20 seconds. `offkey search` continues it.")


def rename(
    study: StudyArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the new name")],
    storage: StorageOption = None,
) -> None:
    """Gives a study in the storage another name."""
    from search.storage.upkeep import rename_study

    with open_study(study, storage) as (opened, stored):
        rename_study(opened, stored, name)
    err.print(f"{escape(stored.name)} is now called {escape(name)}.")


def delete(
    study: StudyArgument,
    storage: StorageOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask first")] = False,
) -> None:
    """Deletes a study from the storage, with its trials, checkpoints and pictures. Asks first."""
    from search.storage.upkeep import delete_study

    with open_study(study, storage) as (opened, stored):
        trials = len(opened.get_all_trials(stored.study_id, deepcopy=False))
        if not yes:
            question = f"Delete {stored.name} with its {trials} trials from {opened.shown_url}?"
            typer.confirm(question, abort=True, err=True)
        delete_study(opened, stored)
    err.print(f"{escape(stored.name)} is deleted.")
