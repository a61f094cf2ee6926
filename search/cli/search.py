"""`offkey search`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
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
    storage_errors,
    url_of,
)
from search.cli.status import show_summary, status_of
from search.cli.terminal import err, print_json, progress_bar
from search.errors import MisuseError

if TYPE_CHECKING:
    from search.placement import Slot
    from search.running import Moment
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
    from search.running import find_study

    with storage_errors(url):
        found = find_study(study, url, overrides=overrides, name=name)
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
            err.print(f"      [bold]offkey train recipe.yaml{where} -o detector[/bold]")
    if drained:
        err.print("The same command goes on.")
    elif status.best is None:
        raise typer.Exit(1)


def slots_of(workers: str, per_device: int | None) -> list[Slot]:
    from search.placement import slots

    if workers != "auto" and (not workers.isdigit() or int(workers) < 1):
        raise MisuseError(f"--workers must be a number of at least 1, or auto, but got {workers!r}")
    return slots(None if workers == "auto" else int(workers), per_device)


def run_search(
    study: Study, url: str, slots: list[Slot], *, log_folder: Path, artifacts: str | None = None
) -> tuple[StudyStorage, StoredStudy, bool]:
    """Runs a study with local workers; the last value tells whether it was asked to stop before its budget was met."""
    from search.preparation import prepare
    from search.running import build_features, fleet_for, supervise

    prepared = prepare(study, default_root=os.environ.get("OFFKEY_DATA"))
    for warning in prepared.warnings:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    with progress_bar("features") as advance:
        build_features(prepared, progress=advance)
    fleet = fleet_for(prepared, url, slots, log_folder=log_folder, artifacts=artifacts)
    stored = fleet.stored
    if stored.budget > prepared.study.search.trials:
        err.print(f"{stored.name} has a budget of {stored.budget} trials already; joining never lowers it")
    err.print(escape(f"{len(slots)} worker{'s' if len(slots) > 1 else ''}; logs in {fleet.log_folder}"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    redraws = err.is_terminal and not err.is_dumb_terminal
    ending = supervise(fleet, _redrawn if redraws else _in_lines, pause=0.5 if redraws else 1, on_drain=_say_draining)
    if ending == "interrupted":
        told = "unfinished epochs are repeated" if fleet.interrupted else "every trial was given back"
        err.print(f"Stopped: {told}.")
    elif ending == "stopped":
        err.print("Stopped by `offkey stop`: every trial was given back.")
    elif ending == "out of time":
        err.print("The study's hours are used up; --hours gives it more.")
    return fleet.storage, stored, ending in ("interrupted", "stopped")


def _say_draining() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers send several; a second Ctrl-C is somebody's wish
    err.print("Draining: workers give their trials back and leave. Ctrl-C again ends them at once.")


def _redrawn(moments: Iterator[Moment]) -> None:
    """Shows the study on a terminal until its workers are done."""
    from search import screen

    with Live(console=err, auto_refresh=False, transient=True) as live:
        for moment in moments:
            live.update(screen.progress(moment.status, note=moment.away), refresh=True)


def _in_lines(moments: Iterator[Moment]) -> None:
    """A line whenever trials end, and one when the storage is away."""
    from search import screen

    before = next(moments)
    for moment in moments:
        if moment.away is not None:
            if before.away is None:
                err.print(escape(moment.away))
        elif line := screen.finished_line(moment.status, before.status.done):
            err.print(escape(line))
        before = moment
