"""`offkey corpus`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.options import JsonOption
from search.cli.outliers import list_outliers
from search.cli.terminal import err, out, print_json, progress_bar, shown
from search.errors import MisuseError

if TYPE_CHECKING:
    from features.clips.corpus import Corpus
    from features.clips.inspection import Suspicion


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
    from search.cli import corpus_tables

    with progress_bar("reading", quiet=as_json) as progress:
        found = read_corpus(root, progress=progress)
    with progress_bar("listening", quiet=as_json) as progress:
        suspicions = inspect(found, progress=progress)
    if as_json:
        print_json(_document(found, suspicions))
    else:
        out.print(corpus_tables.corpus(found))
        where = shown(str(found.root))
        out.print(f"{len(found.clips)} clips of {len(found.machines)} machines in {where}", soft_wrap=True)
        for warning in found.warnings:
            err.print(f"[yellow]warning:[/yellow] {shown(warning)}")
        if suspicions:
            err.print(corpus_tables.suspicious(suspicions))
    for unreadable in found.unreadable:
        err.print(f"[red]unreadable:[/red] {shown(f'{unreadable.name}: {unreadable.reason}')}")
    if found.unreadable:
        raise typer.Exit(1)


def _document(found: Corpus, suspicions: Sequence[Suspicion]) -> dict[str, Any]:
    """What `--json` prints."""
    from features.clips.clip import ANOMALY

    machines: dict[str, dict[str, dict[str, int]]] = {}
    for clip in found.clips:
        counts = machines.setdefault(clip.machine, {}).setdefault(
            clip.machine_id, {"train": 0, "normal": 0, "anomaly": 0, "unlabelled": 0, "supplemental": 0}
        )
        if clip.split == "test":
            counts["unlabelled" if clip.label is None else "anomaly" if clip.label == ANOMALY else "normal"] += 1
        else:
            counts[clip.split] += 1
    return {
        "clips": len(found.clips),
        "unreadable": [{"path": str(found.folder / u.name), "reason": u.reason} for u in found.unreadable],
        "machines": machines,
        "suspicious": [{"path": str(found.folder / s.name), "reason": s.reason} for s in suspicions],
        "warnings": list(found.warnings),
    }
