"""Scores of any system, from files, and the truth about their clips.

scores.csv             what `offkey score` writes: a header, columns path, machine, score, perhaps decision
scores.jsonl           the same as JSON lines
anomaly_score_<machine>_{section,id}_<ID>[_source|_target][_test].csv
                       the challenge's: file name, score; no header. decision_result_….csv beside it: 0 or 1

truth: a corpus (features.corpus), or a folder with the challenge's ground-truth tables alone
       (features.ground_truth), or a CSV with a header: file, label (0 or 1), perhaps machine and domain
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from features.clip import Description, Domain, parse_stem
from features.corpus import SPLIT_FOLDERS, read_corpus
from features.errors import CorpusError
from features.ground_truth import completed_by
from search.errors import StudyError
from search.evaluation import Scores, Truth

_CHALLENGE = re.compile(r"^anomaly_score_(?P<machine>.+?)_(?:section|id)_\d\d(?:_(?:source|target))?(?:_test)?\.csv$")

_DOMAINS: Mapping[str, Domain] = {"source": "source", "target": "target"}

Key = tuple[str, str]  # machine, and the clip's file name


@dataclass(frozen=True)
class ScoreRow:
    """One clip as a system judged it."""

    machine: str
    file: str
    score: float
    decision: int | None  # 1 anomaly, 0 normal
    where: str  # file and line

    @property
    def key(self) -> Key:
        return self.machine, self.file


@dataclass(frozen=True)
class Judged:
    """Labelled clips, how they were scored, and what could not be used."""

    scores: Scores
    decisions: tuple[int | None, ...]
    truth: Truth
    warnings: tuple[str, ...]


def read_scores(paths: Sequence[Path]) -> list[ScoreRow]:
    """The rows of score files, and of folders of the challenge's. Raises StudyError naming file and line."""
    rows: dict[Key, ScoreRow] = {}
    for file in (file for path in paths for file in _files(path)):
        before = len(rows)
        for row in _rows(file):
            if row.key in rows:
                raise StudyError(
                    f"{row.where}: {row.machine}, {row.file} has a score already, in {rows[row.key].where}"
                )
            rows[row.key] = row
        if len(rows) == before:
            raise StudyError(f"No scores in {file}")
    return list(rows.values())


def judged(rows: Sequence[ScoreRow], truth: Path) -> Judged:
    """The rows whose clips have a label. Raises StudyError if labelled clips of their machine IDs have no score."""
    clips = _labelled(rows, truth)
    warnings = []
    unlabelled = [row for row in rows if row.key not in clips]
    if len(unlabelled) == len(rows):
        raise StudyError(
            f"{truth} says of none of the {len(rows)} scored clips whether it is normal: {rows[0].where} for one"
        )
    if unlabelled:
        first = unlabelled[0]
        warnings.append(
            f"{len(unlabelled)} scored clips have no label and are left out, {first.file} ({first.where}) for one"
        )
    used = [row for row in rows if row.key in clips]
    scored = {row.key for row in used}
    heard = {clips[key].id_name for key in scored}
    missing = [key for key, clip in clips.items() if key not in scored and clip.id_name in heard]
    if missing:
        raise StudyError(
            f"{len(missing)} labelled clips have no score ({_first(' '.join(key) for key in missing)}): a figure "
            "without them would be another system's"
        )
    unheard = sorted({clip.id_name for clip in clips.values()} - heard)
    if unheard:
        warnings.append(f"no clip of {', '.join(unheard)} has a score: they are left out")
    found = [clips[row.key] for row in used]
    domains = tuple(clip.domain for clip in found)
    return Judged(
        scores=np.array([row.score for row in used]),
        decisions=tuple(row.decision for row in used),
        truth=Truth(
            ids=tuple(clip.id_name for clip in found),
            labels=tuple(clip.label for clip in found if clip.label is not None),
            domains=domains if any(domains) else (),
        ),
        warnings=tuple(warnings),
    )


def _first(names: Iterable[str]) -> str:
    """The first three."""
    shown = list(islice(names, 4))
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if _CHALLENGE.match(file.name))
    if not found:
        raise StudyError(
            f"{path} holds no file named as the challenge's, anomaly_score_<machine>_section_<ID>_test.csv"
        )
    return found


def _rows(path: Path) -> Iterator[ScoreRow]:
    challenge = _CHALLENGE.match(path.name)
    try:
        if challenge:
            yield from _of_the_challenge(path, challenge["machine"])
        elif path.suffix == ".jsonl":
            yield from _ours(path, _documents(path))
        else:
            yield from _ours(path, _table(path, needed=("path", "score")))
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


def _table(path: Path, *, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
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
    if value not in (None, "", "0", "1", 0, 1):
        raise StudyError(f"{where}: a decision is 0 or 1, but got {value!r}")
    return None if value in (None, "") else int(str(value))


def _labelled(rows: Sequence[ScoreRow], truth: Path) -> dict[Key, Description]:
    """Labelled test clips by machine and file name."""
    clips: Iterable[tuple[str, Description]]
    if truth.suffix == ".csv" and not truth.exists():
        raise StudyError(f"{truth} does not exist: --truth is a CSV (file, label), a corpus or ground-truth tables")
    if truth.is_file() and truth.suffix == ".csv" and _has_labels(truth):
        clips = _listed(truth, rows)
    elif truth.is_dir() and not any(truth.rglob("*.wav")):
        named = {f"{row.machine}/{row.file}": _described(row.machine, row.file) for row in rows}
        completed, _ = completed_by([*truth.rglob("*.csv")], truth, named)
        clips = ((name.rpartition("/")[2], clip) for name, clip in completed.items())
    else:
        clips = ((clip.path.name, clip) for clip in read_corpus(truth).clips if clip.split == "test")
    return {(clip.machine, name): clip for name, clip in clips if clip.label is not None}


def _has_labels(path: Path) -> bool:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {"file", "label"} <= set(next(csv.reader(file), []))


def _listed(path: Path, rows: Sequence[ScoreRow]) -> Iterator[tuple[str, Description]]:
    machines = sorted({row.machine for row in rows})
    found: dict[Key, int] = {}
    for line, cells in _table(path, needed=("file", "label")):
        where = f"{path}, line {line}"
        name = Path(cells["file"]).name
        if cells["label"] not in ("0", "1"):
            raise CorpusError(f"{where}: a label is 0 (normal) or 1 (anomaly), but got {cells['label']!r}")
        domain = _DOMAINS.get(said := cells.get("domain") or "")
        if said and domain is None:
            raise CorpusError(f"{where}: a domain is source or target, but got {said!r}")
        machine = cells.get("machine")
        if not machine and len(machines) > 1:
            raise CorpusError(
                f"{where}: which machine's? The scores are of {', '.join(machines)}: add a column machine"
            )
        key = machine or machines[0], name
        if key in found:
            raise CorpusError(f"{where}: {', '.join(key)} has a label already, in line {found[key]}")
        found[key] = line
        yield name, _described(key[0], name, label=int(cells["label"]), domain=domain)


def _described(machine: str, file: str, *, label: int | None = None, domain: Domain | None = None) -> Description:
    parts = parse_stem(Path(file).stem)
    return Description(
        machine=machine,
        machine_id=parts.machine_id,
        split="test",
        label=parts.label if label is None else label,
        source="development",
        domain=domain or parts.domain,
        attributes=parts.attributes,
    )
