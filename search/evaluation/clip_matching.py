"""Finds the clip of each score: by its path, and where that does not tell clips apart by what is unique.

A score's clip has the same file name, the same machine type if the score names one, and lies in a folder of the same
split. Of several such clips it is the one at the very same place, else the one whose last folders agree with most of
the score's, else the only one that has a label. Where clips remain, the score is refused: two clips of one name never
replace each other.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePath

from features.clips.clip import parse_stem
from features.clips.machine_id import MachineId
from search.errors import StudyError
from search.evaluation.known_clips import KnownClip, KnownClips, split_of_folder
from search.evaluation.score_files import ScoreRow, has_two_scores, machine_of_folder

#: Agrees more than any number of folders.
_THE_VERY_SAME = 10_000


@dataclass(frozen=True)
class Matches:
    """Scores by what the truth knows of their clips."""

    labelled: dict[int, ScoreRow]  # by the place of the clip in the truth, ascending
    training: Sequence[ScoreRow]  # of clips that lie among training clips
    of_other_ids: dict[str, list[ScoreRow]]  # of machine IDs of which the truth has no clip
    unlabelled: Sequence[ScoreRow]  # of other clips that have no label
    by_name: Sequence[tuple[ScoreRow, KnownClip]]  # labelled, whose folders agree in nothing: only the name is the same


def match(rows: Sequence[ScoreRow], known: KnownClips) -> Matches:
    """Match scores with the clips of a truth. Raises StudyError for a score of several clips, or two of one clip."""
    finder = _Finder(known)
    claims: dict[int, list[tuple[int, ScoreRow]]] = defaultdict(list)
    unmatched: list[ScoreRow] = []
    for row in rows:
        place, agreement = finder.find(row)
        if place is None:
            unmatched.append(row)
        else:
            claims[place].append((agreement, row))
    matched: dict[int, ScoreRow] = {}
    for place, of_clip in claims.items():
        closest = max(agreement for agreement, _ in of_clip)
        rivals = [row for agreement, row in of_clip if agreement == closest]
        if len(rivals) > 1:
            raise has_two_scores(rivals[1], rivals[0])
        matched[place] = rivals[0]
        unmatched += [row for agreement, row in of_clip if agreement < closest]
    labelled = {place: matched[place] for place in sorted(matched) if known.clips[place].is_labelled}
    rest = [*(row for place, row in matched.items() if place not in labelled), *unmatched]
    training: list[ScoreRow] = []
    unlabelled: list[ScoreRow] = []
    others: dict[str, list[ScoreRow]] = defaultdict(list)
    ids = {clip.description.id_name for clip in known.clips}
    for row in rest:
        name = finder.id_name(row)
        if finder.is_of_training(row):
            training.append(row)
        elif name is None or name in ids:
            unlabelled.append(row)
        else:
            others[name].append(row)
    by_name = [
        (row, known.clips[place])
        for place, of_clip in claims.items()
        for agreement, row in of_clip
        if agreement == 0
        and row is labelled.get(place)
        and _has_folder(row.path)
        and _has_folder(known.clips[place].path)
    ]
    return Matches(labelled, training, others, unlabelled, by_name)


class _Finder:
    """Finds clips of one truth."""

    def __init__(self, known: KnownClips) -> None:
        self._known = known
        self._machines = sorted({clip.machine for clip in known.clips})
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        self._by_path: dict[str, int] = {}
        for place, clip in enumerate(known.clips):
            self._by_stem[_stem(clip.path)].append(place)
            if clip.path.is_absolute():
                self._by_path[str(clip.path)] = place

    def find(self, row: ScoreRow) -> tuple[int | None, int]:
        """Return the place of the score's clip, None if the truth has none; and how far their paths agree."""
        clips = self._known.clips
        exact = self._by_path.get(os.path.abspath(row.path))
        if exact is not None:
            return exact, _THE_VERY_SAME
        path, machine = PurePath(os.path.normpath(row.path)), self.machine(row)
        split = split_of_folder(path)
        candidates = {
            place: _agreement(path, clips[place].path)
            for place in self._by_stem.get(_stem(path), ())
            if machine in ("", clips[place].machine) and split in (None, clips[place].split)
        }
        if not candidates:
            return None, 0
        most = max(candidates.values())
        closest = [place for place, agreement in candidates.items() if agreement == most]
        if len(closest) > 1:
            closest = [place for place in closest if clips[place].is_labelled] or closest[:1]
        if len(closest) > 1:
            raise self._ambiguous(row, [clips[place] for place in closest])
        return closest[0], most

    def machine(self, row: ScoreRow) -> str:
        """Return the machine type that a score names, by its column or its folder; empty if it names none."""
        if row.machine:
            return row.machine
        folder = machine_of_folder(row.path)
        return folder if folder in self._machines or split_of_folder(PurePath(row.path)) else ""

    def id_name(self, row: ScoreRow) -> str | None:
        """Return the machine ID that a score names; None if its machine type may be any of several."""
        machine = self.machine(row) or (self._machines[0] if len(self._machines) == 1 else "")
        number = row.machine_id or parse_stem(_stem(PurePath(row.path))).machine_id
        return str(MachineId(machine, number)) if machine else None

    def is_of_training(self, row: ScoreRow) -> bool:
        """Whether a score is of a training clip."""
        place = self._by_path.get(os.path.abspath(row.path))
        split = split_of_folder(PurePath(row.path)) if place is None else self._known.clips[place].split
        return split not in (None, "test")

    def _ambiguous(self, row: ScoreRow, clips: Sequence[KnownClip]) -> StudyError:
        truth, machines = self._known.truth, sorted({clip.machine for clip in clips})
        if len(machines) > 1:
            return StudyError(
                f"{row.where}: no machine in the path of {row.file}, and {truth} is of {', '.join(machines)}: "
                f"{row.remedy}"
            )
        shown = " or ".join(str(clip.path) for clip in clips[:2])
        return StudyError(
            f"{row.where}: {row.path} may be {shown} of {truth}: write its path in a column path, with the folders "
            "that tell them apart"
        )


def _stem(path: PurePath) -> str:
    """Return the file name without .wav; tables may leave it out."""
    return path.name[:-4] if path.name.lower().endswith(".wav") else path.name


def _has_folder(path: str | PurePath) -> bool:
    return len(PurePath(path).parts) > 1


def _agreement(one: PurePath, other: PurePath) -> int:
    """Return how many of the last folders of two paths are called alike."""
    pairs = zip(reversed(one.parent.parts), reversed(other.parent.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
