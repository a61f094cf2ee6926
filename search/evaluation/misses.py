"""Clips that scores rank wrong: anomalies below normal clips, and normal clips above anomalies.

A clip is ranked within its machine ID, as in an AUC: scores of two IDs have no common scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.clips.clip import ANOMALY
from models.scoring.scores import Scores
from search.evaluation.truth import Truth, judged_ids


@dataclass(frozen=True)
class RankedClip:
    """Where a clip stands among the clips of its machine ID."""

    position: int  # of the clip in the truth
    rank: int  # by score, from 1 for the highest
    clips: int  # of its machine ID, itself included
    others: int  # clips of the other label
    wrong: int  # those of them that it is ranked wrong against; equal scores are wrong


def worst_ranked(scores: Scores, truth: Truth, *, label: int) -> list[RankedClip]:
    """Return the clips of one label, those that are ranked wrong against the largest share of the others first.

    Of clips that are equally wrong, the one that lies further on the wrong side comes first, in units of the spread of
    its machine ID's scores. Raises StudyError if no machine ID has both labels.
    """
    labels = np.array(truth.labels)
    signed = scores if label == ANOMALY else -scores  # the lowest is the worst
    found = []
    for members in judged_ids(truth).values():
        others = signed[members[labels[members] != label]]
        spread = float(np.ptp(signed[members])) or 1.0
        for position in members[labels[members] == label].tolist():
            right = int((others < signed[position]).sum())
            depth = float(signed[position] - others.min()) / spread
            clip = RankedClip(
                position=position,
                rank=1 + int((scores[members] > scores[position]).sum()),
                clips=len(members),
                others=len(others),
                wrong=len(others) - right,
            )
            found.append((right / len(others), depth, position, clip))
    return [clip for *_, clip in sorted(found, key=lambda one: one[:3])]
