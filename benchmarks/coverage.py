"""How often intervals of few clips hold the true value.

    python -m benchmarks.coverage [--sets 400] [--jobs 1]

Scores of normal clips are drawn from a normal distribution, those of anomalies from three: a shifted one (binormal), one
of which half is not heard at all and half is (half heard), and a shifted one of twice the deviation (spread). Each set
of clips has so many of each label and machine ID. Printed is the share of sets whose 95 % interval holds the true value,
for the bootstrap alone and for the interval that Offkey prints, and the widths of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product

import joblib
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.stats import norm

from features.clips.clip import ANOMALY, NORMAL
from models.scoring.scores import Scores
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.interval import Interval
from search.evaluation.metrics import Metric, metric_of
from search.evaluation.small_samples import model_interval
from search.evaluation.truth import Truth

AUCS = (0.5, 0.7, 0.9, 0.97, 0.99, 0.995)
CLIPS = (5, 8, 15, 25, 50)
SHAPES = ("binormal", "half heard", "spread")


def distance_of(shape: str, auc: float) -> float:
    """How far apart the means are."""
    if shape == "binormal":
        return float(np.sqrt(2) * norm.ppf(auc))
    if shape == "spread":
        return float(np.sqrt(5) * norm.ppf(auc))
    return float(brentq(lambda d: 0.25 + 0.5 * norm.cdf(d / np.sqrt(2)) - auc, -10, 10))


def anomalies(shape: str, distance: float, rng: np.random.Generator, clips: int) -> Scores:
    if shape == "spread":
        return distance + 2 * rng.standard_normal(clips)
    drawn = rng.standard_normal(clips)
    heard = np.ones(clips, dtype=bool) if shape == "binormal" else rng.random(clips) < 0.5
    return np.asarray(drawn + distance * heard)


def truth_of(ids: int, clips: int) -> Truth:
    names = tuple(f"machine/{number:02}" for number in range(ids) for _ in range(2 * clips))
    return Truth(ids=names, labels=tuple([NORMAL] * clips + [ANOMALY] * clips) * ids)


def scores_of(shape: str, distances: Sequence[float], clips: int, rng: np.random.Generator) -> Scores:
    return np.concatenate(
        [np.r_[rng.standard_normal(clips), anomalies(shape, distance, rng, clips)] for distance in distances]
    )


def population(metric: Metric, shape: str, distances: Sequence[float]) -> float:
    """The true value, from a large set of clips."""
    clips = 20_000
    return metric_of(metric, scores_of(shape, distances, clips, np.random.default_rng(0)), truth_of(len(distances), clips))


def cover(metric: Metric, shape: str, auc: float, ids: int, clips: int, sets: int) -> list[float] | None:
    """Coverage and mean width of the bootstrap, then of the interval that is printed; None where no set can be."""
    if shape == "half heard" and not 0.25 < auc < 0.75:
        return None
    if metric == "pauc" and clips < 10:
        return None
    # IDs differ: the first is harder than the last.
    spread = np.linspace(-0.3, 0.3, ids) if ids > 1 else np.zeros(1)
    distances = [distance_of(shape, auc) + move for move in spread]
    true = population(metric, shape, distances)
    truth = truth_of(ids, clips)
    bootstrap = Bootstrap(truth)
    found = []
    for number in range(sets):
        scores = scores_of(shape, distances, clips, np.random.default_rng([number, clips, ids]))
        resampled = Interval.of(bootstrap.metric(metric, scores))
        model = model_interval(metric, scores, truth)
        hull = Interval(min(resampled.low, model.low), max(resampled.high, model.high))
        found.append([value for one in (resampled, model, hull) for value in (one.includes(true), one.high - one.low)])
    return [float(value) for value in np.mean(found, axis=0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--metrics", nargs="+", default=["auc", "pauc", "worst_id"])
    parser.add_argument("--ids", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    asked = parser.parse_args()
    for metric, shape, ids in product(asked.metrics, asked.shapes, asked.ids):
        table = Table("AUC", *(f"{clips} + {clips}" for clips in CLIPS), title=f"{metric}, {shape}, {ids} IDs")
        cells = joblib.Parallel(asked.jobs)(
            joblib.delayed(cover)(metric, shape, auc, ids, clips, asked.sets) for auc in AUCS for clips in CLIPS
        )
        for row, auc in enumerate(AUCS):
            own = cells[row * len(CLIPS) : (row + 1) * len(CLIPS)]
            shown = ["" if c is None else " ".join(f"{100 * c[i]:.0f}%/{c[i + 1]:.2f}" for i in (0, 2, 4)) for c in own]
            table.add_row(str(auc), *shown)
        Console(width=160).print(table)


if __name__ == "__main__":
    main()
