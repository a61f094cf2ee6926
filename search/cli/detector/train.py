"""`offkey train`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from search.cli.options import DeviceOption, JsonOption, SetOption, StorageOption, url_of
from search.cli.terminal import err, out, print_json, progress_bar, say_written, warn
from search.errors import MisuseError

if TYPE_CHECKING:
    from features.progress import Progress
    from search.detector.detector import Detector
    from search.study.recipe import Recipe

_SHOWN_DROPPED = 5


def train(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE",
            help="a recipe that `offkey export` wrote, or a study file without ranges; several make an ensemble",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="BUNDLE", help="where to write the detector: a new folder, or s3://BUCKET/PREFIX"
        ),
    ],
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="make an ensemble of N seeds for each recipe, its own and the following, and show how they differ",
        ),
    ] = 1,
    combine: Annotated[
        Literal["mean", "min", "max", "rank"] | None,
        typer.Option(help="how the scores of an ensemble become one; default: mean"),
    ] = None,
    device: DeviceOption = "cpu",
    storage: StorageOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains the final detector and measures it on the test clips. The study storage counts each test evaluation."""
    from search.study.study_file import load_recipe

    remedy = "search it, or close them with --set"
    closed = [(source, load_recipe(source, overrides=settings or [], tell=warn, remedy=remedy)) for source in recipes]
    if len(closed) * seeds > 1:
        from search.study.ensembles import ensemble_of

        recipe = ensemble_of(closed, combine=combine or "mean", seeds=seeds)
    elif combine is not None:
        raise MisuseError(f"--combine {combine} is for several recipes or for --seeds, but there is only one model")
    else:
        ((_, recipe),) = closed
    detector = train_bundle(recipe, output, device, storage=url_of(storage))
    if as_json:
        from search.detector.bundle_files import metrics_of

        print_json({"bundle": output, **metrics_of(detector)})
    else:
        show_metrics(detector)
        say_written(output, f"offkey score {output} PATH…")


def train_bundle(recipe: Recipe, bundle: str | Path, device: str, *, storage: str | None = None) -> Detector:
    """Trains a detector with progress bars; the study storage, if there is one, counts the test evaluation."""
    from search.detector.making import make_detector
    from search.workers.devices import device_of

    with _stages() as stage:
        return make_detector(
            recipe,
            bundle,
            device=device_of(device),
            default_root=os.environ.get("OFFKEY_DATA"),
            storage=storage,
            on_faults=stage("faults"),
            on_features=stage("features"),
            on_epoch=stage("training"),
            tell=warn,
        )


@contextmanager
def _stages() -> Iterator[Callable[[str], Progress]]:
    """Shows the progress bars of stages one after the other. Yields a function that gives the bar of a named stage."""
    with ExitStack() as shown:
        bars: dict[str, Progress] = {}

        def stage(what: str) -> Progress:
            def advance(done: int, total: int) -> None:
                if what not in bars:
                    shown.close()
                    bars[what] = shown.enter_context(progress_bar(what))
                bars[what](done, total)

            return advance

        yield stage


def show_metrics(detector: Detector) -> None:
    """Prints the metrics of a detector, and warns of what makes its cleaning or its thresholds doubtful."""
    from search.cli.detector import detector_tables
    from search.detector.thresholds import doubts

    out.print(detector_tables.detector_metrics(detector))
    cleaning = detector.recipe.cleaning
    if cleaning.method != "none" and not detector.dropped:
        warn(
            f"cleaning left out no clip: each machine ID has too few training clips for a share of {cleaning.drop:g} "
            "(cleaning.drop) to be a whole clip"
        )
    for outlier in detector.dropped[:_SHOWN_DROPPED]:
        err.print(escape(f"left out of the training: {outlier.clip.name} ({outlier.reason})"))
    if len(detector.dropped) > _SHOWN_DROPPED:
        err.print(f"… and {len(detector.dropped) - _SHOWN_DROPPED} more; the model card lists them")
    for doubt in doubts(detector.rated_thresholds, detector.recipe.scoring.false_alarm_rate):
        warn(doubt)
