"""A search from a study file to its end, for `offkey search` and `search.api`.

Each shows the search in its own way: as one `Moment` a pause, and its `Ending`. A KeyboardInterrupt, for example from
Ctrl-C, drains the search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import optuna

from features.progress import Progress
from search.results.status import Status, read_status
from search.storage.outages import PATIENCE, StorageAway
from search.storage.stored_study import StoredStudy, create_or_join
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.workers.devices import Slot
from search.workers.fleet import Fleet

if TYPE_CHECKING:
    from search.preparation.prepared import Prepared

#: "done": the budget is met, or the study has ended itself. "out of time": the hours are used up, or too short for
#: another trial. "stopped": by `offkey stop`. "interrupted": by KeyboardInterrupt. "left": by KeyboardInterrupt, and
#: the workers stay at work.
Ending = Literal["done", "out of time", "stopped", "interrupted", "left"]


class Workers(Protocol):
    """The workers of one study, wherever they are: a `Fleet` on this host, a `RayFleet` on a cluster."""

    storage: StudyStorage
    stored: StoredStudy
    interrupted: bool  # whether a worker left without giving its trial back

    @property
    def note(self) -> str | None: ...  # on what keeps workers from working

    def start(self) -> None: ...

    def watch(self) -> bool: ...  # True while any worker runs or is to be started

    def was_stopped(self) -> bool: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class Moment:
    """A search while its workers are at work."""

    status: Status  # as it was last read
    away: str | None  # a sentence while the storage does not answer
    note: str | None = None  # on what keeps workers from working


def build_features(prepared: Prepared, *, progress: Progress | None = None) -> None:
    """Computes the frames of each branch, unless they exist. If features are open, trials compute their own."""
    from search.training.stores import open_corpus_stores

    if any("features" in setting.path for setting in prepared.study.space.settings):
        return
    for recipe in prepared.study.recipes():
        open_corpus_stores(prepared.validation_data.views[0], recipe, progress=progress)


def store_study(prepared: Prepared, url: str, artifacts: str | None) -> tuple[StudyStorage, StoredStudy, str | None]:
    """Stores a study, or joins it if it exists. Returns its storage, the stored study, and its workers' artifacts.

    `artifacts` is a folder or bucket that hosts share; a folder becomes an absolute path.
    Raises StudyError if a study of this name differs, StorageError if the storage cannot be used.
    """
    if artifacts is not None and "://" not in artifacts:
        artifacts = str(Path(artifacts).resolve())
    storage = StudyStorage(url, create=True)
    stored = create_or_join(
        storage, prepared.study, prepared.corpus, prepared.validation_data.truth, artifacts=artifacts
    )
    artifacts = _place_of_workers(artifacts, stored)
    storage.patience = PATIENCE  # only from here on, so that a mistyped URL fails at once
    return storage, stored, artifacts


def _place_of_workers(asked: str | None, stored: StoredStudy) -> str | None:
    """Where workers here keep checkpoints: where the study does, so that trials may move.

    A folder that this host does not have under the study's name may be mounted under the one that was asked for.
    """
    place = stored.artifacts
    is_here = place is None or "://" in place or Path(place).is_dir()
    return None if asked is None or is_here else asked


def fleet_for(
    prepared: Prepared,
    url: str,
    slots: Sequence[Slot],
    *,
    log_folder: Path,
    artifacts: str | None = None,
    forgives: bool = True,
    verbose: bool = False,
) -> Fleet:
    """Stores or joins the study (see `store_study`) and returns its workers on this host, which are not started yet.

    forgives : whether what failed on this host before is forgotten
    """
    storage, stored, artifacts = store_study(prepared, url, artifacts)
    root, log_folder = prepared.corpus.root.resolve(), (log_folder / stored.name).absolute()
    return Fleet(storage, stored, root, slots, log_folder, artifacts, forgives=forgives, verbose=verbose)


def what_stays(stored: StoredStudy, prepared: Prepared, artifacts: str | None) -> list[str]:
    """Sentences on what was asked for and joining has not changed, because others rely on it."""
    asked, name = prepared.study.search, stored.name
    stays = []
    if stored.budget > asked.trials:
        stays.append(f"{name} has a budget of {stored.budget} trials already; joining never lowers it")
    if asked.hours is not None and stored.hours != asked.hours:
        limit = "no limit of hours" if stored.hours is None else f"a limit of {stored.hours:g} hours"
        stays.append(f"{name} has {limit} already; joining never lowers it")
    if asked.stall_minutes is not None and stored.search.longest_silence > asked.stall_minutes:
        stays.append(f"{name} has stall_minutes {stored.search.longest_silence:g} already; joining never lowers it")
    if artifacts is not None and stored.artifacts not in (artifacts, str(Path(artifacts).resolve())):
        place = "each host's own cache" if stored.artifacts is None else stored.artifacts
        stays.append(
            f"{name} keeps its checkpoints in {place}, which trials need: {artifacts} takes them once no trial is at "
            "work or waits half-finished"
        )
    return stays


def supervise(
    fleet: Workers,
    show: Callable[[Iterator[Moment]], object],
    *,
    pause: float,
    on_drain: Callable[[], object],
    stay: bool = False,
) -> Ending:
    """Starts the workers and lets `show` follow the search, with `pause` seconds between moments.

    No worker is left at the end. At the first KeyboardInterrupt `on_drain` is called, then the workers are asked to
    give their trials back; a second one ends them at once. If workers `stay`, the first one leaves them at work.
    Raises StudyError if workers keep dying.
    """
    interrupted = False
    try:
        show(_moments(fleet, pause))
    except KeyboardInterrupt:
        if stay:
            return "left"
        interrupted = True
        on_drain()
    finally:
        if not stay:
            _end(fleet)
    return "interrupted" if interrupted else _ending(fleet)


def telling(moments: Iterable[Moment], tell: Callable[[str], object]) -> Iterator[Moment]:
    """Yields the moments, and tells of each note on the workers once."""
    told: set[str] = set()
    for moment in moments:
        if moment.note is not None and moment.note not in told:
            told.add(moment.note)
            tell(moment.note)
        yield moment


def _end(fleet: Workers) -> None:
    try:
        fleet.stop()
    except KeyboardInterrupt:
        fleet.kill()


def _moments(fleet: Workers, pause: float) -> Iterator[Moment]:
    optuna_study = optuna.load_study(study_name=fleet.stored.name, storage=fleet.storage)
    current = read_status(fleet.storage, fleet.stored, optuna_study)
    fleet.start()
    yield Moment(current, None)
    while fleet.watch():
        time.sleep(pause)
        away = None
        try:
            with fleet.storage.impatient():
                current = read_status(fleet.storage, fleet.stored, optuna_study)
        except StorageAway as error:
            reason = str(error).splitlines()[0]
            away = f"{fleet.storage.shown_url} is away ({reason}): workers wait for it"
        yield Moment(current, away, fleet.note)


def _ending(fleet: Workers) -> Ending:
    ledger = StudyLedger(fleet.storage, fleet.stored)
    if fleet.was_stopped() and ledger.unfinished():
        return "stopped"
    return "out of time" if ledger.out_of_time() or ledger.unfinished() else "done"
