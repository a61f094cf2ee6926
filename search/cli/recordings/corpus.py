"""`offkey corpus`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.options import JsonOption
from search.cli.recordings.outliers import list_outliers
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
            "--outliers", help="list the training clips that do not sound normal, and write a page to listen to them"
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="with --outliers: the page to write; default: outliers.html")
    ] = None,
) -> None:
    """Lists machines, IDs, splits, labels and lengths of a corpus; suspicious clips; unreadable files with reasons."""
    if outliers:
        list_outliers(root, output or Path("outliers.html"), as_json=as_json)
        return
    if output is not None:
        raise MisuseError("-o names the page that --outliers writes: give both, or neither")
    from features.clips.corpus import read_corpus
    from features.clips.inspection import inspect
    from search.cli.recordings import corpus_tables

    with progress_bar("reading", quiet=as_json) as progress:
        recordings = read_corpus(root, progress=progress)
    with progress_bar("inspecting", quiet=as_json) as progress:
        suspicions = inspect(recordings, progress=progress)
    if as_json:
        print_json(_document(recordings, suspicions))
    else:
        out.print(corpus_tables.corpus(recordings))
        where = shown(str(recordings.root))
        out.print(f"{len(recordings.clips)} clips of {len(recordings.machines)} machines in {where}", soft_wrap=True)
        for warning in recordings.warnings:
            err.print(f"[yellow]warning:[/yellow] {shown(warning)}")
        if suspicions:
            err.print(corpus_tables.suspicious(suspicions))
    for unreadable in recordings.unreadable:
        err.print(f"[red]unreadable:[/red] {shown(f'{unreadable.name}: {unreadable.reason}')}")
    if recordings.unreadable:
        raise typer.Exit(1)


def _document(recordings: Corpus, suspicions: Sequence[Suspicion]) -> dict[str, Any]:
    """The document that `--json` prints."""
    from features.clips.clip import ANOMALY

    machines: dict[str, dict[str, dict[str, int]]] = {}
    for clip in recordings.clips:
        counts = machines.setdefault(clip.machine, {}).setdefault(
            clip.machine_id, {"train": 0, "normal": 0, "anomaly": 0, "unlabelled": 0, "supplemental": 0}
        )
        if clip.split == "test":
            counts["unlabelled" if clip.label is None else "anomaly" if clip.label == ANOMALY else "normal"] += 1
        else:
            counts[clip.split] += 1
    return {
        "clips": len(recordings.clips),
        "unreadable": [{"path": str(recordings.folder / u.name), "reason": u.reason} for u in recordings.unreadable],
        "machines": machines,
        "suspicious": [{"path": str(recordings.folder / s.name), "reason": s.reason} for s in suspicions],
        "warnings": list(recordings.warnings),
    }
