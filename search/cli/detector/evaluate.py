"""`offkey evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import JsonOption
from search.cli.terminal import err, out, print_json, warn

_SCORES = (
    "CSV with a header: path (or file), score, optionally machine, decision (0 or 1); JSON lines of the same; or the "
    "challenge's files, anomaly_score_….csv, or a folder of them"
)


def evaluate(
    scores: Annotated[
        list[Path],
        typer.Argument(metavar="SCORES…", help=_SCORES),
    ],
    truth: Annotated[
        Path,
        typer.Option(
            metavar="TRUTH",
            help="the labels: a corpus; the challenge's ground-truth tables, one or folders of them; or a CSV with a "
            "header: file (or path), label (0 or normal, 1 or anomaly), optionally machine, domain (source or target)",
        ),
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="OTHER",
            help="scores of another system, in any of these forms (repeat the option for several files): the "
            "difference of the two on the same clips, with its interval",
        ),
    ] = None,
    year: Annotated[
        int | None,
        typer.Option(
            help="year of the challenge, 2020 to 2026, by whose rule the official score is computed; default: what "
            "the clips' names and folders state"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measures the scores of any system: AUC and pAUC of each machine ID, their means, the challenge's official score.

    A score belongs to the clip with its path; where only names are given, to the only clip of that name and machine.
    All labelled clips count, validation clips too: `offkey train` measures on test clips alone.
    """
    from search.cli.detector import detector_tables
    from search.evaluation.official import rule_of
    from search.evaluation.score_files import read_scores
    from search.evaluation.score_truth import labelled_systems
    from search.evaluation.system_metrics import measure

    rule = None if year is None else rule_of(year)
    others = None if against is None else read_scores(against)
    clips, other = labelled_systems(read_scores(scores), others, truth, year=rule)
    for warning in (*clips.warnings, *(() if other is None else other.warnings)):
        warn(warning)
    if clips.of_corpus:
        err.print(
            "All labelled clips of the scored machine IDs count: if a search used some of them for validation, quote "
            "the AUC of `offkey train`, which is on test clips alone"
        )
    metrics = measure(clips, against=other)
    if as_json:
        print_json(metrics.as_json())
    else:
        out.print(detector_tables.system_metrics(metrics))
