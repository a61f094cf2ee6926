"""Training clips that do not sound normal: a door slammed, somebody spoke, the machine was off.

Clips are compared with those of their own machine ID and domain. Distances are from the median,
in robust standard deviations of 1.4826 · MAD (median absolute deviation): outliers themselves hardly move these
(Iglewicz and Hoaglin 1993 call a clip from 3.5 of them on an outlier).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.frames.feature_settings import SHARED, FeatureSettings, is_framed
from features.frames.framing import FRAMING
from features.settings import Effects, Settings
from features.store.building import open_store

Table = npt.NDArray[np.float64]

#: A clip this many robust standard deviations away is an outlier.
OUTLYING = 3.5

#: A measure of a clip → its name in a reason.
_MEASURES = {"zero_crossings": "zero crossings", "rms": "loudness (RMS)", "centroid": "spectral centroid"}
_NEIGHBOURS = 3

Method = Literal["none", "zero_crossings", "rms", "centroid", "zscore", "neighbours"]


class CleaningSettings(Settings):
    """Chooses the training clips that are left out because they do not sound like the rest."""

    ONLY_BESIDE: ClassVar[Effects] = {"drop": {"method": ["zero_crossings", "rms", "centroid", "zscore", "neighbours"]}}

    method: Method = Field(
        "none",
        description="how they are chosen: by one measure, by zscore (the largest deviation of the three), or by the "
        "distance to their nearest neighbours in log-mel statistics",
    )
    drop: float = Field(0.05, ge=0, le=0.5, description="the most outlying share of each machine ID's training clips")


@dataclass(frozen=True)
class Outlier:
    """A clip that lies far from the others of its machine ID."""

    clip: Clip
    deviation: float  # robust standard deviations
    reason: str


def clean(
    clips: Sequence[Clip], corpus: Corpus, settings: CleaningSettings, features: FeatureSettings
) -> tuple[tuple[Clip, ...], tuple[Outlier, ...]]:
    """The clips that are kept, and those that are dropped: at most a share `settings.drop` of each ID's clips."""
    if settings.method == "none":
        return tuple(clips), ()
    by_id = defaultdict(list)
    for outlier in deviations(clips, corpus, settings.method, features):
        by_id[outlier.clip.id_name].append(outlier)
    dropped: list[Outlier] = []
    for members in by_id.values():
        members.sort(key=lambda outlier: (-outlier.deviation, outlier.clip.name))
        dropped += members[: math.floor(settings.drop * len(members) + 1e-9)]
    names = {outlier.clip.name for outlier in dropped}
    return tuple(clip for clip in clips if clip.name not in names), tuple(dropped)


def deviations(clips: Sequence[Clip], corpus: Corpus, method: Method, features: FeatureSettings) -> list[Outlier]:
    """The deviation of each clip from its machine ID, in the order of `clips`, which are clips of the corpus.

    Raises StoreError or CorpusError where the frames cannot be computed.
    """
    measures = [method] if method in _MEASURES else list(_MEASURES)
    kind = "logmel" if method == "neighbours" else "+".join(measures)
    statistics = clip_statistics(clips, corpus, features_of(kind, features))
    groups = defaultdict(list)
    for row, clip in enumerate(clips):
        groups[clip.id, clip.domain].append(row)
    found: dict[int, Outlier] = {}
    for rows in groups.values():
        if method == "neighbours":
            # A clip that is nearer to its neighbours than most clips are is no outlier.
            table = np.maximum(_robust_deviations(_distances_to_neighbours(statistics[rows])[:, np.newaxis]), 0)
            names = ["distance to its nearest neighbours in log-mel statistics"]
        else:
            table = _robust_deviations(statistics[rows, : len(measures)])
            names = [_MEASURES[measure] for measure in measures]
        for row, of_clip in zip(rows, table, strict=True):
            worst = int(np.abs(of_clip).argmax())
            found[row] = Outlier(clips[row], float(abs(of_clip[worst])), _reason(names[worst], of_clip[worst]))
    return [found[row] for row in range(len(clips))]


def features_of(kind: str, like: FeatureSettings) -> FeatureSettings:
    """The settings of another kind of feature, with the same frames; default ones if `like` has one for each clip."""
    framed = like
    if not is_framed(like.kind):
        framed = FeatureSettings.model_validate({name: getattr(like, name) for name in SHARED})
    shared = {name: getattr(framed, name) for name in (*SHARED, *FRAMING)}
    return FeatureSettings.model_validate({"kind": kind, "n_mels": min(framed.n_mels, framed.n_fft // 2), **shared})


def clip_statistics(clips: Sequence[Clip], corpus: Corpus, features: FeatureSettings) -> Table:
    """Mean and standard deviation over time of each bin, (clips, 2 · bins): the means first."""
    store = open_store(corpus.clips, features)
    places = {clip.name: place for place, clip in enumerate(corpus.clips)}
    statistics = np.empty((len(clips), 2 * features.bins))
    for row, clip in enumerate(clips):
        frames = store.of_clip(places[clip.name])
        statistics[row] = np.concatenate([frames.mean(axis=0, dtype=np.float64), frames.std(axis=0, dtype=np.float64)])
    return statistics


def _robust_deviations(table: Table) -> Table:
    """The signed deviation of each value from its column, in robust standard deviations, (rows, columns)."""
    from scipy.stats import median_abs_deviation  # here: it takes a while to load

    from_median = table - np.median(table, axis=0)
    spread = 1.4826 * median_abs_deviation(table, axis=0)
    # Where most values are the same, MAD is 0: the mean deviation replaces it (Iglewicz and Hoaglin 1993).
    spread = np.where(spread > 0, spread, 1.2533 * np.abs(from_median).mean(axis=0))
    return np.asarray(np.divide(from_median, spread, out=np.zeros_like(from_median), where=spread > 0))


def _distances_to_neighbours(table: Table) -> Table:
    """Mean distance of each row to its nearest others, (rows,), the columns robustly standardised."""
    from sklearn.neighbors import NearestNeighbors  # here: it takes a while to load

    if len(table) < 2:
        return np.zeros(len(table))
    near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(table) - 1)).fit(_robust_deviations(table))
    distances, _ = near.kneighbors()
    return np.asarray(distances.mean(axis=1))


def _reason(measure: str, deviation: float) -> str:
    side = "above" if deviation > 0 else "below"
    return f"{measure}: {abs(deviation):.1f} robust standard deviations {side} its machine ID's median"
