"""The clips to compare by eye and ear: all of one machine ID, so that they differ in nothing but its health."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.machine_id import MachineId
from search.analysis.separability import MethodResult, Separability, SeparationMethod


@dataclass(frozen=True)
class ExampleClip:
    """A clip, and why it was chosen."""

    what: str  # such as "a typical anomaly"
    clip: Clip
    score: float  # of the machine's best method


@dataclass(frozen=True)
class Example:
    """Clips of one machine side by side, a normal one first."""

    id: MachineId
    best: MethodResult  # the machine's best method, by whose scores the clips were chosen
    clips: tuple[ExampleClip, ...]


def example_of(machine: str, separability: Separability) -> Example:
    """A typical normal clip, a typical anomaly and the strangest anomaly, of the ID with the most labelled clips.

    Of several IDs with equally many, the one with the highest AUC is taken.
    """
    best = separability.machines[machine].best
    scores = separability.scores[best.method]
    name = max(
        separability.machines[machine].ids,
        key=lambda name: (
            separability.ids[name].normal + separability.ids[name].anomaly,
            separability.ids[name].of(best.method).auc,
        ),
    )
    rows = {
        label: sorted(
            (row for row, clip in enumerate(separability.clips) if clip.id_name == name and clip.label == label),
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
    clips = (ExampleClip(what, separability.clips[row], float(scores[row])) for what, row in chosen.items())
    return Example(MachineId.parse(name), best, tuple(clips))


def times_as_far(separability: Separability, name: str) -> float | None:
    """How many times farther a typical anomaly lies from its ID's training clips than a typical normal test clip.

    None if the ID has no AUC by log-mel, or its typical normal clip has distance 0.
    """
    by_logmel = SeparationMethod("logmel", "kNN")
    if by_logmel not in separability.scores or name not in separability.ids:
        return None
    own = {
        label: [
            separability.scores[by_logmel][row]
            for row, clip in enumerate(separability.clips)
            if clip.id_name == name and clip.label == label
        ]
        for label in (NORMAL, ANOMALY)
    }
    normal = float(np.median(own[NORMAL]))
    return float(np.median(own[ANOMALY])) / normal if normal > 0 else None
