"""The labels that scores are measured against.

ids    : machine/ID of each clip.
labels : 0 normal, 1 anomaly.
folds  : of a cross-validation (search.validation.views): each fold has another model, and a clip may have a score in
         several folds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from features.clips.clip import ANOMALY, NORMAL, Clip, Description, Domain
from features.clips.machine_id import MachineId
from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.official import Year, year_for

#: Positions of clips in a truth.
Indices = npt.NDArray[np.int64]

#: In each fold that has both: its normal clips and its anomalies.
Pairs = list[tuple[Indices, Indices]]


@dataclass(frozen=True)
class Truth:
    """What metrics need to know of labelled clips."""

    ids: tuple[str, ...]  # machine/ID of each clip
    labels: tuple[int, ...]  # 0 normal, 1 anomaly
    domains: tuple[Domain | None, ...] = ()  # of each clip; empty where none is known
    folds: tuple[int, ...] = ()  # in which each clip is scored, from 0, ascending; empty if there are none
    recordings: tuple[int, ...] = ()  # the recording of each clip, by number; empty if each clip is another recording
    rule: Year | None = None  # of the official score; None: the one that fits the clips' domains

    @classmethod
    def of(cls, clips: Sequence[Description]) -> Truth:
        """Return the truth of clips that all have labels."""
        domains = tuple(clip.domain for clip in clips)
        return cls(
            ids=tuple(clip.id_name for clip in clips),
            labels=tuple(clip.label for clip in clips if clip.label is not None),
            domains=domains if any(domains) else (),
        )

    @classmethod
    def of_folds(cls, folds: Sequence[Sequence[Clip]]) -> Truth:
        """Return the truth of the clips of several folds, one fold after the other."""
        clips = [clip for fold in folds for clip in fold]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(clip.name for clip in clips))}
        return replace(
            cls.of(clips),
            folds=tuple(fold for fold, members in enumerate(folds) for _ in members),
            recordings=tuple(numbers[clip.name] for clip in clips),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, clips: int) -> Truth:
        """Return the truth of the first clips: those of the folds that have been scored so far."""
        return self.at(range(min(clips, len(self))))

    @property
    def last_fold(self) -> slice:
        """The positions of the last fold's clips; of all clips if there are no folds."""
        return slice(self.folds.index(self.folds[-1]), None) if self.folds else slice(None)

    @property
    def in_last_fold(self) -> Truth:
        """The truth of the last fold's clips, as of one model without folds."""
        return replace(self.at(range(len(self))[self.last_fold]), folds=(), recordings=())

    def count(self, label: int) -> int:
        """Return how many clips have this label; a clip in several folds counts once."""
        return count_clips(np.flatnonzero(np.array(self.labels) == label), self)

    def of_ids(self, names: Collection[str]) -> Truth:
        """Return the truth of these machine IDs' clips."""
        return self.at([place for place, name in enumerate(self.ids) if name in names])

    def at(self, places: Sequence[int] | Indices) -> Truth:
        """Return the truth of the clips at these positions."""
        return Truth(
            ids=tuple(self.ids[place] for place in places),
            labels=tuple(self.labels[place] for place in places),
            domains=tuple(self.domains[place] for place in places) if self.domains else (),
            folds=tuple(self.folds[place] for place in places) if self.folds else (),
            recordings=tuple(self.recordings[place] for place in places) if self.recordings else (),
            rule=self.rule,
        )

    @property
    def machines(self) -> dict[str, list[str]]:
        """The machine types of the clips, each with its machine IDs."""
        by_machine: dict[str, list[str]] = {}
        for name in sorted(set(self.ids)):
            machine, number = MachineId.parse(name)
            by_machine.setdefault(machine, []).append(number)
        return by_machine

    @property
    def year(self) -> Year:
        """The year of the challenge by whose rule the clips are judged."""
        return self.rule or year_for(self.domains)


def count_clips(clips: Indices, truth: Truth) -> int:
    """Return how many clips these are; a clip in several folds counts once."""
    return len({truth.recordings[clip] for clip in clips}) if truth.folds else len(clips)


def scores_by_id(scores: Scores, truth: Truth) -> dict[str, tuple[Scores, npt.NDArray[np.int64]]]:
    """Return the scores and labels of each machine ID that has both labels. Raises StudyError if none has."""
    labels = np.array(truth.labels, dtype=np.int64)
    return {name: (scores[members], labels[members]) for name, members in judged_ids(truth).items()}


def judged_ids(truth: Truth) -> dict[str, npt.NDArray[np.int64]]:
    """Return the positions of the clips of each machine ID that has both labels. Raises StudyError if none has."""
    ids, labels = np.array(truth.ids), np.array(truth.labels, dtype=np.int64)
    judged = {}
    for name in sorted(set(truth.ids)):
        members = np.flatnonzero(ids == name)
        if {NORMAL, ANOMALY} <= set(labels[members].tolist()):
            judged[name] = members
    if not judged:
        raise StudyError("AUC is undefined: no machine ID has both normal and anomalous labelled clips")
    return judged
