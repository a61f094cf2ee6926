"""A map of one machine's clips: clips that sound alike lie near each other.

Its axes are the two directions in which standardised log-mel statistics vary most (principal components).
"""

from __future__ import annotations

from dataclasses import dataclass

from features.clips.clip import ANOMALY, NORMAL, Clip
from search.analysis.statistics import Statistics, Values, standardised
from search.analysis.view import View
from search.pages.even_choice import even_choice

#: Of more clips than this, an even choice is drawn: more points hide one another.
MOST_POINTS = 500

TRAINING, NORMAL_TEST, ANOMALOUS_TEST, UNKNOWN = "train, normal", "test, normal", "test, anomalous", "test, no label"
#: The roles of clips, in the order in which they are drawn.
ROLES = (TRAINING, UNKNOWN, NORMAL_TEST, ANOMALOUS_TEST)


@dataclass(frozen=True)
class Map:
    """Where the clips of one machine lie."""

    machine: str
    clips: tuple[Clip, ...]
    places: Values  # (clips, 2)
    explained: tuple[float, float]  # share of the variance along each axis
    of: int  # how many clips the machine has; `clips` is an even choice of them


def role_of(clip: Clip) -> str:
    if clip.split == "train":
        return TRAINING
    return {NORMAL: NORMAL_TEST, ANOMALY: ANOMALOUS_TEST}.get(clip.label if clip.label is not None else -1, UNKNOWN)


def map_of(machine: str, view: View, statistics: Statistics) -> Map | None:
    """The map of a machine; None if it has fewer than three clips in the view, or all of them sound the same."""
    from sklearn.decomposition import PCA  # here: it takes a while to load

    own = [clip for clip in view.seen if clip.machine == machine]
    if len(own) < 3:
        return None
    clips = even_choice(own, MOST_POINTS)
    values = statistics.of("logmel", clips)
    values = standardised(values, values)
    if not values.any():
        return None
    components = PCA(2, svd_solver="full")
    places = components.fit_transform(values)
    first, second = components.explained_variance_ratio_.tolist()
    return Map(machine, tuple(clips), places, (first, second), len(own))
