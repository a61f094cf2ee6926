"""The labels that scores are measured against.

ids    : machine/ID of each clip.
labels : 0 normal, 1 anomaly.
folds  : of a cross-validation (search.validation.views): a clip may have a score in each, by another model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import numpy.typing as npt

from features.clips.clip import ANOMALY, NORMAL, Clip, Description, Domain
from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.official import Year, year_for

#: Positions of clips in a truth.
Indices = npt.NDArray[np.int64]

#: In each fold that has both: its normal clips and its anomalies.
Pairs = list[tuple[Indices, Indices]]


@dataclass(frozen=True)
class Truth:
    """What is known of some labelled clips: all that a figure needs of them."""

    ids: tuple[str, ...]  # machine/ID of each clip
    labels: tuple[int, ...]  # 0 normal, 1 anomaly
    domains: tuple[Domain | None, ...] = ()  # of each clip; empty where none is known
    folds: tuple[int, ...] = ()  # in which each clip is scored, from 0, ascending; empty where there is one
    recordings: tuple[int, ...] = ()  # what each clip is of, by a number; empty where each is of one of its own

    @classmethod
    def of(cls, clips: Sequence[Description]) -> Truth:
        """The truth of clips that all have labels."""
        domains = tuple(clip.domain for clip in clips)
        return cls(
            ids=tuple(clip.id_name for clip in clips),
            labels=tuple(clip.label for clip in clips if clip.label is not None),
            domains=domains if any(domains) else (),
        )

    @classmethod
    def of_folds(cls, folds: Sequence[Sequence[Clip]]) -> Truth:
        """The truth of the clips of several folds, one fold after the other."""
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
        """The truth of the first clips: of those folds that have been scored so far."""
        return self._of_slice(slice(clips))

    @property
    def last_fold(self) -> slice:
        """Where the clips of the last fold are: all of them where there are no folds."""
        return slice(self.folds.index(self.folds[-1]), None) if self.folds else slice(None)

    @property
    def in_last_fold(self) -> Truth:
        """The truth of one model's scores."""
        return replace(self._of_slice(self.last_fold), folds=(), recordings=())

    def count(self, label: int) -> int:
        """How many clips have that label; one that is in several folds counts once."""
        return count_clips(np.flatnonzero(np.array(self.labels) == label), self)

    def of_ids(self, names: Collection[str]) -> Truth:
        """The truth of these machine IDs' clips."""
        chosen = [name in names for name in self.ids]
        return Truth(
            ids=tuple(compress(self.ids, chosen)),
            labels=tuple(compress(self.labels, chosen)),
            domains=tuple(compress(self.domains, chosen)),
            folds=tuple(compress(self.folds, chosen)),
            recordings=tuple(compress(self.recordings, chosen)),
        )

    def _of_slice(self, part: slice) -> Truth:
        return Truth(self.ids[part], self.labels[part], self.domains[part], self.folds[part], self.recordings[part])

    @property
    def year(self) -> Year:
        """The year of the challenge whose rule fits the clips."""
        return year_for(self.domains)


def count_clips(clips: Indices, truth: Truth) -> int:
    """How many clips these are, each of them once."""
    return len({truth.recordings[clip] for clip in clips}) if truth.folds else len(clips)


def scores_by_id(scores: Scores, truth: Truth) -> dict[str, tuple[Scores, npt.NDArray[np.int64]]]:
    """Scores and labels of each machine ID that has both labels, by its name."""
    labels = np.array(truth.labels, dtype=np.int64)
    return {name: (scores[members], labels[members]) for name, members in judged_ids(truth).items()}


def judged_ids(truth: Truth) -> dict[str, npt.NDArray[np.int64]]:
    """Indices of the clips of each machine ID that has both labels, by its name."""
    ids, labels = np.array(truth.ids), np.array(truth.labels, dtype=np.int64)
    found = {}
    for name in sorted(set(truth.ids)):
        members = np.flatnonzero(ids == name)
        if {NORMAL, ANOMALY} <= set(labels[members].tolist()):
            found[name] = members
    if not found:
        raise StudyError("AUC is undefined: no machine ID has both normal and anomalous labelled clips")
    return found
