"""How machines, their IDs and the sets of a corpus differ in normal sound.

A group is the clips of one machine ID in one set: its training clips, or those of its evaluation clips that are in the
view, whose labels are not used (some may be anomalies).

spectrum : (points,) dB: the mean log-spectrum over a group's clips. spread : its standard deviation from clip to clip.
distance : between two groups' mean log-mel statistics, in units of how far clips of one group lie apart.

The distance is Cohen's d, as root mean square over all columns: each column is divided by its standard deviation within
groups, and the difference that the means of so few clips have by chance is subtracted from the squared distance. 0: no
more than chance; 1: the groups' means are as far apart as one clip usually lies from its own group's mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from features.clips.clip import Clip
from features.clips.machine_id import MachineId
from search.analysis.settings import AnalysisSettings
from search.analysis.statistics import Statistics, Values
from search.analysis.view import View

#: A spectrum with more points than this is thinned: neighbours are averaged.
_MOST_POINTS = 400


@dataclass(frozen=True)
class Group:
    """The clips of one machine ID in one set."""

    id: MachineId
    set: str  # the source, and the domain if it is known
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Spectrum:
    """A group's mean log-spectrum."""

    group: Group
    mean: Values  # (points,) dB
    spread: Values  # (points,) dB


@dataclass(frozen=True)
class Distances:
    """The distances between some groups, pair by pair."""

    names: tuple[str, ...]
    table: Values  # (groups, groups), symmetric; NaN where a group has a single clip

    @property
    def pairs(self) -> list[tuple[str, str, float]]:
        """Each pair whose distance is known, the nearest first."""
        known = [
            (first, second, float(self.table[row, column]))
            for (row, first), (column, second) in combinations(enumerate(self.names), 2)
            if np.isfinite(self.table[row, column])
        ]
        return sorted(known, key=lambda pair: pair[2])


def groups_of(view: View) -> list[Group]:
    """All groups, in the order of machine, ID and set."""
    by_group: dict[tuple[MachineId, str], list[Clip]] = defaultdict(list)
    for clip in view.seen:
        if clip.split == "train" or clip.source == "evaluation":
            named = clip.source if clip.domain is None else f"{clip.source}, {clip.domain}"
            by_group[clip.id, named].append(clip)
    return [Group(*key, tuple(clips)) for key, clips in sorted(by_group.items())]


def frequencies(settings: AnalysisSettings) -> Values:
    """The frequencies of a spectrum's points, (points,) Hz."""
    features = settings.features
    return _thinned(np.arange(1.0, 1 + features.n_fft // 2) * (features.sample_rate / features.n_fft))


def spectrum_of(group: Group, statistics: Statistics) -> Spectrum:
    """A group's spectrum, without the constant part (0 Hz), which no microphone records."""
    means = np.hsplit(statistics.of("logspectrum", group.clips), 2)[0][:, 1:]
    return Spectrum(group, _thinned(means.mean(axis=0)), _thinned(means.std(axis=0)))


def distances(named: Sequence[tuple[str, Sequence[Clip]]], statistics: Statistics) -> Distances:
    """The distances between groups of clips, given as (name, clips)."""
    if not named:
        return Distances((), np.empty((0, 0)))
    tables = [statistics.of("logmel", clips) for _, clips in named]
    counts = np.array([len(table) for table in tables], dtype=np.float64)
    means = np.stack([table.mean(axis=0) for table in tables])
    squares = np.stack([((table - mean) ** 2).sum(axis=0) for table, mean in zip(tables, means, strict=True)])
    degrees = np.maximum(counts - 1, 0)
    within = squares.sum(axis=0) / max(float(degrees.sum()), 1.0)
    varies = within > 1e-9
    if not varies.any():
        return Distances(tuple(name for name, _ in named), np.full((len(named), len(named)), np.nan))
    scaled = means[:, varies] / np.sqrt(within[varies])
    variances = np.full(len(named), np.nan)
    np.divide((squares[:, varies] / within[varies]).mean(axis=1), degrees, out=variances, where=degrees > 0)
    apart = ((scaled[:, None] - scaled[None]) ** 2).mean(axis=2)
    if degrees.sum() > 2:  # dividing by the variance of few clips makes a distance too large on average (Hedges 1981)
        apart *= 1 - 2 / degrees.sum()
    by_chance = (variances / counts)[:, None] + (variances / counts)[None]
    spread = (variances[:, None] + variances[None]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.sqrt(np.maximum(apart - by_chance, 0) / spread)
    table[~np.isfinite(table)] = np.nan
    np.fill_diagonal(table, 0)
    return Distances(tuple(name for name, _ in named), table)


def _thinned(values: Values) -> Values:
    """At most _MOST_POINTS values, each the mean of neighbours."""
    step = -(-len(values) // _MOST_POINTS)
    starts = np.arange(0, len(values), step)
    counts = np.minimum(starts + step, len(values)) - starts
    return np.asarray(np.add.reduceat(values, starts) / counts)
