"""The clips to compare by eye and ear: of one machine ID, so that nothing differs but its health."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.machine_id import MachineId
from search.analysis.separability import MethodResult, Separability


@dataclass(frozen=True)
class Heard:
    """A clip, and why it was chosen."""

    what: str
    clip: Clip
    score: float  # of the machine's best method


@dataclass(frozen=True)
class Example:
    """Clips of one machine side by side, a normal one first."""

    id: MachineId
    best: MethodResult  # the machine's best method, whose scores chose
    heard: tuple[Heard, ...]


def example_of(machine: str, found: Separability) -> Example:
    """A typical normal clip, a typical anomalous one and the strangest one, of the ID with the most labelled clips.

    Of several with as many, of the one whose anomalies are told best.
    """
    best = found.machines[machine].best
    scores = found.scores[best.method]
    name = max(
        found.machines[machine].ids,
        key=lambda name: (found.ids[name].normal + found.ids[name].anomaly, found.ids[name].of(best.method).auc),
    )
    rows = {
        label: sorted(
            (row for row, clip in enumerate(found.clips) if clip.id_name == name and clip.label == label),
            key=lambda row: scores[row],
        )
        for label in (NORMAL, ANOMALY)
    }
    chosen = {
        "a typical normal clip": rows[NORMAL][(len(rows[NORMAL]) - 1) // 2],
        "a typical anomaly": rows[ANOMALY][(len(rows[ANOMALY]) - 1) // 2],
        "the strangest anomaly": rows[ANOMALY][-1],
    }
    if chosen["a typical anomaly"] == chosen["the strangest anomaly"]:
        del chosen["a typical anomaly"]
    heard = (Heard(what, found.clips[row], float(scores[row])) for what, row in chosen.items())
    return Example(MachineId.parse(name), best, tuple(heard))


def times_as_far(found: Separability, name: str) -> float | None:
    """How many times as far from its ID's training clips an anomaly lies as a normal test clip, both typical ones."""
    method = next((method for method in found.scores if (method.feature, method.detector) == ("logmel", "kNN")), None)
    if method is None or name not in found.ids:
        return None
    own = {
        label: [
            found.scores[method][row]
            for row, clip in enumerate(found.clips)
            if clip.id_name == name and clip.label == label
        ]
        for label in (NORMAL, ANOMALY)
    }
    normal = float(np.median(own[NORMAL]))
    return float(np.median(own[ANOMALY])) / normal if normal > 0 else None
