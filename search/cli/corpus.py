"""`offkey corpus`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from search.cli.options import JsonOption
from search.cli.terminal import err, out, print_json


def corpus(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="folder of the clips")], as_json: JsonOption = False
) -> None:
    """Shows what was found: machines, IDs, splits, labels, seconds; unreadable files with why."""
    from features.corpus import read_corpus
    from search import screen

    found = read_corpus(root)
    if as_json:
        print_json(screen.corpus_json(found))
    else:
        out.print(screen.corpus(found))
        out.print(f"{len(found.clips)} clips of {len(found.machines)} machines in {found.root}", soft_wrap=True)
    for unreadable in found.unreadable:
        err.print(f"[red]unreadable:[/red] {escape(unreadable.name)}: {escape(unreadable.reason)}")
    if found.unreadable:
        raise typer.Exit(1)
