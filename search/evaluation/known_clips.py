"""What a truth knows of clips, in whatever form the truth is given.

a corpus                 a folder of recordings, or a manifest of them (features.clips.corpus)
the challenge's tables   in folders, or a single table, without any recording (features.clips.ground_truth)
a CSV with a header      file (or path), label (0 or normal, 1 or anomaly), perhaps machine and domain

Whatever the form, all clips that it knows are listed: how complete scores are is then judged in one way.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from features.clips.clip import ANOMALY, DOMAINS, NORMAL, Description, Domain, Split, parse_stem
from features.clips.corpus import SPLIT_FOLDERS, read_corpus
from features.clips.ground_truth import clips_labelled_by
from features.errors import CorpusError
from search.errors import StudyError
from search.evaluation.score_files import machine_of_folder, path_in, table_of

_DOMAINS: Mapping[str, Domain] = {name: name for name in DOMAINS}
_LABELS = {"0": NORMAL, "1": ANOMALY, "normal": NORMAL, "anomaly": ANOMALY}

#: The challenge's tables that hold labels or domains of clips.
_TABLE = re.compile(r"^(?:ground_truth_.+_section_\d\d_(?:(?:source|target)_)?test|eval_data_list.*)\.csv$")
_TABLES = "ground_truth_data/ground_truth_<machine>_section_<ID>_test.csv, or eval_data_list….csv"

#: The machine type of clips if neither the scores nor the truth name one.
_UNNAMED = "unnamed"


@dataclass(frozen=True)
class KnownClip:
    """A clip of the truth."""

    path: PurePath  # absolute if there is a recording, else as the truth gives it: perhaps the file name alone
    description: Description

    @property
    def machine(self) -> str:
        return self.description.machine

    @property
    def is_labelled(self) -> bool:
        """Whether it is a test clip with a label."""
        return self.description.split == "test" and self.description.label is not None

    @property
    def split(self) -> Split:
        """The split, by the clip's folder if this is called by one."""
        return split_of_folder(self.path) or self.description.split

    def __str__(self) -> str:
        return f"{self.machine} {self.path.name}"


@dataclass(frozen=True)
class KnownClips:
    """All clips that a truth knows, in its order."""

    truth: Path
    clips: Sequence[KnownClip]
    warnings: tuple[str, ...] = ()
    of_corpus: bool = False  # whether the truth is a corpus: a search may have used some of its clips for validation


def split_of_folder(path: PurePath) -> Split | None:
    """Return the split that a clip's folder is called by; None if it is called otherwise."""
    return SPLIT_FOLDERS.get(path.parent.name, (None,))[0]


def known_clips(truth: Path, machines: Collection[str]) -> KnownClips:
    """Read a truth. `machines` are the machine types of the scores, which a CSV need not repeat.

    Raises StudyError or CorpusError if the truth cannot be read or is none.
    """
    try:
        return _known(truth, machines)
    except UnicodeDecodeError as error:
        raise StudyError(f"{truth} cannot be read: {error}") from error


def _known(truth: Path, machines: Collection[str]) -> KnownClips:
    if not truth.exists():
        raise StudyError(f"{truth} does not exist: --truth is a CSV (file, label), a corpus or ground-truth tables")
    if truth.is_file() and truth.suffix.lower() == ".csv":
        if _TABLE.match(truth.name):
            return _of_tables(truth, [truth])
        return _of_corpus(truth) if _is_manifest(truth) else _listed(truth, machines)
    # Tables of attributes have the same names, but neither labels nor domains.
    tables = [
        file
        for file in truth.rglob("*.csv")
        if _TABLE.match(file.name) and file.parent.name != "ground_truth_attributes"
    ]
    if tables and not any(truth.rglob("*.wav")):
        return _of_tables(truth, tables)
    try:
        return _of_corpus(truth)
    except CorpusError as error:
        if tables:
            raise
        raise CorpusError(f"{truth} has no ground-truth tables ({_TABLES}) and is no corpus: {error}") from error


def _is_manifest(path: Path) -> bool:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {"path", "split"} <= set(next(csv.reader(file), []))


def _of_corpus(truth: Path) -> KnownClips:
    clips = [KnownClip(Path(os.path.abspath(clip.path)), clip) for clip in read_corpus(truth).clips]
    return KnownClips(truth, clips, of_corpus=True)


def _of_tables(truth: Path, tables: Sequence[Path]) -> KnownClips:
    """List the clips of tables. Their folder says what they hold; it may be the truth itself."""
    root = Path(os.path.abspath(truth))
    root = root.parent.parent if truth.is_file() else root.parent
    labelled, warnings = clips_labelled_by([Path(os.path.abspath(table)) for table in tables], root)
    clips = [KnownClip(PurePath(PurePath(name).name), clip) for name, clip in labelled.items()]
    return KnownClips(truth, clips, warnings)


def _listed(truth: Path, machines: Collection[str]) -> KnownClips:
    """List the clips of a CSV. A folder is a machine type only if scores have one that is called so."""
    hint = "The truth is a CSV with the columns file, label[, machine, domain], a corpus or ground-truth tables"
    lines = list(table_of(truth, needed=("path", "label"), hint=hint))
    named = {cells.get("machine") or machine_of_folder(path_in(cells)) for _, cells in lines} - {""}
    folders_are_machines = not machines or not named.isdisjoint(machines)
    (otherwise, *others) = sorted(machines) or [_UNNAMED]
    labelled_in: dict[tuple[str, str], int] = {}  # line
    clips: list[KnownClip] = []
    for line, cells in lines:
        where, path = f"{truth}, line {line}", os.path.normpath(path_in(cells))
        label = _LABELS.get(cells["label"])
        if label is None:
            raise CorpusError(f"{where}: a label is 0 or normal, 1 or anomaly, but got {cells['label']!r}")
        domain = _DOMAINS.get(text := cells.get("domain") or "")
        if text and domain is None:
            raise CorpusError(f"{where}: a domain is source or target, but got {text!r}")
        machine = cells.get("machine") or (machine_of_folder(path) if folders_are_machines else "")
        if not machine and others:
            names = ", ".join((otherwise, *others))
            raise CorpusError(f"{where}: which machine? The scores are of {names}: add a column machine")
        key = machine or otherwise, path
        if key in labelled_in:
            raise CorpusError(f"{where}: {', '.join(key)} has a label already, in line {labelled_in[key]}")
        labelled_in[key] = line
        parts = parse_stem(PurePath(path).stem)
        description = Description(
            machine=key[0],
            machine_id=parts.machine_id,
            split="test",
            label=label,
            source="development",
            domain=domain or parts.domain,
            attributes=parts.attributes,
        )
        clips.append(KnownClip(PurePath(path), description))
    return KnownClips(truth, clips)
