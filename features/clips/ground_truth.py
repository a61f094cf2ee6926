"""Labels, domains and attributes from the challenge's own tables, for clips whose names lack them.

The challenge's evaluation clips carry no label in their names. Its organisers give labels, domains and attributes in
tables, each year in others, which may lie anywhere below the corpus root:

    <machine>/attributes_<ID>.csv             columns file_name, d1p, d1v, d2p, …, and perhaps the full name
    eval_data_list*.csv                       lines with a machine, each followed by its clips: name, full name, and
                                              in 2020 the label
    ground_truth_data/ground_truth_<machine>_section_<ID>_[source_|target_]test.csv        name, label
    ground_truth_domain/…                     name, domain: 0 source, 1 target
    ground_truth_attributes/…                 name, full name, and in 2024 perhaps a fuller one
    <machine>/attributes_<ID>_{train,test}_correspondence.csv                full name, name

A full name is one such as section_00_target_test_anomaly_0012_car_C1. Attributes have the form that they have in
names, car_C1_spd_31V; where tables differ in them, the one further down counts. Labels and domains are for test clips,
and come from the second, third and fourth kind of table alone: the full names in the others only check them.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

from features.clips.clip import ANOMALY, DOMAINS, NORMAL, Description, Domain, parse_stem
from features.errors import CorpusError

#: Empty attributes: those of a name without a tail, and those that the challenge withholds.
_NO_ATTRIBUTES = ("", "noAttribute")

_LABELS = {NORMAL: "normal", ANOMALY: "an anomaly"}

_Value = TypeVar("_Value", int, Domain)

_Key = tuple[str, str]  # machine, and the clip's name without folders and suffix: the same for many machines


@dataclass(frozen=True)
class _Stated:
    """The facts that a line states about a clip."""

    label: int | None = None
    domain: Domain | None = None
    attributes: str = ""


@dataclass(frozen=True)
class _Row:
    """A line of a table, and the clip that it is about."""

    table: str  # its name below the root
    line: int
    machine: str
    stem: str
    stated: _Stated

    @property
    def key(self) -> _Key:
        return self.machine, self.stem

    @property
    def where(self) -> str:
        return f"{self.table}, line {self.line}"


@dataclass(frozen=True)
class _Table:
    """One of the challenge's tables."""

    name: str  # below the root
    machine: str  # by its name or its folder's; empty for a table of several
    lines: Sequence[tuple[int, list[str]]]  # line numbers and cells, empty lines left out

    def row(self, line: int, clip: str, stated: _Stated, *, machine: str | None = None) -> _Row:
        return _Row(self.name, line, self.machine if machine is None else machine, _stem(clip), stated)

    def malformed(self, line: int, rule: str, cells: Sequence[str]) -> CorpusError:
        return CorpusError(f"{self.name}, line {line}: {rule}, but got {','.join(cells)!r}. Mend or remove it.")


def completed_by(
    paths: Sequence[Path], root: Path, clips: Mapping[str, Description]
) -> tuple[dict[str, Description], tuple[str, ...]]:
    """Clips by name, completed by the facts in the tables below `root`; and warnings.

    `paths` are any CSV files: those with other names than the challenge's are not opened.
    Raises CorpusError if one of the challenge's tables cannot be read, or contradicts another or a clip's name.
    """
    truth, warnings = _read(paths, root)
    completed = {name: truth.completing(name, clip) for name, clip in clips.items()}
    return completed, (*warnings, *truth.missing(clips))


def clips_labelled_by(paths: Sequence[Path], root: Path) -> tuple[dict[str, Description], tuple[str, ...]]:
    """All clips that the tables below `root` label, as <machine>/<file>, without any recording; and warnings.

    Raises CorpusError as `completed_by` does.
    """
    truth, warnings = _read(paths, root)
    return {name: truth.completing(name, clip) for name, clip in truth.labelled()}, tuple(warnings)


def _read(paths: Sequence[Path], root: Path) -> tuple[_GroundTruth, list[str]]:
    warnings: list[str] = []
    by_kind: list[list[_Table]] = [[] for _ in _KINDS]
    for path in sorted(paths):
        name = path.relative_to(root).as_posix()
        for kind, tables in zip(_KINDS, by_kind, strict=True):
            if match := kind.place.search(f"/{name}"):
                tables.append(_Table(name, match.groupdict().get("machine", ""), _lines(path, name)))
                break
        else:
            if path.name.startswith("ground_truth_"):
                folders = "ground_truth_data, ground_truth_domain or ground_truth_attributes"
                warnings.append(f"{name}: not used, since its folder does not say what it holds: {folders}")
    rows = [[list(kind.rows(table)) for table in tables] for kind, tables in zip(_KINDS, by_kind, strict=True)]
    truth = _GroundTruth()
    for kind, of_tables in zip(_KINDS, rows, strict=True):
        for of_table in of_tables if kind.labels else ():
            truth.take_labels(of_table)
    for of_table in chain.from_iterable(rows):
        warnings += truth.take_attributes(of_table)
    return truth, warnings


class _GroundTruth:
    """The rows of all tables, merged."""

    def __init__(self) -> None:
        self._labels: dict[_Key, _Row] = {}
        self._domains: dict[_Key, _Row] = {}
        self._attributes: dict[_Key, str] = {}

    def take_labels(self, rows: Iterable[_Row]) -> None:
        """Takes labels and domains. Raises CorpusError for one that contradicts an earlier row's."""
        for row in rows:
            if row.stated.label is not None:
                earlier = self._labels.setdefault(row.key, row)
                _require_same(row, row.stated.label, earlier.stated.label, earlier.where)
            if row.stated.domain is not None:
                earlier = self._domains.setdefault(row.key, row)
                _require_same(row, row.stated.domain, earlier.stated.domain, earlier.where)

    def take_attributes(self, rows: Sequence[_Row]) -> Iterator[str]:
        """Takes one table's attributes, which replace those of earlier tables. Yields a warning, and takes none, if the
        table's full names contradict labels or domains: its attributes are then those of other clips.

        In 2022's tables for ToyCar and ToyTrain the full names and the labels disagree for half of the clips: the clips
        were numbered in two ways.
        """
        unlike = [row for row in rows if self._contradicts(row)]
        if unlike:
            yield (
                f"{unlike[0].table}: its attributes are not used, since the full names of {len(unlike)} of its "
                f"{len(rows)} clips contradict the label or domain given elsewhere, as in line {unlike[0].line}"
            )
            return
        self._attributes.update(
            (row.key, row.stated.attributes) for row in rows if row.stated.attributes not in _NO_ATTRIBUTES
        )

    def _contradicts(self, row: _Row) -> bool:
        label, domain = self._labels.get(row.key), self._domains.get(row.key)
        return (label is not None and row.stated.label not in (None, label.stated.label)) or (
            domain is not None and row.stated.domain not in (None, domain.stated.domain)
        )

    def completing(self, name: str, clip: Description) -> Description:
        """A clip, completed by the tables' facts. Raises CorpusError if they contradict its name."""
        key = clip.machine, _stem(name)
        if clip.split == "test" and (row := self._labels.get(key)):
            _require_same(row, row.stated.label, clip.label, f"the name of {name}")
            clip = replace(clip, label=row.stated.label)
        if clip.split == "test" and (row := self._domains.get(key)):
            _require_same(row, row.stated.domain, clip.domain, f"the name of {name}")
            clip = replace(clip, domain=row.stated.domain)
        if clip.attributes in _NO_ATTRIBUTES and key in self._attributes:
            clip = replace(clip, attributes=self._attributes[key])
        return clip

    def labelled(self) -> Iterator[tuple[str, Description]]:
        """Yields each clip that has a label, as <machine>/<file>, described by its name alone."""
        for machine, stem in self._labels:
            parts = parse_stem(stem)
            yield (
                f"{machine}/{stem}.wav",
                Description(
                    machine=machine,
                    machine_id=parts.machine_id,
                    split="test",
                    label=parts.label,
                    source="evaluation",
                    domain=parts.domain,
                    attributes=parts.attributes,
                ),
            )

    def missing(self, clips: Mapping[str, Description]) -> Iterator[str]:
        """Yields a warning for each table that labels missing clips, for machines that have test clips at all."""
        there = {(clip.machine, _stem(name)) for name, clip in clips.items() if clip.split == "test"}
        machines = {machine for machine, _ in there}
        labelled: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in self._labels.values():
            labelled[row.table, row.machine].append(row.stem)
        for (table, machine), stems in labelled.items():
            missing = [stem for stem in stems if (machine, stem) not in there]
            if machine in machines and missing:
                yield (
                    f"{table}: {len(missing)} of the {len(stems)} clips of {machine} that it labels are not there, "
                    f"for example {missing[0]}.wav"
                )


def _require_same(row: _Row, value: int | str | None, other: int | str | None, other_place: str) -> None:
    if other not in (None, value):
        stated, opposed = (_LABELS[v] if isinstance(v, int) else f"of the {v} domain" for v in (value, other))
        raise CorpusError(
            f"{row.where}: {row.stem}.wav of {row.machine} is {stated}, but {opposed} by {other_place}. "
            "Mend or remove one of the two."
        )


def _lines(path: Path, name: str) -> list[tuple[int, list[str]]]:
    try:
        # A machine's name need not be UTF-8: it is compared with a folder's name, which Python decodes like this.
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.reader(file)
            stripped = ((rows.line_num, [cell.strip() for cell in row]) for row in rows)
            return [(line, cells) for line, cells in stripped if any(cells)]
    except OSError as error:
        raise CorpusError(f"{name}: cannot be opened ({error.strerror}). Make it readable, or remove it.") from error
    except csv.Error as error:
        raise CorpusError(f"{name}: not comma-separated values ({error}). Mend or remove it.") from error


def _stem(clip: str) -> str:
    """A clip's name without folders and suffix. Not Path.stem: speeds such as spd_7.5V end names of no suffix."""
    name = clip.rpartition("/")[2]
    return name[:-4] if name.lower().endswith(".wav") else name


def _full_name(name: str) -> _Stated:
    parts = parse_stem(_stem(name))
    return _Stated(parts.label, parts.domain, parts.attributes)


def _attribute_columns(table: _Table) -> Iterator[_Row]:
    header = table.lines[0][1] if table.lines else []
    for line, cells in table.lines[1:]:
        named = dict(zip(header, cells, strict=False))
        full = _full_name(next((cell for column, cell in named.items() if column.startswith("file_name_")), ""))
        pairs = [(named.get(f"d{number}p"), named.get(f"d{number}v")) for number in range(1, len(header))]
        attributes = "_".join(f"{parameter}_{value}" for parameter, value in pairs if parameter and value)
        yield table.row(line, cells[0], full if full.attributes else replace(full, attributes=attributes))


def _evaluation_list(table: _Table) -> Iterator[_Row]:
    machine = ""
    for line, cells in table.lines:
        if len(cells) == 1:
            machine = cells[0]
            continue
        stated = _full_name(cells[1])
        if not machine or stated.label is None or cells[2:] not in ([], [str(stated.label)]):
            rule = (
                "a line is a machine, or a clip of it, its full name with a label in it, and perhaps the same as 0 or 1"
            )
            raise table.malformed(line, rule, cells)
        yield table.row(line, cells[0], stated, machine=machine)


def _labels(table: _Table) -> Iterator[_Row]:
    for line, cells in table.lines:
        yield table.row(line, cells[0], _Stated(label=_flag(table, line, cells, (NORMAL, ANOMALY))))


def _domains(table: _Table) -> Iterator[_Row]:
    for line, cells in table.lines:
        yield table.row(line, cells[0], _Stated(domain=_flag(table, line, cells, DOMAINS)))


def _flag(table: _Table, line: int, cells: Sequence[str], values: Sequence[_Value]) -> _Value:
    """The value that a line of two cells, name and 0 or 1, stands for."""
    if len(cells) != 2 or cells[1] not in ("0", "1"):
        first, second = (_LABELS[v] if isinstance(v, int) else v for v in values)
        raise table.malformed(line, f"a line is a clip and 0 ({first}) or 1 ({second})", cells)
    return values[int(cells[1])]


def _full_names(table: _Table) -> Iterator[_Row]:
    for line, cells in table.lines:
        if len(cells) < 2:
            raise table.malformed(line, "a line is a clip and its full name", cells)
        yield table.row(line, cells[0], _full_name(cells[-1] or cells[1]))


def _correspondences(table: _Table) -> Iterator[_Row]:
    for line, cells in table.lines[1:]:
        if len(cells) < 2:
            raise table.malformed(line, "a line is a full name and a clip", cells)
        yield table.row(line, cells[1], _full_name(cells[0]))


@dataclass(frozen=True)
class _Kind:
    """One kind of table."""

    place: re.Pattern[str]  # of its name below the root
    rows: Callable[[_Table], Iterator[_Row]]
    labels: bool  # whether labels and domains are taken from it, or attributes alone


_OF_SECTION = r"/ground_truth_(?P<machine>[^/]+)_section_\d\d_(?:(?:source|target)_)?test\.csv$"

#: The attributes of later kinds count more.
_KINDS = (
    _Kind(re.compile(r"/(?P<machine>[^/]+)/attributes_\d\d\.csv$"), _attribute_columns, labels=False),
    _Kind(re.compile(r"/eval_data_list[^/]*\.csv$"), _evaluation_list, labels=True),
    _Kind(re.compile("/ground_truth_data" + _OF_SECTION), _labels, labels=True),
    _Kind(re.compile("/ground_truth_domain" + _OF_SECTION), _domains, labels=True),
    _Kind(re.compile("/ground_truth_attributes" + _OF_SECTION), _full_names, labels=False),
    _Kind(
        re.compile(r"/(?P<machine>[^/]+)/attributes_\d\d_(?:train|test)_correspondence\.csv$"),
        _correspondences,
        labels=False,
    ),
)
