"""A corpus written down in a table: where each clip lies, and what it is.

    path,machine,machine_id,split,label,source,domain,attributes
    press/0001.wav,press,00,train,,,,
    press/0907.wav,press,00,test,anomaly,,,belt_worn

`path` (absolute, or from the table's folder) and `split` are needed. An absent column, like an empty cell, leaves it
to the clip's name, and where the name lacks it: machine is the table's own name, machine_id 00, label normal in
`train` and unknown elsewhere, source development. Every cell is text: the machine ID 00 stays 00.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from features.clips.clip import ANOMALY, DOMAINS, NORMAL, Description, Domain, Source, Split, parse_stem
from features.did_you_mean import did_you_mean
from features.errors import CorpusError

_COLUMNS = ("path", "machine", "machine_id", "split", "label", "source", "domain", "attributes")
_NEEDED = ("path", "split")

_SPLITS: dict[str, Split] = {name: name for name in get_args(Split)}
_SOURCES: dict[str, Source] = {name: name for name in get_args(Source)}
_DOMAINS: dict[str, Domain] = {name: name for name in DOMAINS}
_LABELS: dict[str, int | None] = {"normal": NORMAL, "anomaly": ANOMALY, "unknown": None, "0": NORMAL, "1": ANOMALY}

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a manifest."""

    path: Path
    name: str  # below the table's folder where it lies there, else its path; with forward slashes
    description: Description


def is_manifest(root: Path) -> bool:
    """Whether a corpus root is a table of clips and not a folder of them."""
    return root.suffix.lower() == ".csv" and root.is_file()


def read_manifest(table: Path) -> list[Entry]:
    """The clips of a manifest, in the order of their names.

    Raises CorpusError, naming file, line and column, if the table cannot be read, a column is missing, unknown or
    there twice, a cell has an unknown value, or a file is listed twice.
    """
    entries: list[Entry] = []
    lines: dict[str, int] = {}  # of each file, wherever links lead
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            columns = _checked_columns(table, next(rows, []))
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                where = f"{table}, line {rows.line_num}"
                entry = _entry(table, where, columns, row)
                real = os.path.realpath(entry.path)
                if real in lines:
                    raise CorpusError(
                        f"{where}: column path: {entry.name} is the same file as in line {lines[real]}; list it once"
                    )
                lines[real] = rows.line_num
                entries.append(entry)
    except OSError as error:
        raise CorpusError(f"{table} cannot be opened ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorpusError(f"{table} is not a table of comma-separated values in UTF-8 ({error})") from error
    if not entries:
        raise CorpusError(f"{table} lists no clips: each takes a line below that of the columns")
    return sorted(entries, key=lambda entry: entry.name)


def _checked_columns(table: Path, header: Sequence[str]) -> list[str]:
    columns = [column.strip() for column in header]
    for column in columns:
        if column not in _COLUMNS:
            raise CorpusError(f"{table}, line 1: a column is {_one_of(_COLUMNS, column)}")
        if columns.count(column) > 1:
            raise CorpusError(f"{table}, line 1: column {column} is there twice; keep one")
    for needed in _NEEDED:
        if needed not in columns:
            raise CorpusError(
                f"{table}, line 1: columns {' and '.join(_NEEDED)} are needed, but got "
                f"{', '.join(columns) or 'an empty file'}"
            )
    return columns


def _entry(table: Path, where: str, columns: Sequence[str], row: Sequence[str]) -> Entry:
    if len(row) > len(columns):
        raise CorpusError(
            f"{where}: a line has a cell for each of {len(columns)} columns, but got {len(row)}; "
            "put a cell with a comma in it into double quotes"
        )
    cells = {column: cell.strip() for column, cell in zip(columns, row, strict=False)}
    for column in _NEEDED:
        if not cells.get(column):
            raise CorpusError(f"{where}: column {column}: each clip needs one, but the cell is empty")
    for column in ("machine", "machine_id"):
        if "/" in cells.get(column, ""):
            raise CorpusError(f"{where}: column {column}: a name has no slash in it, but got {cells[column]!r}")
    folder = table.absolute().parent
    path = folder / os.path.normpath(cells["path"])
    named = parse_stem(path.stem)
    split = _chosen(where, cells, "split", _SPLITS, "train")
    label = _chosen(where, cells, "label", _LABELS, NORMAL if split == "train" else named.label)
    if split == "train" and label != NORMAL:
        raise CorpusError(
            f"{where}: column label: a training clip is normal, but got {cells['label']!r}; "
            "correct the label or put the clip into the test split"
        )
    return Entry(
        path=path,
        name=(path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix(),
        description=Description(
            machine=cells.get("machine") or table.stem,
            machine_id=cells.get("machine_id") or named.machine_id,
            split=split,
            label=label,
            source=_chosen(where, cells, "source", _SOURCES, "development"),
            domain=_chosen(where, cells, "domain", _DOMAINS, named.domain),
            attributes=cells.get("attributes") or named.attributes,
        ),
    )


def _chosen(
    where: str, cells: Mapping[str, str], column: str, choices: Mapping[str, _Value], default: _Value
) -> _Value:
    cell = cells.get(column)
    if not cell:
        return default
    if cell not in choices:
        raise CorpusError(f"{where}: column {column}: {column} is {_one_of(choices, cell)}")
    return choices[cell]


def _one_of(choices: Collection[str], got: str) -> str:
    remedy = "; separate columns by commas" if {";", "\t"} & set(got) else did_you_mean(got, choices)
    return f"one of {', '.join(choices)}, but got {got!r}{remedy}"
