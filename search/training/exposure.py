"""The synthetic faults that a detector learns from: with `score: exposure`, from training clips alone.

Each machine ID has `FAULTS_OF_AN_ID` faults, or one of each kind for each of its clips if these are fewer. Faults go
round: the first of each clip, then a second one of another kind, and so on. The order of the clips depends on a seed
and their names alone (search.validation.split). All faults have grade 1. Withheld clips and test clips have none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from features.clips.clip import Clip
from features.clips.synthetic_faults import KINDS, FaultKind
from search.validation.split import rank

#: More made detectors no better on the synthetic corpus, and each takes some 30 ms of a core.
FAULTS_OF_AN_ID = 60

#: Fainter faults made detectors of deviations worse on the synthetic corpus, and no other one better.
_GRADE = 1.0


def faults_to_learn(clips: Sequence[Clip], seed: int) -> tuple[tuple[Clip, FaultKind, float], ...]:
    """Return each clip to copy, with the kind and the grade of the copy's fault; `clips` are those to train on."""
    by_id: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_id[clip.id_name].append(clip)
    faults: list[tuple[Clip, FaultKind, float]] = []
    for members in by_id.values():
        members.sort(key=lambda clip: rank(clip, f"exposure {seed}"))
        for number in range(min(FAULTS_OF_AN_ID, len(KINDS) * len(members))):
            turn, place = divmod(number, len(members))
            faults.append((members[place], KINDS[(place + turn) % len(KINDS)], _GRADE))
    return tuple(faults)
