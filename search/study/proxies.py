"""The proxies, which stand for unrecorded faults, and their names in study files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from features.clips.synthetic_faults import GRADES, KINDS, FaultKind
from features.did_you_mean import did_you_mean
from search.errors import StudyError


@dataclass(frozen=True)
class Proxy:
    """A stand-in for unrecorded faults: synthetic faults of one kind and grade, or clips of other machine IDs."""

    kind: FaultKind | Literal["other IDs"]
    grade: float | None = None  # of a synthetic fault

    @property
    def name(self) -> str:
        return self.kind if self.grade is None else f"{self.kind} {self.grade:g}"


OTHER_IDS = Proxy("other IDs")


PROXIES = (OTHER_IDS, *(Proxy(kind, grade) for kind in KINDS for grade in GRADES))


def proxies_named(names: Sequence[str]) -> tuple[Proxy, ...]:
    """Return the proxies of these names. Raises StudyError for an unknown name."""
    known = {proxy.name: proxy for proxy in PROXIES}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise StudyError(f"no proxy is called {name!r}{hint}")
    return tuple(known[name] for name in names)
