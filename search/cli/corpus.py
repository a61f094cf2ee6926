"""`offkey corpus`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import JsonOption
from search.cli.outliers import list_outliers
from search.cli.terminal import err, out, print_json, progress_bar
from search.errors import MisuseError


def corpus(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="folder of the clips, or a manifest (.csv)")],
    as_json: JsonOption = False,
    outliers: Annotated[
        bool,
        typer.Option(
            "--outliers", help="list the training clips that do not sound normal, on a page to listen to them"
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the page to listen on, with --outliers: outliers.html")
    ] = None,
) -> None:
    """Shows what was found: machines, IDs, splits, labels, seconds; suspicious clips; unreadable files with why."""
    if outliers:
        list_outliers(root, output or Path("outliers.html"), as_json=as_json)
        return
    if output is not None:
        raise MisuseError("-o names the page of --outliers, and without that there is none")
    from features.clips.corpus import read_corpus
    from features.clips.inspection import inspect
    from search.cli import tables

    with progress_bar("reading", quiet=as_json) as progress:
        found = read_corpus(root, progress=progress)
    with progress_bar("listening", quiet=as_json) as progress:
        suspicions = inspect(found, progress=progress)
    if as_json:
        print_json(tables.corpus_json(found, suspicions))
    else:
        out.print(tables.corpus(found))
        where = tables.shown(str(found.root))
        out.print(f"{len(found.clips)} clips of {len(found.machines)} machines in {where}", soft_wrap=True)
        for warning in found.warnings:
            err.print(f"[yellow]warning:[/yellow] {tables.shown(warning)}")
        if suspicions:
            err.print(tables.suspicious(suspicions))
    for unreadable in found.unreadable:
        err.print(f"[red]unreadable:[/red] {tables.shown(f'{unreadable.name}: {unreadable.reason}')}")
    if found.unreadable:
        raise typer.Exit(1)
