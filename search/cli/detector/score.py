"""`offkey score`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from search.cli.options import BundleArgument, DeviceOption, NearestOption
from search.cli.terminal import err, open_output, progress_bar, warn
from search.errors import MisuseError, StudyError

if TYPE_CHECKING:
    from search.detector.bundle import Bundle
    from search.detector.scored_clips import ScoredClip

_STANDARD_INPUT = Path("-")


def score(
    bundle: BundleArgument,
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH…", help="wav files, or folders of them")] = None,
    listed: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="a file with a path in each line; - for standard input"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="file to write; default: standard output")
    ] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="write JSON lines instead of CSV")] = False,
    dcase: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="write the challenge's files, anomaly_score_… and decision_result_…, to this folder"
        ),
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(
            "--false-alarm-rate",
            metavar="R",
            help="decide by thresholds for this share of normal clips; default: those of the bundle, which stay as "
            "they are (`offkey threshold` moves them)",
        ),
    ] = None,
    nearest: NearestOption = False,
    device: DeviceOption = "cpu",
) -> None:
    """Scores clips: path, machine, machine_id, score, decision, error. Exit code 1 if a clip could not be scored."""
    if not paths and listed is None:
        raise MisuseError("No clips are given: give wav files or folders, or --list FILE.")
    if nearest and false_alarm_rate is None:
        raise MisuseError("--nearest is for --false-alarm-rate R, but there is none")
    if write_scores(
        bundle,
        paths or [],
        output,
        listed=listed,
        jsonl=jsonl,
        dcase=dcase,
        false_alarm_rate=false_alarm_rate,
        nearest=nearest,
        device=device,
    ):
        raise typer.Exit(1)


def write_scores(
    place: str | Path,
    paths: list[Path],
    output: Path | None,
    *,
    listed: Path | None = None,
    jsonl: bool = False,
    dcase: Path | None = None,
    false_alarm_rate: float | None = None,
    nearest: bool = False,
    device: str,
) -> int:
    """Writes the scores of all clips. Returns how many could not be scored or have no decision."""
    from search.detector.bundle import load_bundle
    from search.detector.scored_clips import clip_paths, score_clips
    from search.detector.submission import SubmissionFiles
    from search.workers.devices import device_of

    on = device_of(device)
    bundle = load_bundle(place, tell=warn)
    if false_alarm_rate is not None:
        bundle = _decided_by(bundle, false_alarm_rate, nearest=nearest)
    files = clip_paths(_given(paths, listed))
    first = next(files, None)
    if first is None:
        raise StudyError(f"No wav file in {', '.join(map(str, [*paths, *([listed] if listed else [])]))}")
    clips = errors = anomalies = 0
    with ExitStack() as stack:
        has_rows = output is not None or dcase is None
        write = _writer(stack.enter_context(open_output(output)), jsonl=jsonl) if has_rows else None
        challenge = None if dcase is None else stack.enter_context(SubmissionFiles(dcase))
        advance = stack.enter_context(progress_bar("scoring", quiet=output is None and dcase is None))
        for scored in score_clips(bundle, chain([first], files), on):
            if write is not None:
                write(scored)
            if challenge is not None:
                challenge.add(scored)
            clips += 1
            errors += scored.error is not None
            anomalies += scored.decision == 1
            advance(clips, None)
    written = ", ".join(str(path) for path in (output, dcase) if path is not None)
    err.print(
        f"{clips} clips: {anomalies} called anomalous, {errors} with an error"
        + (f"; wrote {written}" if written else "")
    )
    return errors


def _decided_by(bundle: Bundle, false_alarm_rate: float, *, nearest: bool) -> Bundle:
    """The detector with thresholds for another rate; warns of those that cannot promise it."""
    from search.detector.threshold_move import at_false_alarm_rate
    from search.detector.thresholds import doubts

    moved = at_false_alarm_rate(bundle, false_alarm_rate, nearest=nearest)
    assert moved.scores is not None
    for doubt in doubts(moved.scores.rated(moved.thresholds), false_alarm_rate):
        warn(doubt)
    return moved


def _writer(file: TextIO, *, jsonl: bool) -> Callable[[ScoredClip], object]:
    """A function that writes one row of scores."""
    from search.detector.scored_clips import ScoredClip

    if jsonl:
        return lambda scored: file.write(json.dumps(asdict(scored)) + "\n")
    rows = csv.DictWriter(file, [field.name for field in fields(ScoredClip)], lineterminator="\n")
    rows.writeheader()
    return lambda scored: rows.writerow(asdict(scored))


def _given(paths: list[Path], listed: Path | None) -> Iterator[Path]:
    """Yields the paths of the command and then those of the list, which is read line by line."""
    if paths and listed is None and not any(path.exists() for path in paths):
        raise StudyError(f"{paths[0]} does not exist: give wav files or folders of them")
    yield from paths
    if listed is None:
        return
    try:
        with nullcontext(sys.stdin) if listed == _STANDARD_INPUT else listed.open(encoding="utf-8") as lines:
            yield from (Path(line.rstrip("\n")) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{listed} cannot be read: {error}") from error
