"""Made studies whose truth is known, for benchmarks/stop.py: all seeds of a landscape at once.

auc   : the true AUC of a trial, which clips without end would give.
clips : normal clips, and as many anomalies. A trial scores a normal clip by a standard normal variable and an anomaly
        by one that is shifted so far that its AUC is the true one. 40 % of the variance belong to the clip, 30 % to the
        clip and the family, 30 % to the trial alone: as in a real study, trials find the same clips hard.
noise : of each trial, so that the length of the difference of two is the standard error of the difference of their
        AUCs, by DeLong, DeLong and Clarke-Pearson (1988): what bootstraps of the clips estimate in a study.

The AUC of settings falls from the family's best to its floor with the distance from where they are best, and trainings
vary. A sampler like TPE draws ten trials at random (five of each of several families). Then it varies one of the best
tenth, by less and less; every tenth trial stays random. It learns from observed AUCs, and families share the trials as
in search.sampling.families. Of the trials that are behind the median of their family's, half are pruned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Array = npt.NDArray[np.float64]

#: Normal clips, and as many anomalies.
CLIPS = (30, 150)

_OF_CLIP, _OF_FAMILY, _OF_TRIAL = 0.4, 0.3, 0.3
_VARIATION, _SHRINKING, _RANDOM, _LEADERS = 0.2, 0.3, 0.1, 0.1
_PRUNED = 0.5


@dataclass(frozen=True)
class Family:
    """AUCs where settings are worst and best, how near to those they must come, and the deviation of trainings."""

    floor: float
    best: float
    nearness: float
    settings: int = 5
    deviation: float = 0.005


@dataclass(frozen=True)
class Landscape:
    """What a study may find."""

    families: tuple[Family, ...]
    portfolio: tuple[float, ...] = ()  # AUCs of the trials before the sampler's, of the first family
    learns: bool = True  # whether the sampler does
    jump: float = 0.0  # the chance of a draw to be of a kind far better than all others, at an AUC of 0.97


_MODEST = (Family(0.62, 0.82, 0.3), Family(0.60, 0.80, 0.3))

LANDSCAPES = {
    "one family, decent at once": Landscape((Family(0.70, 0.90, 0.6),)),
    "three families, the best decent at once": Landscape((Family(0.80, 0.90, 0.5), *_MODEST)),
    "the portfolio holds the best": Landscape(
        (Family(0.75, 0.88, 0.4), *_MODEST), portfolio=(0.70, 0.80, 0.92, 0.85, 0.60, 0.78)
    ),
    "random search, decent at once": Landscape((Family(0.70, 0.90, 0.6),), learns=False),
    "random search, good settings are rare": Landscape((Family(0.60, 0.92, 0.3),), learns=False),
    "one family that has to be tuned": Landscape((Family(0.55, 0.93, 0.12, settings=6),)),
    "another family that has to be tuned": Landscape(
        (Family(0.77, 0.84, 0.4), Family(0.62, 0.93, 0.12, settings=6), _MODEST[1])
    ),
    "good settings are hardly ever found": Landscape((Family(0.55, 0.95, 0.07, settings=8),)),
    "a jump that nothing announces": Landscape((Family(0.70, 0.90, 0.6),), jump=0.01),
}


@dataclass
class Studies:
    """The studies of a landscape, one for each seed: arrays are (studies, trials) unless they say otherwise."""

    truth: Array
    auc: Array  # observed
    values: Array  # observed, NaN for a pruned trial
    noise: Array  # (studies, trials, clips)
    families: npt.NDArray[np.int64]
    drawn: npt.NDArray[np.bool_]  # (trials,)
    count: int  # of families
    rng: np.random.Generator = field(repr=False)

    def is_told_on_fresh_clips(self, study: int, one: int, other: int, *, margin: float) -> bool:
        """Whether other clips, as many, tell one trial to be better than another by `margin` standard errors."""
        clips = _Clips(1, self.noise.shape[-1] // 2, self.count, self.rng)
        truth, families = self.truth[study], self.families[study]
        (auc, noise), (other_auc, other_noise) = (
            clips.measure(truth[[trial]], families[[trial]]) for trial in (one, other)
        )
        return bool(auc[0] - other_auc[0] > margin * np.linalg.norm(noise[0] - other_noise[0]))


class _Clips:
    """The clips of each study, half of them anomalies."""

    def __init__(self, studies: int, normal: int, families: int, rng: np.random.Generator) -> None:
        self._rng, self._normal = rng, normal
        self._of_clip = rng.standard_normal((studies, 2 * normal))
        self._of_family = rng.standard_normal((studies, families, 2 * normal))

    def measure(self, truth: Array, families: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """A trial of each study: its AUC, (studies,), and its noise, (studies, clips)."""
        scores = math.sqrt(_OF_CLIP) * self._of_clip
        scores = scores + math.sqrt(_OF_FAMILY) * self._of_family[np.arange(len(truth)), families]
        scores += math.sqrt(_OF_TRIAL) * self._rng.standard_normal(scores.shape)
        normal = self._normal
        scores[:, normal:] += math.sqrt(2) * norm.ppf(truth)[:, None]
        ranks, normal_ranks, anomaly_ranks = (_ranks(part) for part in (scores, scores[:, :normal], scores[:, normal:]))
        below = (ranks[:, normal:] - anomaly_ranks) / normal  # each anomaly's share of the normal clips
        above = 1 - (ranks[:, :normal] - normal_ranks) / normal
        auc = below.mean(axis=1)
        noise = np.concatenate([above, below], axis=1) - auc[:, None]
        return auc, noise / math.sqrt(normal * (normal - 1))


def _ranks(scores: Array) -> npt.NDArray[np.int64]:
    return np.argsort(np.argsort(scores, axis=1), axis=1)


def make(landscape: Landscape, *, clips: int, seeds: int, trials: int) -> Studies:
    """The studies of a landscape with so many normal clips, and as many anomalies."""
    rng = np.random.default_rng([clips, trials])
    families, each, first = landscape.families, np.arange(seeds), len(landscape.portfolio)
    count, settings = len(families), max(family.settings for family in families)
    floor, best, nearness, deviation = (
        np.array([getattr(family, name) for family in families]) for name in ("floor", "best", "nearness", "deviation")
    )
    weights = np.stack([_weights(rng, seeds, family.settings, settings) for family in families], axis=1)
    optimum = rng.uniform(0.15, 0.85, (seeds, count, settings))
    measured, random_ones = _Clips(seeds, clips, count, rng), 10 if count == 1 else 5
    places = np.zeros((seeds, trials, settings))
    truth, auc = np.zeros((seeds, trials)), np.zeros((seeds, trials))
    noise = np.zeros((seeds, trials, 2 * clips))
    of_family = np.zeros((seeds, trials), dtype=np.int64)
    is_pruned = np.zeros((seeds, trials), dtype=bool)
    for trial in range(trials):
        if trial < first:
            truth[:, trial] = landscape.portfolio[trial]
        else:
            family = of_family[:, trial] = _next_family(of_family[:, first:trial], auc[:, first:trial], count)
            own = of_family[:, :trial] == family[:, None]
            own[:, :first] = False
            is_random = (own.sum(axis=1) < random_ones) | (rng.uniform(size=seeds) < _RANDOM)
            guided = ~is_random if landscape.learns else np.zeros(seeds, dtype=bool)
            place = _suggest(rng, places[:, :trial], np.where(own, auc[:, :trial], -np.inf), own.sum(axis=1), guided)
            places[:, trial] = place
            distance = (weights[each, family] * (place - optimum[each, family]) ** 2).sum(axis=1)
            height = np.exp(-distance / (2 * nearness[family] ** 2))
            reached = floor[family] + (best[family] - floor[family]) * height
            reached += deviation[family] * rng.standard_normal(seeds)
            truth[:, trial] = np.where(rng.uniform(size=seeds) < landscape.jump, 0.97, np.clip(reached, 0.3, 0.999))
            auc[:, trial], noise[:, trial] = measured.measure(truth[:, trial], family)
            values = np.where(own, auc[:, :trial], np.nan)
            behind = own.any(axis=1) & (auc[:, trial] < _median(values))
            is_pruned[:, trial] = behind & (rng.uniform(size=seeds) < _PRUNED)
            continue
        auc[:, trial], noise[:, trial] = measured.measure(truth[:, trial], of_family[:, trial])
    return Studies(
        truth=truth,
        auc=auc,
        values=np.where(is_pruned, np.nan, auc),
        noise=noise,
        families=of_family,
        drawn=np.arange(trials) >= first,
        count=count,
        rng=rng,
    )


def _weights(rng: np.random.Generator, seeds: int, own: int, settings: int) -> Array:
    """How much each setting counts, (seeds, settings): some a lot, most of them little, those beyond `own` not."""
    return np.pad(rng.dirichlet(np.ones(own), size=seeds), ((0, 0), (0, settings - own)))


def _median(values: Array) -> Array:
    """The median of each row without its NaNs; infinite for a row without any number."""
    empty = np.asarray(np.isnan(values).all(axis=1))
    filled = np.where(empty[:, None], np.inf, values) if values.shape[1] else np.full((len(values), 1), np.inf)
    return np.asarray(np.nanmedian(filled, axis=1))


def _next_family(before: npt.NDArray[np.int64], auc: Array, count: int) -> npt.NDArray[np.int64]:
    """Each family once; then the k-th best gets 1/k of the trials of the best one."""
    is_of = before[:, :, None] == np.arange(count)
    begun = is_of.sum(axis=1)
    best = np.where(is_of, auc[:, :, None], -1.0).max(axis=1, initial=-1.0)
    ranks = np.argsort(np.argsort(-best, axis=1), axis=1) + 1
    return np.asarray(np.argmin(np.where(begun.min(axis=1, keepdims=True) == 0, begun, begun * ranks), axis=1))


def _suggest(
    rng: np.random.Generator, places: Array, auc: Array, own: npt.NDArray[np.int64], guided: npt.NDArray[np.bool_]
) -> Array:
    """Settings of a trial of each study, (seeds, settings): random ones, or near one of the family's best tenth."""
    seeds, _, settings = places.shape
    at_random = rng.uniform(size=(seeds, settings))
    if not guided.any():
        return at_random
    leaders = np.ceil(_LEADERS * own).clip(1).astype(int)
    chosen = np.argsort(-auc, axis=1)[np.arange(seeds), (rng.uniform(size=seeds) * leaders).astype(int)]
    width = _VARIATION * own.clip(1) ** -_SHRINKING
    near = places[np.arange(seeds), chosen] + width[:, None] * rng.standard_normal((seeds, settings))
    return np.where(guided[:, None] & (near >= 0) & (near <= 1), near, at_random)
