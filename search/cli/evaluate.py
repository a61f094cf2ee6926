"""`offkey evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape

from search.cli.options import JsonOption
from search.cli.terminal import err, out, print_json
from search.errors import MisuseError

if TYPE_CHECKING:
    from search.evaluation.official import Year


def evaluate(
    scores: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORES…",
            help="CSV with a header: path (or file), score, and perhaps machine, decision (0 or 1); JSON lines of the "
            "same; or the challenge's files, anomaly_score_….csv, or a folder of them",
        ),
    ],
    truth: Annotated[
        Path,
        typer.Option(
            metavar="TRUTH",
            help="a corpus; the challenge's ground-truth tables, in folders or one alone; or a CSV with a header: file "
            "(or path), label (0 or normal, 1 or anomaly), and perhaps machine, domain (source or target)",
        ),
    ],
    year: Annotated[
        int | None, typer.Option(help="whose official score: 2020, 2021, or 2022 and later; by the clips if left out")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measures any system's scores: AUC and pAUC for each machine ID, their means, the challenge's official score.

    All labelled clips count, also those that a search went by: `offkey train` measures on held-out ones.
    """
    from search.cli import tables
    from search.evaluation.score_files import read_scores
    from search.evaluation.score_truth import labelled
    from search.evaluation.system_metrics import measure

    if year is not None and year < 2020:
        raise MisuseError(f"--year {year}: the challenge's Task 2 is there since 2020")
    rule = None if year is None else cast("Year", min(year, 2022))
    clips = labelled(read_scores(scores), truth, year=rule)
    for warning in clips.warnings:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    if clips.of_corpus:
        err.print(
            "All labelled test clips of the scored machine IDs count: where a search went by some of them, the figure "
            "on held-out clips is that of `offkey train`"
        )
    measured = measure(clips, year=rule)
    if as_json:
        print_json(measured.as_json())
    else:
        out.print(tables.evaluation(measured))
