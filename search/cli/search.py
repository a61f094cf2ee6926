"""`offkey search`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.markup import escape

from search.cli.options import (
    ArtifactsOption,
    JsonOption,
    SetOption,
    StorageOption,
    StudyArgument,
    WorkersOption,
    open_study,
    storage_errors,
    url_of,
)
from search.cli.status import show_summary, status_of
from search.cli.terminal import err, print_json
from search.cli.train import build_store
from search.errors import MisuseError, NoStorageError, StudyError

if TYPE_CHECKING:
    from search.fleet import Fleet
    from search.placement import Slot
    from search.storage import StudyStorage
    from search.stored_study import StoredStudy
    from search.study_file import Study


def search(
    study: StudyArgument,
    name: Annotated[str | None, typer.Option("--study", metavar="NAME", help="the study's name in the storage")] = None,
    workers: WorkersOption = "auto",
    per_device: Annotated[int | None, typer.Option(min=1, metavar="K", help="workers for each GPU")] = None,
    storage: StorageOption = None,
    trials: Annotated[int | None, typer.Option(help="trials in all; may be raised later")] = None,
    hours: Annotated[float | None, typer.Option(help="wall clock with at least one worker")] = None,
    artifacts: ArtifactsOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Runs a study to its budget with local workers; joins it if it exists. Ctrl-C drains; run again to go on."""
    url = url_of(storage)
    overrides = list(settings or [])
    overrides += [] if trials is None else [f"search.trials={trials}"]
    overrides += [] if hours is None else [f"search.hours={hours}"]
    slots = slots_of(workers, per_device)
    with storage_errors(url):
        found = _find_study(study, overrides, name, url)
        opened, stored, drained = run_search(
            found, url, slots, log_folder=Path("offkey-logs"), artifacts=artifacts or os.environ.get("OFFKEY_ARTIFACTS")
        )
        status, comparison = status_of(opened, stored)
    if as_json:
        from search.status import as_json as document

        print_json(document(status, comparison))
    else:
        show_summary(status, comparison)
        if status.best is not None:
            where = "" if storage is None else f" --storage {opened.shown_url}"
            err.print(f"\nNext: [bold]offkey export {stored.name}{where} -o recipe.yaml[/bold]")
            err.print("      [bold]offkey train recipe.yaml -o detector[/bold]")
    if drained:
        err.print("The same command goes on.")
    elif status.best is None:
        raise typer.Exit(1)


def _find_study(source: str, overrides: list[str], name: str | None, url: str) -> Study:
    """The study of a file, of a shipped name, or of a name in the storage."""
    from search.study_file import load_study, shipped_studies

    if Path(source).is_file() or source in shipped_studies():
        return load_study(source, overrides=overrides, name=name)
    try:
        stored = open_study(url, source)[1]
    except (StudyError, NoStorageError):
        return load_study(source)  # whose error lists what could be meant
    if name not in (None, source):
        raise MisuseError(f"--study {name}: {source} is a stored study and has its name; give a file to start another")
    return stored.study(overrides=tuple(overrides))


def slots_of(workers: str, per_device: int | None) -> list[Slot]:
    from search.placement import slots

    if workers != "auto" and (not workers.isdigit() or int(workers) < 1):
        raise MisuseError(f"--workers must be a number of at least 1, or auto, but got {workers!r}")
    return slots(None if workers == "auto" else int(workers), per_device)


def run_search(
    study: Study, url: str, slots: list[Slot], *, log_folder: Path, artifacts: str | None = None
) -> tuple[StudyStorage, StoredStudy, bool]:
    """Runs a study with local workers; the last value tells whether it was asked to stop before its budget was met."""
    from search.fleet import Fleet
    from search.ledger import out_of_time, unfinished
    from search.outages import PATIENCE
    from search.preparation import prepare
    from search.storage import StudyStorage
    from search.stored_study import create_or_join

    prepared = prepare(study, default_root=os.environ.get("OFFKEY_DATA"))
    for warning in prepared.warnings:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    if not any("features" in setting.path for setting in prepared.study.space.settings):
        build_store(prepared.corpus, prepared.study.first_recipe())
    storage = StudyStorage(url, create=True)
    if artifacts is not None and "://" not in artifacts:
        artifacts = str(Path(artifacts).resolve())
    stored = create_or_join(storage, prepared.study, prepared.corpus, artifacts=artifacts)
    storage.patience = PATIENCE  # from here on: a mistyped URL is answered at once
    if stored.budget > prepared.study.search.trials:
        err.print(f"{stored.name} has a budget of {stored.budget} trials already; joining never lowers it")
    root = prepared.corpus.root.resolve()
    fleet = Fleet(storage, stored, root, slots, (log_folder / stored.name).absolute(), artifacts)
    err.print(escape(f"{len(slots)} worker{'s' if len(slots) > 1 else ''}; logs in {fleet.log_folder}"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    drained = False
    try:
        _watch(fleet, storage, stored)
    except KeyboardInterrupt:
        drained = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers send several; a second Ctrl-C is somebody's wish
        err.print("Draining: workers give their trials back and leave. Ctrl-C again ends them at once.")
    finally:
        try:
            fleet.stop()
        except KeyboardInterrupt:
            fleet.kill()
    if drained:
        told = "unfinished epochs are repeated" if fleet.interrupted else "every trial was given back"
        err.print(f"Stopped: {told}.")
    elif fleet.was_stopped() and storage.transact(lambda session: unfinished(session, stored.study_id)):
        drained = True
        err.print("Stopped by `offkey stop`: every trial was given back.")
    elif storage.transact(lambda session: out_of_time(session, stored.study_id)):
        err.print("The study's hours are used up; --hours gives it more.")
    return storage, stored, drained


def _watch(fleet: Fleet, storage: StudyStorage, stored: StoredStudy) -> None:
    """Shows the study until its workers are done: redrawn on a terminal, else a line whenever trials end."""
    import optuna

    from search import screen
    from search.outages import StorageAway
    from search.status import read_status

    optuna_study = optuna.load_study(study_name=stored.name, storage=storage)
    current = read_status(storage, stored, optuna_study)
    fleet.start()
    redraws = err.is_terminal and not err.is_dumb_terminal
    away: str | None = None
    with Live(screen.progress(current), console=err, auto_refresh=False, transient=True) as live:
        while fleet.watch():
            time.sleep(0.5 if redraws else 1)
            before, was_away, away = current.done, away, None
            try:
                with storage.impatient():
                    current = read_status(storage, stored, optuna_study)
            except StorageAway as error:
                away = f"{storage.shown_url} is away ({str(error).splitlines()[0]}): workers wait for it"
            if redraws:
                live.update(screen.progress(current, note=away), refresh=True)
            elif away is not None and was_away is None:
                err.print(escape(away))
            elif line := screen.finished_line(current, before):
                err.print(escape(line))
