"""The command line: the only module that prints.

Results go to standard output, progress, warnings and errors to standard error. Exit codes: 0 done, 1 failed,
2 misuse.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from features.errors import OffkeyError
from search.errors import MisuseError, NoStorageError, StudyError

if TYPE_CHECKING:
    import torch

    from features.corpus import Corpus
    from search.final import Detector
    from search.fleet import Fleet
    from search.placement import Slot
    from search.recipe import Recipe
    from search.status import Comparison, Status
    from search.storage import StudyStorage
    from search.stored_study import StoredStudy
    from search.study_file import Study
    from search.worker import Worker

app = typer.Typer(
    name="offkey",
    help="Searches for the model that best tells a faulty machine's sound from a healthy one's.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
    epilog="Start with [bold]offkey demo[/bold]: the whole journey on sounds it makes itself.",
)
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False, soft_wrap=True)

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="study file, shipped study, or name in the storage")
]
StorageOption = Annotated[
    str | None, typer.Option("--storage", metavar="URL", help="default: $OFFKEY_STORAGE, else sqlite:///offkey.db")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="overrides a setting: --set corpus.root=DIR; repeatable"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda:0, …")]
WorkersOption = Annotated[
    str, typer.Option(metavar="N|auto", help="local worker processes; auto: one for each GPU, else for two cores")
]
ArtifactsOption = Annotated[
    str | None,
    typer.Option(
        "--artifacts", metavar="DIR|s3://BUCKET", help="checkpoints; default: $OFFKEY_ARTIFACTS, else the cache"
    ),
]


def main() -> None:
    """The `offkey` command."""
    logging.getLogger("offkey").addHandler(logging.NullHandler())  # only a worker writes a log
    try:
        app()
    except MisuseError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(2)
    except OffkeyError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has left, `head` for one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.command(epilog="Example: offkey demo")
def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="folder for everything that the demo makes")] = Path(
        "offkey-demo"
    ),
    workers: WorkersOption = "2",
    trials: Annotated[int | None, typer.Option(help="trials in all")] = None,
) -> None:
    """The whole journey on sounds it makes itself: search, export, final training, scores."""
    from features.synthesis import MACHINE, MACHINE_IDS, make_corpus
    from search.study_file import load_study

    corpus_root, url = folder / "corpus", f"sqlite:///{folder / 'offkey.db'}"
    _step("1  Machine sounds", f"{len(MACHINE_IDS)} machines, four kinds of fault, as wav files")
    if not corpus_root.exists():
        with _writing(folder), _bar("synthesising") as advance:
            folder.mkdir(parents=True, exist_ok=True)
            make_corpus(corpus_root, progress=advance)
    name = _fresh_name("demo", url)
    budget = [] if trials is None else [f"search.trials={trials}"]
    study = load_study("demo", overrides=[f"corpus.root={corpus_root}", *budget], name=name)
    _step("2  Search", f"offkey search demo --study {name} --storage {url} --set corpus.root={corpus_root}")
    with _storage_errors(url):
        slots = _slots(workers, None)
        storage, stored, drained = _search(study, url, slots, log_folder=folder / "logs")
        status, comparison = _status(storage, stored)
    _show_summary(status, comparison)
    if drained:
        err.print(f"Stopped. The command of step 2 goes on with {name}; `offkey demo` starts another study.")
        return
    recipe_file, bundle, scores = (
        folder / f"{name}-recipe.yaml",
        folder / f"{name}-bundle",
        folder / f"{name}-scores.csv",
    )
    _step("3  Recipe", f"offkey export {name} --storage {url} -o {recipe_file}")
    with _storage_errors(url):
        recipe = _export(storage, stored, None, recipe_file)
    _step("4  Final detector", f"offkey train {recipe_file} -o {bundle}")
    _show_figures(_train(recipe, bundle, "cpu"))
    _step("5  Scores", f"offkey score {bundle} {corpus_root}/{MACHINE}/test -o {scores}")
    _score(bundle, [corpus_root / MACHINE / "test"], scores, jsonl=False, device="cpu")
    _step("Done", "what was written:")
    for path, what in (
        (corpus_root, "the sounds: listen to some"),
        (folder / "offkey.db", f"the study {name}, with every trial"),
        (recipe_file, "the best trial's settings: a study file with every range closed"),
        (bundle, "the trained detector; its README.md is the model card"),
        (scores, "score and decision of each test clip"),
    ):
        err.print(f"  [bold]{escape(str(path))}[/bold]  {what}")
    err.print("\nNext, on your own recordings (a folder with <machine>/train and <machine>/test):")
    err.print("  offkey corpus ROOT                        what is there")
    err.print("  offkey init ROOT -o study.yaml            a study file for it")
    err.print("  offkey search study.yaml                  the search")


@app.command(epilog="Example: offkey init recordings/ -o study.yaml")
def init(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="folder of the clips")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the study file to write")] = Path("study.yaml"),
) -> None:
    """Writes a commented study file for these clips."""
    from search.starter import starter_study

    if output.exists():
        raise MisuseError(f"{output} exists already, and is left as it is. Choose another file with -o.")
    text = starter_study(root, name=output.stem)
    _write_text(output, text)
    _say_written(output, f"offkey search {output}")


@app.command(epilog="Example: offkey corpus data/dcase2020 --json")
def corpus(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="folder of the clips")], as_json: JsonOption = False
) -> None:
    """Shows what was found: machines, IDs, splits, labels, seconds; unreadable files with why."""
    from features.corpus import read_corpus
    from search import screen

    found = read_corpus(root)
    if as_json:
        _print_json(screen.corpus_json(found))
    else:
        out.print(screen.corpus(found))
        out.print(f"{len(found.clips)} clips of {len(found.machines)} machines in {found.root}", soft_wrap=True)
    for unreadable in found.unreadable:
        err.print(f"[red]unreadable:[/red] {escape(unreadable.name)}: {escape(unreadable.reason)}")
    if found.unreadable:
        raise typer.Exit(1)


@app.command(epilog="Example: offkey search vae_tuning --set corpus.root=data/dcase2020 --workers 2 --trials 50")
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
    url = _url(storage)
    overrides = list(settings or [])
    overrides += [] if trials is None else [f"search.trials={trials}"]
    overrides += [] if hours is None else [f"search.hours={hours}"]
    slots = _slots(workers, per_device)
    with _storage_errors(url):
        found = _find_study(study, overrides, name, url)
        opened, stored, drained = _search(
            found, url, slots, log_folder=Path("offkey-logs"), artifacts=artifacts or os.environ.get("OFFKEY_ARTIFACTS")
        )
        status, comparison = _status(opened, stored)
    if as_json:
        from search.status import as_json as document

        _print_json(document(status, comparison))
    else:
        _show_summary(status, comparison)
        if status.best is not None:
            where = "" if storage is None else f" --storage {opened.shown_url}"
            err.print(f"\nNext: [bold]offkey export {stored.name}{where} -o recipe.yaml[/bold]")
            err.print("      [bold]offkey train recipe.yaml -o detector[/bold]")
    if drained:
        err.print("The same command goes on.")
    elif status.best is None:
        raise typer.Exit(1)


@app.command(epilog="Example: offkey worker vae_tuning --storage postgresql://offkey@database/offkey")
def worker(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="name of a study in the storage, or its file")],
    storage: StorageOption = None,
    device: DeviceOption = "cpu",
    artifacts: ArtifactsOption = None,
    settings: SetOption = None,
    owner: Annotated[str | None, typer.Option(hidden=True, help="this worker's name in the ledger")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="drain when this process is gone")] = None,
) -> None:
    """One worker on a study that exists: what `search` starts, for other hosts and schedulers."""
    import threading

    from search.draining import drain_on_signals, drain_without, leave_in_time
    from search.worker import join

    logging.basicConfig(
        format="%(asctime)s %(process)d %(message)s", datefmt="%Y-%m-%d %H:%M:%S", level=logging.WARNING, force=True
    )
    logging.getLogger("offkey").setLevel(logging.INFO)
    stop = threading.Event()
    drain_on_signals(stop)
    if parent is not None:
        drain_without(parent, stop)
    url = _url(storage)
    roots = [text.partition("=")[2] for text in settings or [] if text.startswith("corpus.root=")]
    if len(roots) != len(settings or []):
        raise MisuseError("a worker takes the study as it is stored: only corpus.root may be --set")
    if device != "cpu":
        _device(device)
    joined: list[Worker] = []

    def release() -> None:
        for worker in joined:
            worker.release()

    leave_in_time(stop, release)
    with _storage_errors(url):
        started = join(
            url,
            _stored_name(study),
            root=roots[-1] if roots else os.environ.get("OFFKEY_DATA"),
            device=device,
            artifacts=artifacts or os.environ.get("OFFKEY_ARTIFACTS"),
            stop=stop,
        )
        if owner is not None:
            started.owner = owner
        joined.append(started)
        started.run()


@app.command(epilog="Example: offkey status vae_tuning --json")
def status(study: StudyArgument, storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """Progress, workers, leases, and the best trials with intervals and ties."""
    from search.status import as_json as document

    url = _url(storage)
    with _storage_errors(url):
        opened, stored = _open(url, _stored_name(study))
        current, comparison = _status(opened, stored)
    if as_json:
        _print_json(document(current, comparison))
    else:
        _show_summary(current, comparison)


@app.command(epilog="Example: offkey export vae_tuning -o recipe.yaml")
def export(
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option(help="this trial instead of the best complete one")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file; standard output if left out")] = None,
    storage: StorageOption = None,
) -> None:
    """Writes the best trial's recipe: a study file with every range closed."""
    url = _url(storage)
    with _storage_errors(url):
        opened, stored = _open(url, _stored_name(study))
        _export(opened, stored, trial, output)


@app.command(epilog="Example: offkey train recipe.yaml -o detector")
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="an exported recipe, or a study file without ranges")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="folder of the detector")],
    device: DeviceOption = "cpu",
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains the final detector and measures it on the held-out test clips."""
    from search.study_file import load_study

    study = load_study(recipe, overrides=settings or [])
    if opened := study.space.distributions():
        raise MisuseError(f"{recipe} leaves {', '.join(opened)} open: search it, or close them with --set")
    detector = _train(study.first_recipe(), output, device)
    if as_json:
        from search.bundle import metrics_of

        _print_json({"bundle": str(output), **metrics_of(detector)})
    else:
        _show_figures(detector)
        _say_written(output, f"offkey score {output} PATH…")


@app.command(epilog="Example: offkey score detector recordings/ -o scores.csv")
def score(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder that `offkey train` wrote")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="wav files, or folders of them")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file; standard output if left out")] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines instead of CSV")] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Scores clips: path, machine, machine_id, score, decision, error. Exit code 1 if one could not be."""
    if _score(bundle, paths, output, jsonl=jsonl, device=device):
        raise typer.Exit(1)


@app.command(epilog="Example: offkey studies")
def studies(as_json: JsonOption = False) -> None:
    """The study files that ship, a line each; a name serves wherever a file does."""
    from search import screen
    from search.study_file import shipped_studies

    shipped = shipped_studies()
    if as_json:
        _print_json({"studies": [{"study": name, "about": line} for name, line in shipped.items()]})
    else:
        out.print(screen.studies(shipped))


def _url(storage: str | None) -> str:
    from search.database import default_url

    return storage or default_url()


@contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    from search.database import storage_errors

    with storage_errors(url):
        yield


def _open(url: str, name: str) -> tuple[StudyStorage, StoredStudy]:
    from search.storage import StudyStorage
    from search.stored_study import load_stored

    storage = StudyStorage(url)
    return storage, load_stored(storage, name)


def _stored_name(study: str) -> str:
    """The name in the storage of a study that is given by file or by name."""
    if not Path(study).is_file():
        return study
    from search.study_file import load_study

    return load_study(study).name


def _find_study(source: str, overrides: list[str], name: str | None, url: str) -> Study:
    """The study of a file, of a shipped name, or of a name in the storage."""
    from search.study_file import load_study, shipped_studies

    if Path(source).is_file() or source in shipped_studies():
        return load_study(source, overrides=overrides, name=name)
    try:
        stored = _open(url, source)[1]
    except (StudyError, NoStorageError):
        return load_study(source)  # whose error lists what could be meant
    if name not in (None, source):
        raise MisuseError(f"--study {name}: {source} is a stored study and has its name; give a file to start another")
    return stored.study(overrides=tuple(overrides))


def _fresh_name(stem: str, url: str) -> str:
    """The stem, or the stem with the first number that the storage has not."""
    from search.errors import StorageError
    from search.storage import StudyStorage

    try:
        taken = {study.study_name for study in StudyStorage(url).get_all_studies()}
    except StorageError:
        taken = set()
    names = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _slots(workers: str, per_device: int | None) -> list[Slot]:
    from search.placement import slots

    if workers != "auto" and (not workers.isdigit() or int(workers) < 1):
        raise MisuseError(f"--workers must be a number of at least 1, or auto, but got {workers!r}")
    return slots(None if workers == "auto" else int(workers), per_device)


def _search(
    study: Study, url: str, slots: list[Slot], *, log_folder: Path, artifacts: str | None = None
) -> tuple[StudyStorage, StoredStudy, bool]:
    """Runs a study with local workers; the last value tells whether it was asked to stop before its budget was met."""
    from search.fleet import Fleet
    from search.ledger import out_of_time
    from search.preparation import prepare
    from search.storage import StudyStorage
    from search.stored_study import create_or_join

    prepared = prepare(study, default_root=os.environ.get("OFFKEY_DATA"))
    for warning in prepared.warnings:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    if not any(setting.path[0] == "features" for setting in prepared.study.space.settings):
        _build_store(prepared.corpus, prepared.study.first_recipe())
    storage = StudyStorage(url, create=True)
    if artifacts is not None and "://" not in artifacts:
        artifacts = str(Path(artifacts).resolve())
    stored = create_or_join(storage, prepared.study, prepared.corpus, artifacts=artifacts)
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
        err.print("Draining: workers give their trials back and leave. Ctrl-C again ends them at once.")
    finally:
        try:
            fleet.stop()
        except KeyboardInterrupt:
            fleet.kill()
    if drained:
        told = "unfinished epochs are repeated" if fleet.killed else "every trial was given back"
        err.print(f"Stopped: {told}.")
    elif storage.transact(lambda session: out_of_time(session, stored.study_id)):
        err.print("The study's hours are used up; --hours gives it more.")
    return storage, stored, drained


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MisuseError(f"--device {name}: no such device here ({str(error).splitlines()[0]})") from error
    return device


def _build_store(corpus: Corpus, recipe: Recipe) -> None:
    """Computes the frames, if nobody has, where progress can be shown."""
    from search.training import open_corpus_store

    with _bar("features") as advance:
        open_corpus_store(corpus, recipe, progress=advance)


def _watch(fleet: Fleet, storage: StudyStorage, stored: StoredStudy) -> None:
    """Shows the study until its workers are done: redrawn on a terminal, else a line whenever trials end."""
    import optuna

    from search import screen
    from search.outages import StorageAway
    from search.status import read_status

    optuna_study = optuna.load_study(study_name=stored.name, storage=storage)
    current = read_status(storage, stored, optuna_study)
    fleet.start()
    away: str | None = None
    with Live(screen.progress(current), console=err, auto_refresh=False, transient=True) as live:
        while fleet.watch():
            time.sleep(0.5 if err.is_terminal else 1)
            before, was_away, away = current.done, away, None
            try:
                with storage.impatient():
                    current = read_status(storage, stored, optuna_study)
            except StorageAway as error:
                away = f"{storage.shown_url} is away ({str(error).splitlines()[0]}): workers wait for it"
            if err.is_terminal:
                live.update(screen.progress(current, note=away), refresh=True)
            elif away is not None and was_away is None:
                err.print(escape(away))
            elif line := screen.finished_line(current, before):
                err.print(escape(line))


def _status(storage: StudyStorage, stored: StoredStudy) -> tuple[Status, Comparison | None]:
    import optuna

    from search.status import compare, read_status

    current = read_status(storage, stored, optuna.load_study(study_name=stored.name, storage=storage))
    return current, compare(storage, stored, current)


def _show_summary(current: Status, comparison: Comparison | None) -> None:
    from search import screen

    out.print(screen.summary(current, comparison))


def _export(storage: StudyStorage, stored: StoredStudy, trial: int | None, output: Path | None) -> Recipe:
    from search.export import export_recipe
    from search.study_file import to_yaml

    recipe = export_recipe(storage, stored, number=trial)
    text = to_yaml(recipe.tree())
    if output is None:
        sys.stdout.write(text)
    else:
        _write_text(output, text)
        assert recipe.from_ is not None
        err.print(escape(f"Wrote {output}: trial {recipe.from_.trial} of {stored.name}"))
    return recipe


def _train(recipe: Recipe, bundle: Path, device: str) -> Detector:
    from features.corpus import read_corpus
    from search.bundle import require_free, save_bundle
    from search.final import train_detector
    from search.preparation import check_labels

    on = _device(device)
    require_free(bundle)
    root = recipe.corpus.root or os.environ.get("OFFKEY_DATA")
    if root is None:
        raise StudyError("corpus.root is missing: give it with --set corpus.root=DIR or in $OFFKEY_DATA")
    corpus = read_corpus(Path(root)).of_machines(recipe.corpus.machines)
    corpus.require_readable()
    check_labels(corpus, recipe.validation)
    _build_store(corpus, recipe)
    with _bar("training") as advance:
        detector = train_detector(recipe, corpus, on, on_epoch=lambda epoch: advance(epoch, recipe.training.epochs))
    save_bundle(detector, bundle)
    return detector


def _show_figures(detector: Detector) -> None:
    from search import screen

    out.print(screen.figures(detector.validation, detector.test))
    few = [name for name, clips in detector.threshold_clips.items() if clips < 10]
    if few:
        err.print(f"[yellow]warning:[/yellow] thresholds of {', '.join(few)} rest on fewer than ten clips each")


def _score(folder: Path, paths: list[Path], output: Path | None, *, jsonl: bool, device: str) -> int:
    """Writes the scores of all clips; returns how many could not be scored or decided."""
    from search.bundle import load_bundle
    from search.scoring import ScoredClip, clip_paths, score_clips

    on = _device(device)
    bundle = load_bundle(folder)
    files = clip_paths(paths)
    errors = anomalies = 0
    with _open_output(output) as file, _bar("scoring", quiet=output is None) as advance:
        rows = csv.DictWriter(file, [field.name for field in fields(ScoredClip)], lineterminator="\n")
        if not jsonl:
            rows.writeheader()
        for done, scored in enumerate(score_clips(bundle, files, on), 1):
            if jsonl:
                file.write(json.dumps(asdict(scored)) + "\n")
            else:
                rows.writerow(asdict(scored))
            errors += scored.error is not None
            anomalies += scored.decision == 1
            advance(done, len(files))
    err.print(
        f"{len(files)} clips: {anomalies} called anomalous, {errors} with an error"
        + (f"; wrote {output}" if output else "")
    )
    return errors


@contextmanager
def _open_output(path: Path | None) -> Iterator[Any]:
    if path is None:
        yield sys.stdout
        return
    with _writing(path), path.open("w", newline="", encoding="utf-8") as file:
        yield file


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_text(path: Path, text: str) -> None:
    with _open_output(path) as file:
        file.write(text)


def _say_written(path: Path, next_command: str) -> None:
    err.print(f"Wrote {escape(str(path))}. Next: [bold]{escape(next_command)}[/bold]")


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def _step(title: str, what: str) -> None:
    err.print(f"\n[bold cyan]{title}[/bold cyan]  [dim]{escape(what)}[/dim]")


@contextmanager
def _bar(what: str, *, quiet: bool = False) -> Iterator[Any]:
    """A progress bar on a terminal; called with (done, in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


if __name__ == "__main__":
    main()
