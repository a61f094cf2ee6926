"""`offkey stop`, `offkey retry`, `offkey rename`, `offkey delete`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from search.cli.options import StorageOption, StudyArgument, open_study
from search.cli.terminal import err
from search.errors import MisuseError


def stop(study: StudyArgument, storage: StorageOption = None) -> None:
    """Asks the workers of a study, on every host, to give their trials back and leave."""
    from search.storage.study_ledger import StudyLedger

    with open_study(study, storage) as (opened, stored):
        workers = StudyLedger(opened, stored).request_stop()
    leave = "1 worker leaves" if workers == 1 else f"{workers} workers leave"
    err.print(f"{escape(stored.name)}: {leave} within 20 seconds. `offkey search` continues it.")


def retry(
    study: StudyArgument,
    storage: StorageOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="every trial that failed")] = False,
    trials: Annotated[
        list[int] | None, typer.Option("--trial", metavar="N", help="this trial; may be repeated")
    ] = None,
) -> None:
    """Puts failed trials of a study back, once their cause is mended: they are tried again with the same settings."""
    from search.storage.study_ledger import StudyLedger

    if failed == bool(trials):
        raise MisuseError(
            "give --failed for every trial that failed, or --trial N, and not both; `offkey status` lists them"
        )
    with open_study(study, storage) as (opened, stored):
        again = StudyLedger(opened, stored).retry(None if failed else trials)
    if not again:
        err.print(f"{escape(stored.name)}: no trial has failed.")
        return
    which = f"Trial {again[0]} waits" if len(again) == 1 else f"Trials {', '.join(map(str, again))} wait"
    err.print(f"{escape(stored.name)}: {which} to be tried again. `offkey search` continues the study.")


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
