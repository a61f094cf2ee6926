"""Finds the labels and domains of scored clips.

A truth is a corpus (features.clips.corpus); or the challenge's ground-truth tables without clips
(features.clips.ground_truth), in folders or a single table; or a CSV with a header: file (or path), label (0 or
normal, 1 or anomaly), perhaps machine and domain. A clip is identified by its machine type and file name. If the truth
has one machine type only, scores need not name it.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from features.clips.clip import ANOMALY, DOMAINS, NORMAL, Description, Domain, parse_stem
from features.clips.corpus import Corpus, read_corpus
from features.clips.ground_truth import completed_by
from features.errors import CorpusError
from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.official import Year
from search.evaluation.score_files import Key, ScoreRow, distinct, machine_in, path_in, table_of
from search.evaluation.truth import Truth

_DOMAINS: Mapping[str, Domain] = {name: name for name in DOMAINS}
_LABELS = {"0": NORMAL, "1": ANOMALY, "normal": NORMAL, "anomaly": ANOMALY}

#: The challenge's tables that hold labels or domains of clips.
_TABLE = re.compile(
    r"^(?:ground_truth_(?P<machine>.+)_section_\d\d_(?:(?:source|target)_)?test|eval_data_list.*)\.csv$"
)
_TABLES = "ground_truth_data/ground_truth_<machine>_section_<ID>_test.csv, or eval_data_list….csv"

#: The machine type of clips if neither the scores nor the truth name one.
_UNNAMED = "unnamed"


@dataclass(frozen=True)
class LabelledScores:
    """Labelled clips with their scores, and warnings of what could not be used."""

    scores: Scores
    decisions: tuple[int | None, ...]
    truth: Truth
    warnings: tuple[str, ...]
    of_corpus: bool  # whether the truth is a corpus: a search may have used some of these clips for validation


@dataclass(frozen=True)
class _Matched:
    """Score rows, matched with the clips of a truth."""

    rows: Sequence[ScoreRow]  # all rows, each with its machine type
    clips: Mapping[Key, Description]  # the truth's labelled clips
    machines: Collection[str]  # the machine types that the truth names
    warnings: tuple[str, ...] = ()
    of_corpus: bool = False


def labelled(rows: Sequence[ScoreRow], truth: Path, *, year: Year | None = None) -> LabelledScores:
    """Return the rows whose clips have a label; `year` chooses the official score, None the one that fits the clips.

    Raises StudyError if a labelled clip of a scored machine ID has no score, or if some clips of a machine ID have a
    decision and others have none.
    """
    try:
        matched = _matched(rows, truth)
    except UnicodeDecodeError as error:
        raise StudyError(f"{truth} cannot be read: {error}") from error
    clips, warnings = matched.clips, list(matched.warnings)
    unlabelled = [row for row in matched.rows if row.key not in clips]
    if len(unlabelled) == len(rows):
        raise _labels_none(matched, truth)
    if unlabelled:
        first = unlabelled[0]
        warnings.append(
            f"{len(unlabelled)} scored clips have no label and are left out, for example {first.file} ({first.where})"
        )
    used = [row for row in matched.rows if row.key in clips]
    scored = {row.key for row in used}
    scored_ids = {clips[key].id_name for key in scored}
    missing = [key for key, clip in clips.items() if key not in scored and clip.id_name in scored_ids]
    if missing:
        raise StudyError(
            f"{len(missing)} labelled clips have no score ({_first(' '.join(key) for key in missing)}): metrics "
            "without them would not be those of this system"
        )
    unscored_ids = sorted({clip.id_name for clip in clips.values()} - scored_ids)
    if unscored_ids:
        warnings.append(f"no clip of {', '.join(unscored_ids)} has a score: they are left out")
    _require_all_decisions_or_none(used, clips)
    known = Truth.of([clips[row.key] for row in used])
    sections = sum(row.file.startswith("section_") for row in used)
    if year is None and sections and not known.domains:
        warnings.append(
            f"no domain is known of the {sections} clips section_…: their official score is by the rule of 2020. Those "
            "of later years need domains, from a column domain or the tables in ground_truth_domain"
        )
    return LabelledScores(
        scores=np.array([row.score for row in used]),
        decisions=tuple(row.decision for row in used),
        truth=known,
        warnings=tuple(warnings),
        of_corpus=matched.of_corpus,
    )


def _labels_none(matched: _Matched, truth: Path) -> StudyError:
    first, scored = matched.rows[0], {row.machine for row in matched.rows}
    message = f"{truth} has a label for none of the {len(matched.rows)} scored clips, for example {first.where}"
    if matched.machines and scored.isdisjoint(matched.machines):
        message += (
            f". They are of {', '.join(sorted(scored))} by their folder or column machine, and {truth} is of "
            f"{', '.join(sorted(matched.machines))}"
        )
    return StudyError("\n".join([message, *matched.warnings]))


def _require_all_decisions_or_none(rows: Iterable[ScoreRow], clips: Mapping[Key, Description]) -> None:
    by_id: dict[str, list[ScoreRow]] = defaultdict(list)
    for row in rows:
        by_id[clips[row.key].id_name].append(row)
    for name, of_id in by_id.items():
        without = [row for row in of_id if row.decision is None]
        if 0 < len(without) < len(of_id):
            raise StudyError(
                f"{len(without)} of the {len(of_id)} scored clips of {name} have no decision, for example "
                f"{without[0].file} ({without[0].where}): give a decision to all of them, or to none"
            )


def _first(names: Iterable[str]) -> str:
    """Return the first three names, for a message."""
    shown = list(islice(names, 4))
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")


def _matched(rows: Sequence[ScoreRow], truth: Path) -> _Matched:
    if not truth.exists():
        raise StudyError(f"{truth} does not exist: --truth is a CSV (file, label), a corpus or ground-truth tables")
    if truth.is_file() and truth.suffix.lower() == ".csv":
        if _TABLE.match(truth.name):
            return _of_tables(rows, truth, [truth])
        return _of_corpus(rows, truth, read_corpus(truth)) if _is_manifest(truth) else _listed(rows, truth)
    # Tables of attributes have the same names, but neither labels nor domains.
    tables = [
        file
        for file in truth.rglob("*.csv")
        if _TABLE.match(file.name) and file.parent.name != "ground_truth_attributes"
    ]
    if tables and not any(truth.rglob("*.wav")):
        return _of_tables(rows, truth, tables)
    try:
        corpus = read_corpus(truth)
    except CorpusError as error:
        if tables:
            raise
        raise CorpusError(f"{truth} has no ground-truth tables ({_TABLES}) and is no corpus: {error}") from error
    return _of_corpus(rows, truth, corpus)


def _is_manifest(path: Path) -> bool:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {"path", "split"} <= set(next(csv.reader(file), []))


def _with_machines(rows: Iterable[ScoreRow], machines: Collection[str], truth: Path) -> list[ScoreRow]:
    """Add the only machine type to the rows that name none. Raises StudyError if there are several."""
    (machine, *others) = sorted(machines) or [""]
    named = []
    for row in rows:
        if not row.machine and (others or not machine):
            which = f"is of {', '.join(sorted(machines))}" if machines else "may be of several"
            raise StudyError(f"{row.where}: no machine in the path of {row.file}, and {truth} {which}: {row.remedy}")
        named.append(row if row.machine else replace(row, machine=machine))
    return distinct(named)


def _of_corpus(rows: Sequence[ScoreRow], truth: Path, corpus: Corpus) -> _Matched:
    clips = [clip for clip in corpus.clips if clip.split == "test" and clip.label is not None]
    machines = {clip.machine for clip in clips}
    return _Matched(
        rows=_with_machines(rows, machines, truth),
        clips={(clip.machine, clip.path.name): clip for clip in clips},
        machines=machines,
        of_corpus=True,
    )


def _of_tables(rows: Sequence[ScoreRow], truth: Path, tables: Sequence[Path]) -> _Matched:
    """Match the rows with tables. Their folder says what they hold; it may be the truth itself."""
    root = Path(os.path.abspath(tables[0] if truth.is_file() else truth))
    root = root.parent.parent if truth.is_file() else root.parent
    machines = {match["machine"] for table in tables if (match := _TABLE.match(table.name)) and match["machine"]}
    rows = _with_machines(rows, machines, truth)
    named = {f"{row.machine}/{row.file}": _described(row.machine, row.file) for row in rows}
    completed, warnings = completed_by([Path(os.path.abspath(table)) for table in tables], root, named)
    clips = {
        (clip.machine, name.rpartition("/")[2]): clip for name, clip in completed.items() if clip.label is not None
    }
    return _Matched(rows, clips, machines, warnings)


def _listed(rows: Sequence[ScoreRow], truth: Path) -> _Matched:
    hint = "The truth is a CSV with the columns file, label[, machine, domain], a corpus or ground-truth tables"
    lines = list(table_of(truth, needed=("path", "label"), hint=hint))
    named = {machine_in(cells) for _, cells in lines} - {""}
    rows = _with_machines(rows, named or {row.machine for row in rows} - {""} or {_UNNAMED}, truth)
    machines = sorted({row.machine for row in rows})
    folders_are_machines = not named.isdisjoint(machines)
    labelled_in: dict[Key, int] = {}  # line
    clips: dict[Key, Description] = {}
    for line, cells in lines:
        where, name = f"{truth}, line {line}", Path(path_in(cells)).name
        label = _LABELS.get(cells["label"])
        if label is None:
            raise CorpusError(f"{where}: a label is 0 or normal, 1 or anomaly, but got {cells['label']!r}")
        domain = _DOMAINS.get(text := cells.get("domain") or "")
        if text and domain is None:
            raise CorpusError(f"{where}: a domain is source or target, but got {text!r}")
        machine = machine_in(cells) if cells.get("machine") or folders_are_machines else ""
        if not machine and len(machines) > 1:
            raise CorpusError(f"{where}: which machine? The scores are of {', '.join(machines)}: add a column machine")
        key = machine or machines[0], name
        if key in labelled_in:
            raise CorpusError(f"{where}: {', '.join(key)} has a label already, in line {labelled_in[key]}")
        labelled_in[key] = line
        clips[key] = _described(key[0], name, label=label, domain=domain)
    return _Matched(rows, clips, {machine for machine, _ in clips})


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
