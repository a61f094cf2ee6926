"""Scores of any system, from files.

scores.csv             what `offkey score` writes: a header, columns path, machine, score, perhaps decision
scores.jsonl           the same as JSON lines
anomaly_score_<machine>_{section,id}_<ID>[_source|_target][_test].csv
                       the challenge's: file name, score; no header. decision_result_….csv beside it: 0 or 1
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.corpus import SPLIT_FOLDERS
from search.errors import StudyError

_CHALLENGE = re.compile(r"^anomaly_score_(?P<machine>.+?)_(?:section|id)_\d\d(?:_(?:source|target))?(?:_test)?\.csv$")

Key = tuple[str, str]  # machine, and the clip's file name


@dataclass(frozen=True)
class ScoreRow:
    """One clip as a system judged it."""

    machine: str
    file: str
    score: float
    decision: int | None  # 1 anomaly, 0 normal
    where: str  # file and line, or what else names it

    @property
    def key(self) -> Key:
        return self.machine, self.file


def read_scores(paths: Sequence[Path]) -> list[ScoreRow]:
    """The rows of score files, and of folders of the challenge's. Raises StudyError naming file and line."""
    return distinct(row for path in paths for file in _files(path) for row in _some_rows(file))


def distinct(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    """The same rows. Raises StudyError if two of them are of one clip."""
    known: dict[Key, ScoreRow] = {}
    for row in rows:
        if row.key in known:
            raise StudyError(f"{row.where}: {row.machine}, {row.file} has a score already, in {known[row.key].where}")
        known[row.key] = row
    return list(known.values())


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
            yield from _ours(path, table_of(path, needed=("path", "score")))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error


def _of_the_challenge(path: Path, machine: str) -> Iterator[ScoreRow]:
    beside = path.with_name(path.name.replace("anomaly_score_", "decision_result_", 1))
    decisions: dict[str, str] = {}
    for line, (file, decision) in enumerate(_pairs(beside) if beside.exists() else (), 1):
        if file in decisions:
            raise StudyError(f"{beside}, line {line}: {file} has a decision already")
        decisions[file] = decision
    for line, (file, score) in enumerate(_pairs(path), 1):
        where = f"{path}, line {line}"
        yield ScoreRow(machine, file, _number(score, where), _decision(decisions.get(file), f"{beside}, {file}"), where)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line, cells in enumerate(csv.reader(file), 1):
            if len(cells) != 2:
                raise StudyError(f"{path}, line {line}: a file name and a value, but got {','.join(cells)!r}")
            yield Path(cells[0].strip()).name, cells[1].strip()


def _ours(path: Path, rows: Iterable[tuple[int, Mapping[str, object]]]) -> Iterator[ScoreRow]:
    for line, row in rows:
        where, clip = f"{path}, line {line}", Path(str(row.get("path") or ""))
        if row.get("score") in (None, ""):
            raise StudyError(f"{where}: {clip} has no score ({row.get('error') or 'no reason is given'})")
        folder = clip.parent.parent if clip.parent.name in SPLIT_FOLDERS else clip.parent
        yield ScoreRow(
            machine=str(row.get("machine") or folder.name),
            file=clip.name,
            score=_number(str(row["score"]), where),
            decision=_decision(row.get("decision"), where),
            where=where,
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


def table_of(path: Path, *, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and cells of a CSV with a header. Raises StudyError if a column that is needed is not there."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in needed if column not in (reader.fieldnames or [])]
        if missing:
            first = ",".join(reader.fieldnames or [])
            raise StudyError(
                f"{path}: no column {' and no '.join(missing)} in its first line ({first!r}). A file without a "
                "header is read if it is named as the challenge's: anomaly_score_<machine>_section_<ID>_test.csv"
            )
        for row in reader:
            yield reader.line_num, row


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
