"""One recording, and what its file name means.

The two name patterns read all file names of the DCASE Task 2 ground-truth lists, 2020 to 2025. A clip of the
`supplemental` split (2025: the machine alone, or its surroundings alone) is listed, but never trained or tested on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from features.clips.machine_id import MachineId

Split = Literal["train", "test", "supplemental"]
Source = Literal["development", "additional", "evaluation"]
Domain = Literal["source", "target"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)

NORMAL = 0
ANOMALY = 1

#: The machine ID of clips whose names carry none.
WITHOUT_ID = "00"

_ID_NAME = re.compile(r"^(?:(?P<label>normal|anomaly)_)?id_(?P<id>\d\d)_\d{8}$")
_SECTION_NAME = re.compile(
    r"^section_(?P<id>\d\d)_(?:(?:machine|noise)_)?(?:(?P<domain>source|target)_)?(?:(?:train|test|supplemental)_)?"
    r"(?:(?P<label>normal|anomaly)_)?\d{4}(?:_(?P<attributes>.*))?$"
)
_PLAIN_NAME = re.compile(r"^(?:(?P<label>normal|anomaly)(?=_|$))?.*$")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a recording: by its place and name, by a ground-truth file or by a manifest."""

    machine: str
    machine_id: str
    split: Split
    label: int | None  # 0 normal, 1 anomaly, None unknown
    source: Source
    domain: Domain | None
    attributes: str  # the name's tail, as it stands

    @property
    def id(self) -> MachineId:
        """The machine ID."""
        return MachineId(self.machine, self.machine_id)

    @property
    def id_name(self) -> str:
        """The machine ID as text: machine/ID."""
        return str(self.id)


@dataclass(frozen=True, kw_only=True)
class Clip(Description):
    """One recording of one machine."""

    path: Path
    name: str  # path below the corpus root, with forward slashes: the same on every host
    sample_rate: int  # Hz
    samples: int  # of each channel
    channels: int = 1
    digest: str  # of the file's bytes

    @property
    def seconds(self) -> float:
        """The length of the recording."""
        return self.samples / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class NameParts:
    """The parts of a file's stem."""

    machine_id: str
    has_id: bool  # whether the name has one
    label: int | None
    domain: Domain | None
    attributes: str


def parse_stem(stem: str) -> NameParts:
    """The parts of a file's name without its suffix. A name of no known pattern has ID 00 and perhaps a label."""
    match = _ID_NAME.match(stem) or _SECTION_NAME.match(stem) or _PLAIN_NAME.match(stem)
    parts = match.groupdict() if match else {}
    label = parts.get("label")
    domain = parts.get("domain")
    return NameParts(
        machine_id=parts.get("id") or WITHOUT_ID,
        has_id="id" in parts,
        label=None if label is None else (ANOMALY if label == "anomaly" else NORMAL),
        domain=None if domain is None else ("target" if domain == "target" else "source"),
        attributes=parts.get("attributes") or "",
    )
