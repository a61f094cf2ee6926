"""Reads the scores that any system wrote.

scores.csv             what `offkey score` writes: a header, columns path (or file) and score, perhaps machine, decision
scores.jsonl           the same as JSON lines
anomaly_score_<machine>_{section,id}_<ID>[_source|_target][_test].csv
                       the challenge's: file name, score; no header. A decision_result_….csv may lie beside it: 0 or 1
                       for every clip that has a score

search.evaluation.clip_matching finds the clip of each row.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from features.clips.corpus import SPLIT_FOLDERS
from search.errors import StudyError

_CHALLENGE = re.compile(r"^anomaly_score_(?P<machine>.+?)_(?:section|id)_\d\d(?:_(?:source|target))?(?:_test)?\.csv$")

_WITHOUT_A_HEADER = (
    "A file without a header is read if it is named as the challenge's: anomaly_score_<machine>_section_<ID>_test.csv"
)


@dataclass(frozen=True)
class ScoreRow:
    """One clip with the score that a system gave it."""

    path: str  # as the row gives it: perhaps the file name alone
    score: float
    decision: int | None  # 1 anomaly, 0 normal
    where: str  # the file and line, or another name of the row, for messages
    machine: str = ""  # by a column or by the challenge's file name; empty if neither names it
    machine_id: str = ""  # by a column; empty if there is none

    @property
    def file(self) -> str:
        """The clip's file name."""
        return PurePath(self.path).name

    @property
    def clip(self) -> str:
        """The machine type and file, for messages."""
        machine = self.machine or machine_of_folder(self.path)
        return f"{machine}, {self.file}" if machine else self.file

    @property
    def remedy(self) -> str:
        """What the user can do if the machine type must be known."""
        return f"write <machine>/test/{self.file}, or add a column machine"


def read_scores(paths: Sequence[Path]) -> list[ScoreRow]:
    """Read score files, and folders of the challenge's files. Raises StudyError with file and line."""
    return distinct(row for path in paths for file in _files(path) for row in _some_rows(file))


def distinct(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    """Return the same rows. Raises StudyError if two of them are of the same clip."""
    known: dict[tuple[str, str], ScoreRow] = {}
    for row in rows:
        key = row.machine, os.path.normpath(row.path)
        if key in known:
            raise has_two_scores(row, known[key])
        known[key] = row
    return list(known.values())


def has_two_scores(row: ScoreRow, earlier: ScoreRow) -> StudyError:
    """Return the error that a clip has a score already."""
    folders = len(PurePath(row.path).parts) > 1
    hint = "" if folders else ". If they are two clips, write their paths with the folders that tell them apart"
    if not row.machine and not folders:
        hint = f". If they are clips of two machines, {row.remedy}"
    return StudyError(f"{row.where}: {row.clip} has a score already, in {earlier.where}{hint}")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if _CHALLENGE.match(file.name))
    if not found:
        raise StudyError(
            f"{path} holds no file named as the challenge's, anomaly_score_<machine>_section_<ID>_test.csv"
        )
    return found


def _some_rows(path: Path) -> list[ScoreRow]:
    rows = list(_rows(path))
    if not rows:
        raise StudyError(f"No scores in {path}")
    return rows


def _rows(path: Path) -> Iterator[ScoreRow]:
    challenge = _CHALLENGE.match(path.name)
    try:
        if challenge:
            yield from _of_the_challenge(path, challenge["machine"])
        elif path.suffix == ".jsonl":
            yield from _ours(path, _documents(path))
        else:
            yield from _ours(path, table_of(path, needed=("path", "score"), hint=_WITHOUT_A_HEADER))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error


def _of_the_challenge(path: Path, machine: str) -> Iterator[ScoreRow]:
    beside = path.with_name(path.name.replace("anomaly_score_", "decision_result_", 1))
    decisions: dict[str, str] = {}
    for line, (file, decision) in enumerate(_pairs(beside) if beside.exists() else (), 1):
        if file in decisions:
            raise StudyError(
                f"{beside}, line {line}: {file} has a decision already: the challenge's files are of test clips alone"
            )
        decisions[file] = decision
    scores = list(_pairs(path))
    undecided = [file for file, _ in scores if file not in decisions]
    if undecided and beside.exists():
        raise StudyError(
            f"{beside}: {len(undecided)} of the {len(scores)} clips that have a score have no decision, for example "
            f"{undecided[0]}: add them, or remove the file"
        )
    for line, (file, score) in enumerate(scores, 1):
        where = f"{path}, line {line}"
        decided = _decision(decisions.get(file), f"{beside}, {file}")
        yield ScoreRow(file, _number(score, where), decided, where, machine=machine)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line, cells in enumerate(csv.reader(file), 1):
            if len(cells) != 2:
                raise StudyError(f"{path}, line {line}: a file name and a value, but got {','.join(cells)!r}")
            yield Path(cells[0].strip()).name, cells[1].strip()


def _ours(path: Path, rows: Iterable[tuple[int, Mapping[str, object]]]) -> Iterator[ScoreRow]:
    for line, row in rows:
        where, clip = f"{path}, line {line}", path_in(row)
        if not PurePath(clip).name:
            raise StudyError(f"{where}: which clip? Its path is missing")
        if row.get("score") in (None, ""):
            raise StudyError(f"{where}: {clip} has no score ({row.get('error') or 'no reason is given'})")
        yield ScoreRow(
            path=clip,
            score=_number(str(row["score"]), where),
            decision=_decision(row.get("decision"), where),
            where=where,
            machine=str(row.get("machine") or ""),
            machine_id=str(row.get("machine_id") or ""),
        )


def _documents(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            try:
                document = json.loads(text)
            except ValueError as error:
                raise StudyError(f"{path}, line {line}: not JSON: {error}") from error
            if not isinstance(document, dict):
                raise StudyError(f"{path}, line {line}: a JSON object, but got {text.strip()!r}")
            yield line, document


def table_of(path: Path, *, needed: Sequence[str], hint: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the cells of each row of a CSV with a header.

    Raises StudyError, which ends with `hint`, if a needed column is missing; path may also be called file.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        missing = [column for column in needed if column not in columns]
        if "path" in missing and "file" in columns:
            missing.remove("path")
        if missing:
            first = ",".join(columns)
            if ";" in first:
                hint = "Its columns seem to be separated by semicolons: separate them by commas"
            lacking = " and no ".join("path or file" if column == "path" else column for column in missing)
            raise StudyError(f"{path}: no column {lacking} in its first line ({first!r}). {hint}")
        for row in reader:
            yield reader.line_num, row


def path_in(row: Mapping[str, object]) -> str:
    """Return the path of a row's clip, from the column path or file; empty if there is none."""
    return str(row.get("path") or row.get("file") or "")


def machine_of_folder(path: str) -> str:
    """Return the machine type that a clip's folder is called by, as in <machine>/test/; empty if it lies in none."""
    folder = PurePath(path).parent
    return (folder.parent if folder.name in SPLIT_FOLDERS else folder).name


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise StudyError(f"{where}: a score is a number, but got {text!r}") from error
    if not math.isfinite(number):
        raise StudyError(f"{where}: a score is finite, but got {text}")
    return number


def _decision(value: object, where: str) -> int | None:
    if value in (None, ""):
        return None
    if str(value) not in ("0", "1"):
        raise StudyError(f"{where}: a decision is 0 or 1, but got {value!r}")
    return int(str(value))
