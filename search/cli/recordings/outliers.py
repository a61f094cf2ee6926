"""`offkey corpus ROOT --outliers`."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from search.cli.terminal import err, out, print_json, progress_bar, progress_of_stages, write_text


def list_outliers(root: Path, output: Path, *, as_json: bool) -> None:
    """Lists the training clips that do not sound normal, and writes a page to look at and listen to them."""
    from features.clips.corpus import read_corpus
    from search.analysis.outliers import METHODS, outliers, outliers_finding, outliers_page

    with progress_bar("reading", quiet=as_json) as progress:
        corpus = read_corpus(root, progress=progress)
    with progress_of_stages() as stages:
        outlying = outliers(corpus, progress=stages)
        write_text(output, outliers_page(outlying, corpus, progress=stages))
    if as_json:
        print_json(
            {
                "page": str(output),
                "outliers": [
                    {
                        "path": one.clip.name,
                        "deviation": one.deviation,
                        "reasons": {method: of.reason for method, of in one.by_method.items()},
                    }
                    for one in outlying
                ],
            }
        )
    else:
        finding = outliers_finding(outlying, corpus)
        out.print(f"[bold]{escape(finding.headline)}[/bold]", soft_wrap=True)
        if outlying:
            table = Table("clip", *METHODS, "measure", box=None, padding=(0, 2), header_style="bold")
            for one in outlying:
                by_method = one.by_method
                deviations = [f"{by_method[name].deviation:.1f}" if name in by_method else "" for name in METHODS]
                measure = one.reasons[0].partition(":")[0].removeprefix("distance to its nearest neighbours in ")
                table.add_row(escape(one.clip.name), *deviations, escape(measure))
            out.print(table)
        for sentence in finding.sentences:
            out.print(escape(sentence), soft_wrap=True)
    err.print(escape(f"Wrote {output}: open it in a browser to look at them and to listen"))
