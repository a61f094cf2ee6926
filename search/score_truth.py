"""The truth about scored clips: which are normal, and of which domain.

It is a corpus (features.corpus), or a folder with the challenge's ground-truth tables alone (features.ground_truth),
or a CSV with a header: file, label (0 or 1), perhaps machine and domain.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from features.clip import Description, Domain, parse_stem
from features.corpus import read_corpus
from features.errors import CorpusError
from features.ground_truth import completed_by
from search.errors import StudyError
from search.evaluation import Scores, Truth
from search.score_files import Key, ScoreRow, table_of

_DOMAINS: Mapping[str, Domain] = {"source": "source", "target": "target"}


@dataclass(frozen=True)
class Judged:
    """Labelled clips, how they were scored, and what could not be used."""

    scores: Scores
    decisions: tuple[int | None, ...]
    truth: Truth
    warnings: tuple[str, ...]


def judged(rows: Sequence[ScoreRow], truth: Path) -> Judged:
    """The rows whose clips have a label. Raises StudyError if labelled clips of their machine IDs have no score."""
    try:
        clips = _labelled(rows, truth)
    except UnicodeDecodeError as error:
        raise StudyError(f"{truth} cannot be read: {error}") from error
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
    return Judged(
        scores=np.array([row.score for row in used]),
        decisions=tuple(row.decision for row in used),
        truth=Truth.of([clips[row.key] for row in used]),
        warnings=tuple(warnings),
    )


def _first(names: Iterable[str]) -> str:
    """The first three."""
    shown = list(islice(names, 4))
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")


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
    for line, cells in table_of(path, needed=("file", "label")):
        where = f"{path}, line {line}"
        name = Path(cells["file"] or "").name
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
