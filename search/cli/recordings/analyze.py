"""`offkey analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from search.cli.options import JsonOption
from search.cli.terminal import err, out, print_json, progress_bar, progress_of_stages, warn

if TYPE_CHECKING:
    from search.analysis.analysis import Analysis
    from search.analysis.separability import Scope

_SHOWN = 6


def analyze(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="folder of the clips, or a manifest (.csv)")],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="folder to write: new, empty, or with an earlier analysis, which is replaced",
        ),
    ] = Path("analysis"),
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help=r"override a setting: features.n_mels=64, corpus.machines=\[fan], …; repeatable",
        ),
    ] = None,
    all_labels: Annotated[
        bool,
        typer.Option(
            "--all-labels",
            help="use the labels of test clips too: the AUC of a final detector on them is then too high",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compares features before any training: which one separates anomalies best, and how machines differ.

    Writes DIR/index.html, a page with sounds that needs no network, and its table, DIR/separability.csv.
    Labels of test clips are not used.
    """
    from features.clips.corpus import read_corpus
    from search.analysis import findings
    from search.analysis.analysis import analyse
    from search.analysis.folder import PAGE, TABLE, require_free, write_folder
    from search.analysis.page import page
    from search.analysis.settings import analysis_settings
    from search.analysis.tables import as_json as document_of
    from search.analysis.tables import separability_csv

    require_free(output)
    with progress_bar("reading clips") as advance:
        corpus = read_corpus(root, progress=advance)
    settings = analysis_settings(overrides or [], corpus)
    with progress_of_stages() as progress:
        analysis = analyse(corpus, settings, all_labels=all_labels, progress=progress)
        write_folder(
            output,
            {PAGE: page(analysis, progress=progress), TABLE: separability_csv(analysis.separability)},
        )
    warning = findings.warning(analysis)
    if warning is not None:
        warn(warning)
    if as_json:
        print_json({"page": str(output / PAGE), "table": str(output / TABLE)} | document_of(analysis))
    else:
        _print_tables(analysis)
    err.print(escape(f"Wrote {output / PAGE}, for a browser or a printer, and {output / TABLE}"))


def _print_tables(analysis: Analysis) -> None:
    from search.analysis import findings

    separability = analysis.separability
    out.print(escape(findings.inventory_finding(analysis).headline), soft_wrap=True)
    finding = findings.separability_finding(analysis)
    out.print(f"[bold]{escape(finding.headline)}[/bold]", soft_wrap=True)
    if separability.overall is not None:
        out.print(_best("all machines" if len(separability.machines) > 1 else "", separability.overall))
    for sentence in [*finding.sentences, *(f"{machine}: {sentence}" for machine, sentence in finding.machines)]:
        out.print(escape(sentence), soft_wrap=True)
    for why, names in findings.reasons(separability):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        err.print(f"[yellow]n/a:[/yellow] {escape(', '.join(names[:_SHOWN]))}{more}: {escape(why)}")


def _best(title: str, scope: Scope) -> Table:
    from search.analysis.findings import feature_name
    from search.results.wording import interval

    table = Table(box=None, padding=(0, 2), header_style="bold", title=title or None, title_justify="left")
    for column in ("feature", "detector", "mean AUC", "95 % interval", ""):
        table.add_column(column)
    for measured in scope.methods[:_SHOWN]:
        table.add_row(
            escape(feature_name(measured.method.feature)),
            measured.method.detector,
            f"{measured.auc:.3f}",
            "too few clips" if measured.interval is None else interval(measured.interval),
            "best" if measured is scope.best else "tie" if measured.ties else "",
        )
    return table
