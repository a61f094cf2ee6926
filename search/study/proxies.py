"""What stands for faults that nobody has recorded: the names by which a study file lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from features.clips.faults import GRADES, KINDS, FaultKind
from features.did_you_mean import did_you_mean
from search.errors import StudyError


@dataclass(frozen=True)
class Proxy:
    """What stands for the faults that nobody has recorded."""

    kind: FaultKind | Literal["other IDs"]
    grade: float | None = None  # of a fault

    @property
    def name(self) -> str:
        return self.kind if self.grade is None else f"{self.kind} {self.grade:g}"


OTHER_IDS = Proxy("other IDs")


PROXIES = (OTHER_IDS, *(Proxy(kind, grade) for kind in KINDS for grade in GRADES))


def proxies_named(names: Sequence[str]) -> tuple[Proxy, ...]:
    """The proxies of these names. Raises StudyError for a name that none has."""
    known = {proxy.name: proxy for proxy in PROXIES}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise StudyError(f"no proxy is called {name!r}{hint}")
    return tuple(known[name] for name in names)
