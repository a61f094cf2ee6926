"""`offkey score`."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import DeviceOption, device_of
from search.cli.terminal import err, open_output, progress_bar


def score(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder that `offkey train` wrote")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="wav files, or folders of them")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file; standard output if left out")] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines instead of CSV")] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Scores clips: path, machine, machine_id, score, decision, error. Exit code 1 if one could not be."""
    if write_scores(bundle, paths, output, jsonl=jsonl, device=device):
        raise typer.Exit(1)


def write_scores(folder: Path, paths: list[Path], output: Path | None, *, jsonl: bool, device: str) -> int:
    """Writes the scores of all clips; returns how many could not be scored or decided."""
    from search.bundle import load_bundle
    from search.scoring import ScoredClip, clip_paths, score_clips

    on = device_of(device)
    bundle = load_bundle(folder)
    files = clip_paths(paths)
    errors = anomalies = 0
    with open_output(output) as file, progress_bar("scoring", quiet=output is None) as advance:
        rows = csv.DictWriter(file, [field.name for field in fields(ScoredClip)], lineterminator="\n")
        if not jsonl:
            rows.writeheader()
        for done, scored in enumerate(score_clips(bundle, files, on), 1):
            if jsonl:
                file.write(json.dumps(asdict(scored)) + "\n")
            else:
                rows.writerow(asdict(scored))
            errors += scored.error is not None
            anomalies += scored.decision == 1
            advance(done, len(files))
    err.print(
        f"{len(files)} clips: {anomalies} called anomalous, {errors} with an error"
        + (f"; wrote {output}" if output else "")
    )
    return errors
