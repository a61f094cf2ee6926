"""`offkey evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from search.cli.options import JsonOption
from search.cli.terminal import err, out, print_json, warn
from search.errors import MisuseError

if TYPE_CHECKING:
    from search.evaluation.official import Year


def evaluate(
    scores: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORES…",
            help="CSV with a header: path (or file), score, optionally machine, decision (0 or 1); JSON lines of the "
            "same; or the challenge's files, anomaly_score_….csv, or a folder of them",
        ),
    ],
    truth: Annotated[
        Path,
        typer.Option(
            metavar="TRUTH",
            help="the labels: a corpus; the challenge's ground-truth tables, one or folders of them; or a CSV with a "
            "header: file (or path), label (0 or normal, 1 or anomaly), optionally machine, domain (source or target)",
        ),
    ],
    year: Annotated[
        int | None,
        typer.Option(
            help="rule of the official score: 2020, 2021, or 2022 and later; default: the rule that fits the clips"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measures the scores of any system: AUC and pAUC of each machine ID, their means, the challenge's official score.

    All labelled clips count, validation clips too: `offkey train` measures on test clips alone.
    """
    from search.cli.detector import detector_tables
    from search.evaluation.score_files import read_scores
    from search.evaluation.score_truth import labelled
    from search.evaluation.system_metrics import measure

    if year is not None and year < 2020:
        raise MisuseError(f"--year must be 2020 or later, the first year of the challenge's Task 2, but got {year}")
    rule = None if year is None else cast("Year", min(year, 2022))
    clips = labelled(read_scores(scores), truth, year=rule)
    for warning in clips.warnings:
        warn(warning)
    if clips.of_corpus:
        err.print(
            "All labelled clips of the scored machine IDs count: if a search used some of them for validation, quote "
            "the AUC of `offkey train`, which is on test clips alone"
        )
    metrics = measure(clips, year=rule)
    if as_json:
        print_json(metrics.as_json())
    else:
        out.print(detector_tables.system_metrics(metrics))
