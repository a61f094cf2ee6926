"""`offkey search`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.markup import escape

from search.cli.options import (
    ArtifactsOption,
    JsonOption,
    OnOption,
    SetOption,
    StorageOption,
    StudyArgument,
    VerboseOption,
    WorkersOption,
    storage_errors,
    url_of,
)
from search.cli.study.status import show_summary, status_of
from search.cli.terminal import LogOnTerminal, err, print_json, progress_bar, warn
from search.errors import MisuseError
from search.logs import show_all

if TYPE_CHECKING:
    from search.preparation.prepared import Prepared
    from search.storage.stored_study import StoredStudy
    from search.storage.study_storage import StudyStorage
    from search.study.study import Study
    from search.workers.devices import Slot
    from search.workers.supervision import Moment, Workers

#: Off a terminal, notes on what keeps workers from working are at least this far apart (seconds).
_NOTE_SECONDS = 10.0


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster whose workers run a study."""

    address: str  # in the form that Ray takes
    workers: int
    gpus: float  # share of a GPU for each worker, 0 to 1
    stay: bool  # whether workers stay at work when this command ends


def search(
    study: StudyArgument,
    name: Annotated[
        str | None,
        typer.Option("--study", metavar="NAME", help="name of the study in the storage; default: the name in its file"),
    ] = None,
    workers: WorkersOption = "auto",
    per_device: Annotated[int | None, typer.Option(min=1, metavar="K", help="number of workers for each GPU")] = None,
    on: OnOption = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="with --on: share of a GPU for each worker; default: 0, on the CPU"
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="with --on: Ctrl-C ends this command and leaves the workers at work")
    ] = False,
    storage: StorageOption = None,
    trials: Annotated[int | None, typer.Option(help="number of trials in all; can be raised later")] = None,
    hours: Annotated[
        float | None, typer.Option(help="hours in all, in which at least one worker is at work; can be raised later")
    ] = None,
    artifacts: ArtifactsOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs a study to its budget, here or on a cluster. Ctrl-C stops it; the same command continues or joins it."""
    if verbose:
        show_all(LogOnTerminal())
    url = url_of(storage)
    overrides = list(settings or [])
    overrides += [] if trials is None else [f"search.trials={trials}"]
    overrides += [] if hours is None else [f"search.hours={hours}"]
    if on is None:
        if gpus_per_worker is not None or detach:
            raise MisuseError("--gpus-per-worker and --detach are for workers on a cluster: give its address with --on")
        places: list[Slot] | Cluster = slots_of(workers, per_device)
    else:
        places = _cluster_of(on, workers, per_device, gpus_per_worker or 0.0, stay=detach, url=url)
    from search.storage.outages import StorageAway, waiting_at_the_start
    from search.storage.study_lookup import find_study

    with storage_errors(url), waiting_at_the_start(lambda line: err.print(escape(line))):
        loaded = find_study(study, url, overrides=overrides, name=name)
        opened, stored, drained = run_search(
            loaded,
            url,
            places,
            log_folder=Path("offkey-logs"),
            artifacts=artifacts or os.environ.get("OFFKEY_ARTIFACTS"),
            verbose=verbose,
        )
        try:
            with opened.impatient() if drained else nullcontext():
                status, comparison = status_of(opened, stored)
        except StorageAway:
            err.print(escape(f"{opened.shown_url} is away: `offkey status {stored.name}` shows the study later."))
            err.print("The same command continues it.")
            raise typer.Exit(1) from None
    if as_json:
        from search.results.comparison import as_json as document

        print_json(document(status, comparison))
    else:
        show_summary(status, comparison)
        if status.best is not None:
            where = "" if storage is None else f" --storage {opened.shown_url}"
            which = " --trial N" if len(status.objectives) > 1 else ""
            err.print(f"\nNext: [bold]offkey export {stored.name}{which}{where} -o recipe.yaml[/bold]")
            err.print(f"      [bold]offkey train recipe.yaml{where} -o detector[/bold]")
    if drained:
        err.print("The same command continues the study.")
    elif status.best is None:
        raise typer.Exit(1)


def slots_of(workers: str, per_device: int | None) -> list[Slot]:
    """The places of workers on this host. Raises MisuseError if `workers` is neither a number nor auto."""
    from search.workers.devices import slots

    if workers != "auto" and (not workers.isdigit() or int(workers) < 1):
        raise MisuseError(f"--workers must be a number of at least 1, or auto, but got {workers!r}")
    return slots(None if workers == "auto" else int(workers), per_device)


def _cluster_of(address: str, workers: str, per_device: int | None, gpus: float, *, stay: bool, url: str) -> Cluster:
    from search.storage.database import parse_url, shown

    if not workers.isdigit() or int(workers) < 1:
        raise MisuseError(f"--on needs --workers N, a number of at least 1, but got {workers!r}")
    if per_device is not None:
        raise MisuseError("--per-device is for the GPUs of this host; with --on, --gpus-per-worker is a worker's share")
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        raise MisuseError(
            f"--on needs a storage that all nodes reach, but {shown(parsed)} is a file of this host: "
            "give --storage postgresql://…"
        )
    return Cluster(address, int(workers), gpus, stay)


def run_search(
    study: Study,
    url: str,
    places: list[Slot] | Cluster,
    *,
    log_folder: Path,
    artifacts: str | None = None,
    verbose: bool = False,
) -> tuple[StudyStorage, StoredStudy, bool]:
    """Runs a study. Returns storage, stored study, and whether it was asked to stop before its budget was met."""
    from search.preparation.portfolio_sources import with_choices
    from search.preparation.prepared import prepare
    from search.workers.supervision import supervise

    with _connected(places.address) if isinstance(places, Cluster) else nullcontext():
        with progress_bar("recordings") as advance:
            prepared = prepare(with_choices(study, url), default_root=os.environ.get("OFFKEY_DATA"), progress=advance)
        for warning in prepared.warnings:
            warn(warning)
        if isinstance(places, Cluster):
            fleet = _workers_on(places, prepared, url, artifacts, verbose)
        else:
            fleet = _workers_here(places, prepared, url, artifacts, log_folder, verbose)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        redraws = err.is_terminal and not err.is_dumb_terminal
        ending = supervise(
            fleet,
            _redrawn if redraws else _in_lines,
            pause=0.5 if redraws else 1,
            on_drain=_say_draining,
            stay=isinstance(places, Cluster) and places.stay,
        )
    if ending == "interrupted":
        outcome = "unfinished epochs are repeated" if fleet.interrupted else "every trial was given back"
        err.print(f"Stopped: {outcome}.")
    elif ending == "left":
        err.print(f"The workers stay at work; `offkey stop {escape(fleet.stored.name)}` makes them leave.")
    elif ending == "stopped":
        err.print("Stopped by `offkey stop`: every trial was given back.")
    elif ending == "out of time":
        err.print("The study's hours are used up, or too short for another trial; raise them with --hours.")
    return fleet.storage, fleet.stored, ending in ("interrupted", "stopped", "left")


@contextmanager
def _connected(address: str) -> Iterator[None]:
    # Ray prints events of its nodes on standard output, which is for results. It leaves out the lines that match this.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        from search.workers.ray_fleet import connected
    except ImportError as error:
        if error.name != "ray":
            raise
        raise MisuseError("--on needs Ray: pip install 'offkey[ray]'") from error
    with connected(address):
        yield


def _workers_on(cluster: Cluster, prepared: Prepared, url: str, artifacts: str | None, verbose: bool) -> Workers:
    from search.workers.ray_fleet import RayFleet
    from search.workers.supervision import store_study

    storage, stored, place = store_study(prepared, url, artifacts)
    _say_what_stays(stored, prepared, artifacts)
    if (place or stored.artifacts) is None:
        warn("without --artifacts a trial that moves to another node starts over there")
    err.print(escape(f"{_count(cluster.workers)} on {cluster.address}; logs in $OFFKEY_CACHE/logs of each node"))
    return RayFleet(
        storage, stored, prepared.corpus.root.resolve(), cluster.workers, cluster.gpus, place, verbose=verbose
    )


def _workers_here(
    slots: list[Slot], prepared: Prepared, url: str, artifacts: str | None, log_folder: Path, verbose: bool
) -> Workers:
    from search.workers.supervision import build_features, fleet_for

    with progress_bar("features") as advance:
        build_features(prepared, progress=advance)
    is_person = sys.stdin.isatty()  # who may have mended this host; a scheduler starts a broken one again and again
    fleet = fleet_for(
        prepared, url, slots, log_folder=log_folder, artifacts=artifacts, forgives=is_person, verbose=verbose
    )
    _say_what_stays(fleet.stored, prepared, artifacts)
    err.print(escape(f"{_count(len(slots))}; logs in {fleet.log_folder}"))
    return fleet


def _say_what_stays(stored: StoredStudy, prepared: Prepared, artifacts: str | None) -> None:
    from search.workers.supervision import what_stays

    for unchanged in what_stays(stored, prepared, artifacts):
        err.print(escape(unchanged))


def _count(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _say_draining() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers send several; only a second Ctrl-C ends at once
    err.print("Draining: workers give their trials back and leave. Ctrl-C again ends them at once.")


def _redrawn(moments: Iterator[Moment]) -> None:
    """Shows the study on a terminal until its workers are done."""
    from search.cli.study.study_tables import progress

    with Live(console=err, auto_refresh=False, transient=True) as live:
        for moment in moments:
            live.update(progress(moment.status, note=moment.away or moment.note), refresh=True)


def _in_lines(moments: Iterator[Moment]) -> None:
    """Prints a line whenever trials end, when the storage is away, and now and then on what keeps workers waiting."""
    from search.cli.study.study_tables import finished_line

    before = next(moments)
    printed, when = before.note, time.monotonic()
    for moment in moments:
        if moment.away is not None:
            if before.away is None:
                err.print(escape(moment.away))
        elif line := finished_line(moment.status, before.status.done):
            err.print(escape(line))
        before = moment
        if moment.note != printed and time.monotonic() - when > _NOTE_SECONDS:
            printed, when = moment.note, time.monotonic()
            if printed is not None:
                err.print(escape(printed))
