"""`offkey demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from search.cli.detector.score import write_scores
from search.cli.detector.train import show_metrics, train_bundle
from search.cli.options import WorkersOption, storage_errors
from search.cli.study.export import write_recipe
from search.cli.study.report import write_report
from search.cli.study.search import run_search, slots_of
from search.cli.study.status import show_summary, status_of
from search.cli.terminal import err, progress_bar, writing


def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="folder for all files of the demo")] = Path(
        "offkey-demo"
    ),
    workers: WorkersOption = "2",
    trials: Annotated[int | None, typer.Option(help="number of trials in all")] = None,
) -> None:
    """Runs every step on synthetic sounds: search, export, final training, scores, report."""
    from features.clips.synthetic_corpus import MACHINE, MACHINE_IDS, make_corpus
    from search.study.study_file import load_study

    corpus_root, url = folder / "corpus", f"sqlite:///{folder / 'offkey.db'}"
    _step("1  Machine sounds", f"{len(MACHINE_IDS)} machines, four kinds of fault, as wav files")
    if not corpus_root.exists():
        with writing(folder), progress_bar("synthesising") as advance:
            folder.mkdir(parents=True, exist_ok=True)
            make_corpus(corpus_root, progress=advance)
    name = _fresh_name("demo", url)
    budget = [] if trials is None else [f"search.trials={trials}"]
    study = load_study("demo", overrides=[f"corpus.root={corpus_root}", *budget], name=name)
    _step("2  Search", f"offkey search demo --study {name} --storage {url} --set corpus.root={corpus_root}")
    with storage_errors(url):
        slots = slots_of(workers, None)
        storage, stored, drained = run_search(study, url, slots, log_folder=folder / "logs")
        status, comparison = status_of(storage, stored)
    show_summary(status, comparison)
    if drained:
        err.print(f"Stopped. The command of step 2 continues {name}; `offkey demo` starts another study.")
        return
    recipe_file, bundle, scores, page = (
        folder / f"{name}-recipe.yaml",
        folder / f"{name}-bundle",
        folder / f"{name}-scores.csv",
        folder / f"{name}-report.html",
    )
    _step("3  Recipe", f"offkey export {name} --storage {url} -o {recipe_file}")
    with storage_errors(url):
        recipe = write_recipe(storage, stored, None, recipe_file)
    _step("4  Final detector", f"offkey train {recipe_file} --storage {url} -o {bundle}")
    show_metrics(train_bundle(recipe, bundle, "cpu", storage=url))
    _step("5  Scores", f"offkey score {bundle} {corpus_root}/{MACHINE}/test -o {scores}")
    write_scores(bundle, [corpus_root / MACHINE / "test"], scores, jsonl=False, device="cpu")
    _step("6  Report", f"offkey report {name} --storage {url} -o {page}")
    with storage_errors(url):
        write_report(storage, stored, page)
    _step("Done", "these files were written:")
    for path, what in (
        (corpus_root, "the sounds: listen to a few"),
        (folder / "offkey.db", f"the study {name}, with every trial"),
        (recipe_file, "the best trial's settings: a study file without ranges"),
        (bundle, "the trained detector; its README.md is the model card"),
        (scores, "score and decision of each test clip"),
        (page, "the study on one page: open it in a browser"),
    ):
        err.print(f"  [bold]{escape(str(path))}[/bold]  {what}")
    err.print("\nNext, on your own recordings (a folder with <machine>/train and <machine>/test):")
    err.print("  offkey corpus ROOT                        list machines, IDs and labels")
    err.print("  offkey init ROOT -o study.yaml            write a study file for them")
    err.print("  offkey search study.yaml                  run the search")


def _fresh_name(stem: str, url: str) -> str:
    """The stem, or the stem with the first number that gives a name not in the storage."""
    from search.errors import StorageError
    from search.storage.study_lookup import names_in

    try:
        taken = names_in(url)
    except StorageError:
        taken = []
    names = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _step(title: str, what: str) -> None:
    err.print(f"\n[bold cyan]{title}[/bold cyan]  [dim]{escape(what)}[/dim]")
