"""The clips of each machine ID, how long and how loud they are, and suspicious ones.

level : RMS of a clip, dB of full scale (a square wave that fills it has 0); not of clips that are held out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.inspection import Suspicion, inspect, leaks
from features.clips.machine_id import MachineId
from search.analysis.statistics import KindProgress, Statistics
from search.analysis.view import View


@dataclass(frozen=True)
class Row:
    """One machine ID."""

    id: MachineId
    training: int  # clips
    normal: int
    anomaly: int
    unlabelled: int
    held_out: int
    seconds: tuple[float, float]  # shortest and longest clip
    rates: tuple[int, ...]  # Hz
    training_level: tuple[float, float, float] | None  # lowest, median, highest
    normal_level: float | None  # median of the normal test clips
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Inventory:
    """The clips of a corpus, and suspicious ones."""

    rows: tuple[Row, ...]
    suspicions: tuple[Suspicion, ...]
    leaks: tuple[tuple[str, str], ...]  # names of a training and a test clip of the same contents
    supplemental: int  # clips for neither training nor tests

    @property
    def louder(self) -> list[tuple[Row, float]]:
        """The IDs whose normal test clips are louder or quieter than all training clips, and by how many dB."""
        louder = []
        for row in self.rows:
            if row.training_level is not None and row.normal_level is not None:
                lowest, median, highest = row.training_level
                if not lowest - 1 <= row.normal_level <= highest + 1:
                    louder.append((row, row.normal_level - median))
        return louder


def inventory(view: View, statistics: Statistics, *, progress: KindProgress) -> Inventory:
    """The inventory of the whole corpus. Clips that are held out are counted and their lengths used, no more."""
    by_id: dict[MachineId, list[Clip]] = defaultdict(list)
    for clip in view.corpus.clips:
        if clip.split != "supplemental":
            by_id[clip.id].append(clip)
    hidden = {clip.name for clip in view.held_out}
    visible = replace(view.corpus, clips=tuple(clip for clip in view.corpus.clips if clip.name not in hidden))
    suspicions = inspect(visible, progress=lambda done, of: progress("inspecting files", done, of))
    return Inventory(
        rows=tuple(_row(of_id, clips, hidden, statistics) for of_id, clips in sorted(by_id.items())),
        suspicions=tuple(suspicions),
        leaks=tuple((trained.name, tested.name) for trained, tested in leaks(visible)),
        supplemental=sum(clip.split == "supplemental" for clip in view.corpus.clips),
    )


def _row(of_id: MachineId, clips: list[Clip], hidden: set[str], statistics: Statistics) -> Row:
    tests = [clip for clip in clips if clip.split == "test" and clip.name not in hidden]
    labels = Counter(clip.label for clip in tests)
    lengths = [clip.seconds for clip in clips]
    training = [clip for clip in clips if clip.split == "train"]
    normal = [clip for clip in tests if clip.label == NORMAL]
    levels = statistics.levels(training)
    return Row(
        id=of_id,
        training=len(training),
        normal=labels[NORMAL],
        anomaly=labels[ANOMALY],
        unlabelled=labels[None],
        held_out=sum(clip.name in hidden for clip in clips),
        seconds=(min(lengths), max(lengths)),
        rates=tuple(sorted({clip.sample_rate for clip in clips})),
        training_level=(levels.min(), float(np.median(levels)), levels.max()) if training else None,
        normal_level=float(np.median(statistics.levels(normal))) if normal else None,
        sets=tuple(sorted({clip.source for clip in clips})),
    )
