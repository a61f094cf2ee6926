"""Which clips are ranked worst, in whatever unit scores are, and where they stand within their machine IDs."""

from __future__ import annotations

import numpy as np
import pytest

from features.clips.clip import ANOMALY, NORMAL
from models.scoring.scores import Scores
from search.evaluation.misses import RankedClip, worst_ranked
from search.evaluation.truth import Truth


def worst(scores: Scores, truth: Truth, label: int) -> int:
    """The position of the clip of this label that is ranked worst."""
    return worst_ranked(scores, truth, label=label)[0].position


# Clips as (ID, label, score).
EVERY_CASE = {
    "the anomaly below more normal clips": (
        [("a", 0, 1.0), ("a", 0, 2.0), ("a", 0, 3.0), ("a", 1, 2.5), ("a", 1, 0.5), ("a", 1, 1.5)],
        4, 2,
    ),
    "all in order: those nearest to the other side": (
        [("a", 0, 0.1), ("a", 0, 0.4), ("a", 1, 0.6), ("a", 1, 0.9)],
        2, 1,
    ),
    "all upside down: those furthest on the other side": (
        [("a", 0, 5.0), ("a", 0, 4.0), ("a", 1, 1.0), ("a", 1, 2.0)],
        2, 0,
    ),
    "within its ID, whatever another ID's scale": (
        [("a", 0, 1e6), ("a", 0, 2e6), ("a", 1, 3e6), ("b", 0, 1e-6), ("b", 0, 3e-6), ("b", 1, 2e-6)],
        5, 4,
    ),
    "equally wrong in two IDs: further in units of its ID's spread": (
        [("a", 0, 1000.0), ("a", 1, 900.0), ("a", 1, 1900.0), ("b", 0, 1.0), ("b", 1, 0.0), ("b", 1, 1.1)],
        4, 3,
    ),
    "ties: the first": (
        [("a", 0, 1.0), ("a", 0, 1.0), ("a", 1, 1.0), ("a", 1, 1.0)],
        2, 0,
    ),
    "an ID with one label has no mistakes": (
        [("a", 0, 1.0), ("a", 1, 2.0), ("b", 0, 99.0), ("c", 1, -99.0)],
        1, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("clips", "missed", "alarm"), EVERY_CASE.values(), ids=EVERY_CASE)
def test_the_worst_mistake_of_either_kind(clips: list[tuple[str, int, float]], missed: int, alarm: int) -> None:
    ids, labels, scores = zip(*clips, strict=True)
    truth = Truth(ids=ids, labels=labels)

    assert worst(np.array(scores), truth, ANOMALY) == missed
    assert worst(np.array(scores), truth, NORMAL) == alarm


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("shift", [-1e3, 0.0, 1e3])
def test_the_worst_mistakes_are_the_same_in_any_unit(scale: float, shift: float) -> None:
    rng = np.random.default_rng(1)
    truth = Truth(ids=("a", "b") * 20, labels=tuple(rng.integers(0, 2, 40).tolist()))
    scores = np.round(rng.standard_normal(40), 3)

    moved = scale * (scores + shift)
    assert worst(moved, truth, ANOMALY) == worst(scores, truth, ANOMALY)
    assert worst(moved, truth, NORMAL) == worst(scores, truth, NORMAL)


def test_a_clip_is_ranked_among_all_clips_of_its_id_and_equal_scores_are_wrong() -> None:
    truth = Truth(ids=("a",) * 5 + ("b",) * 2, labels=(0, 0, 0, 1, 1, 0, 1))
    scores = np.array([1.0, 2.0, 3.0, 2.0, 2.5, 0.1, 0.2])

    missed = worst_ranked(scores, truth, label=ANOMALY)
    alarms = worst_ranked(scores, truth, label=NORMAL)

    assert missed == [
        RankedClip(position=3, rank=3, clips=5, others=3, wrong=2),
        RankedClip(position=4, rank=2, clips=5, others=3, wrong=1),
        RankedClip(position=6, rank=1, clips=2, others=1, wrong=0),
    ]
    assert alarms[0] == RankedClip(position=2, rank=1, clips=5, others=2, wrong=2)
    assert [clip.wrong for clip in alarms] == [2, 1, 0, 0]
