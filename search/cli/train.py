"""`offkey train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from search.cli.options import DeviceOption, JsonOption, SetOption, device_of
from search.cli.terminal import err, out, print_json, progress_bar, say_written
from search.errors import MisuseError, StudyError

if TYPE_CHECKING:
    from features.corpus import Corpus
    from search.final import Detector
    from search.recipe import Recipe

_SHOWN_DROPPED = 5


def train(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE", help="an exported recipe, or a study file without ranges; several make an ensemble"
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="folder of the detector")],
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="an ensemble of each recipe with N seeds, from its own on")
    ] = 1,
    combine: Annotated[
        Literal["mean", "min", "max", "rank"] | None,
        typer.Option(help="how an ensemble's scores become one; default: mean"),
    ] = None,
    device: DeviceOption = "cpu",
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains the final detector and measures it on the held-out test clips."""
    closed = [(source, _recipe_of(source, settings or [])) for source in recipes]
    if len(closed) * seeds > 1:
        from search.ensembles import ensemble_of

        recipe = ensemble_of(closed, combine=combine or "mean", seeds=seeds)
    elif combine is not None:
        raise MisuseError(f"--combine {combine} is for several recipes, or for --seeds: a single model has one score")
    else:
        ((_, recipe),) = closed
    detector = train_bundle(recipe, output, device)
    if as_json:
        from search.bundle import metrics_of

        print_json({"bundle": str(output), **metrics_of(detector)})
    else:
        show_figures(detector)
        say_written(output, f"offkey score {output} PATH…")


def _recipe_of(source: str, overrides: list[str]) -> Recipe:
    from search.study_checks import idle_settings
    from search.study_file import load_study

    study = load_study(source, overrides=overrides)
    if opened := study.space.distributions():
        raise MisuseError(f"{source} leaves {', '.join(opened)} open: search it, or close them with --set")
    for idle in idle_settings(study.space):
        err.print(f"[yellow]warning:[/yellow] {escape(idle)}")
    return study.first_recipe()


def train_bundle(recipe: Recipe, bundle: Path, device: str) -> Detector:
    from features.corpus import read_corpus
    from search.bundle import require_free, save_bundle
    from search.final import train_detector
    from search.preparation import check_labels, require_served

    on = device_of(device)
    require_free(bundle)
    root = recipe.corpus.root or os.environ.get("OFFKEY_DATA")
    if root is None:
        raise StudyError("corpus.root is missing: give it with --set corpus.root=DIR or in $OFFKEY_DATA")
    corpus = read_corpus(Path(root)).for_study(recipe.corpus.machines)
    check_labels(corpus, recipe.validation)
    require_served(recipe, corpus)
    build_store(corpus, recipe)
    with progress_bar("training") as advance:
        detector = train_detector(recipe, corpus, on, on_epoch=lambda epoch: advance(epoch, recipe.epochs))
    save_bundle(detector, bundle)
    return detector


def build_store(corpus: Corpus, recipe: Recipe) -> None:
    """Computes the frames, if nobody has, where progress can be shown."""
    from search.training import open_corpus_stores

    with progress_bar("features") as advance:
        open_corpus_stores(corpus, recipe, progress=advance)


def show_figures(detector: Detector) -> None:
    from search import screen

    out.print(screen.figures(detector.validation, detector.test))
    cleaning = detector.recipe.cleaning
    if cleaning.method != "none" and not detector.dropped:
        err.print(
            f"[yellow]warning:[/yellow] cleaning left out no clip: a share of {cleaning.drop:g} (cleaning.drop) of no "
            "machine ID's training clips is a whole one"
        )
    for outlier in detector.dropped[:_SHOWN_DROPPED]:
        err.print(escape(f"left out of the training: {outlier.clip.name} ({outlier.reason})"))
    if len(detector.dropped) > _SHOWN_DROPPED:
        err.print(f"… and {len(detector.dropped) - _SHOWN_DROPPED} more; the model card lists them")
    few = [name for name, clips in detector.threshold_clips.items() if clips < 10]
    if few:
        err.print(f"[yellow]warning:[/yellow] thresholds of {', '.join(few)} rest on fewer than ten clips each")
