"""Whether the intervals and the verdicts on trials claim more than their clips tell: simulated, before and after.

    python -m benchmarks.coverage [--sets 150] [--studies 100] [--jobs 2] [--metrics auc …]
        [--only intervals | unequal | differences | trials | power]

Intervals: scores of normal clips are drawn from a normal distribution, and those of anomalies from three: a shifted one
(binormal), a shifted one of twice the deviation (spread), and a shifted one of which the share 1 − AUC is not heard at
all (unheard). Printed is how often a 95 % interval holds the true value: that of the bootstrap alone, and the one that
Offkey prints. The IDs of one set of clips differ. For the official score of 2022 and later, every other clip is of the
target domain.

Few of a label: the same of normal clips and anomalies of unequal numbers, whose scores have deviations that differ by
so many times.

Differences: two systems of the same AUC whose errors have a correlation of 0, 0.5 or 0.9.

Trials: all trials of a study are equally good, or no better than guessing. Independent trials err by themselves. Trials
like TPE's lie in a space of five settings, over which the errors are a smooth function, with noise; half of the errors
are common to all, and after ten trials at random the next ones are drawn near the best tenth. Printed is how often the
best trial is called a gain over the first one, how many of the others are called worse than the best, and how often it
is called better than guessing: by the intervals of the pairs alone, and by Offkey's rule.

Power: how often a study shows a gain as large as the one that Offkey names beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import lru_cache

import joblib
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy.stats import norm

from features.clips.clip import ANOMALY, DOMAINS, NORMAL
from models.scoring.scores import Scores
from search.evaluation.best_of_many import Lead, lead_over_guessing, leads
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.confidence import interval_of, interval_of_difference
from search.evaluation.interval import Interval
from search.evaluation.metrics import FEWEST_NORMALS_FOR_PAUC, Metric, metric_of, metric_of_each
from search.evaluation.truth import Truth

AUCS = (0.5, 0.7, 0.9, 0.97, 0.99, 0.995)
CLIPS = (5, 8, 15, 25, 50)
SHAPES = ("binormal", "spread", "unheard")
TRIALS = (2, 20, 100, 500)

#: AUC of all trials but one, and clips of each label.
POWER = ((0.6, 25), (0.7, 25), (0.7, 50))

#: Normal clips and anomalies.
UNEQUAL = ((20, 5), (60, 5), (100, 5), (100, 10), (200, 20), (5, 20), (5, 100))
METRICS: tuple[Metric, ...] = ("auc", "pauc", "worst_id", "official")

#: Those that need normal clips for a pAUC.
WITH_PAUC = ("pauc", "official")

#: Metric, shape, AUC, machine IDs, clips of each label and ID, sets of clips.
Cell = tuple[Metric, str, float, int, int, int]
SETTINGS = 5


def truth_of(metric: Metric, ids: int, clips: int, faults: int | None = None) -> Truth:
    """So many normal clips and anomalies of each machine ID; with domains if the metric is the official score."""
    if faults is not None:
        labels = tuple([NORMAL] * clips + [ANOMALY] * faults) * ids
        return Truth(tuple(f"machine/{place // (clips + faults):02}" for place in range(len(labels))), labels)
    names = tuple(f"machine/{number:02}" for number in range(ids) for _ in range(2 * clips))
    domains = tuple(DOMAINS[place % clips % 2] for place in range(len(names)))
    return Truth(
        ids=names,
        labels=tuple([NORMAL] * clips + [ANOMALY] * clips) * ids,
        domains=domains if metric == "official" else (),
    )


def scores_of(shape: str, auc: float, clips: int, rng: np.random.Generator) -> Scores:
    """The scores of a machine ID's normal clips, then of its anomalies."""
    normals, anomalies = rng.standard_normal((2, clips))
    if shape == "spread":
        anomalies = 2 * anomalies + np.sqrt(5) * norm.ppf(auc)
    else:
        unheard = 1 - auc if shape == "unheard" else 0.0
        of_heard = (auc - unheard / 2) / (1 - unheard)
        anomalies += np.sqrt(2) * norm.ppf(of_heard) * (rng.random(clips) >= unheard)
    return np.concatenate([normals, anomalies])


def of_ids(auc: float, ids: int) -> Scores:
    """The AUCs of machine IDs, some harder than others."""
    return np.asarray(norm.cdf(norm.ppf(auc) + np.linspace(-0.3, 0.3, ids))) if ids > 1 else np.array([auc])


@lru_cache(maxsize=256)
def true_value(metric: Metric, shape: str, aucs: tuple[float, ...]) -> float:
    """The metric of the distributions; of a pAUC that of many clips."""
    if metric in ("auc", "worst_id"):
        return float(np.mean(aucs) if metric == "auc" else min(aucs))
    rng = np.random.default_rng(9)
    clips = 40_000
    drawn = np.concatenate([scores_of(shape, auc, clips, rng) for auc in aucs])
    return metric_of(metric, drawn, truth_of(metric, len(aucs), clips))


def coverage(metric: Metric, shape: str, auc: float, ids: int, clips: int, sets: int) -> tuple[float, float, float]:
    """How often the bootstrap's interval and the printed one hold the true value; the mean width of the latter."""
    truth, aucs = truth_of(metric, ids, clips), of_ids(auc, ids)
    true, bootstrap = true_value(metric, shape, tuple(aucs.tolist())), Bootstrap(truth)
    found = []
    for number in range(sets):
        rng = np.random.default_rng([number, clips, ids])
        scores = np.concatenate([scores_of(shape, of_id, clips, rng) for of_id in aucs])
        printed = interval_of(scores, truth, metric=metric, bootstrap=bootstrap)
        assert printed is not None
        before = Interval.of(bootstrap.metric(metric, scores))
        found.append((before.includes(true), printed.includes(true), printed.high - printed.low))
    before_share, after, width = np.mean(found, axis=0).tolist()
    return before_share, after, width


def coverage_of_unequal(normal: int, faults: int, spread: float, auc: float, sets: int) -> float:
    """How often the printed interval holds the true AUC of one machine ID with so many clips of each label."""
    truth = truth_of("auc", 1, normal, faults)
    labels, bootstrap = np.array(truth.labels), Bootstrap(truth)
    found = []
    for number in range(sets):
        scores = np.random.default_rng([number, normal, faults]).standard_normal(len(truth))
        scores = np.where(labels == ANOMALY, spread * scores + np.sqrt(1 + spread**2) * norm.ppf(auc), scores)
        printed = interval_of(scores, truth, bootstrap=bootstrap)
        assert printed is not None
        found.append(printed.includes(auc))
    return float(np.mean(found))


def coverage_of_difference(
    metric: Metric, alike: float, auc: float, ids: int, clips: int, sets: int
) -> tuple[float, float]:
    """How often both intervals of the difference of two equally good systems hold 0."""
    truth = truth_of(metric, ids, clips)
    bootstrap = Bootstrap(truth)
    shifts = np.repeat(np.sqrt(2) * norm.ppf(of_ids(auc, ids)), 2 * clips) * np.array(truth.labels)
    found = []
    for number in range(sets):
        common, *own = np.random.default_rng([number, clips, ids]).standard_normal((3, len(truth)))
        one, other = (np.sqrt(alike) * common + np.sqrt(1 - alike) * of_system + shifts for of_system in own)
        printed = interval_of_difference(one, other, truth, metric=metric, bootstrap=bootstrap)
        assert printed is not None
        before = Interval.of(bootstrap.metric(metric, one) - bootstrap.metric(metric, other))
        found.append((before.includes(0) and before.low < before.high, printed.includes(0)))
    before_share, after = np.mean(found, axis=0).tolist()
    return before_share, after


class Search:
    """Errors of trials as a function of their settings, and a search that goes where they are favourable."""

    def __init__(self, clips: int, rng: np.random.Generator) -> None:
        waves = 400
        self._rng = rng
        self._waves = rng.standard_normal((waves, SETTINGS)) / 0.3, rng.uniform(0, 2 * np.pi, waves)
        self._heights = rng.standard_normal((waves, clips)) * np.sqrt(2 / waves)
        self._common = rng.standard_normal(clips)

    def errors(self, settings: Scores) -> Scores:
        """The errors of a trial's scores, (clips,), with a deviation of 1."""
        of_settings = np.cos(self._waves[0] @ settings + self._waves[1]) @ self._heights
        own = np.sqrt(0.7) * of_settings + np.sqrt(0.3) * self._rng.standard_normal(len(of_settings))
        return np.asarray(np.sqrt(0.5) * self._common + np.sqrt(0.5) * own)

    def suggestion(self, tried: Scores, values: Scores) -> Scores:
        """The settings of the next trial: after ten at random, where good ones are dense and others are not."""
        if len(values) < 10:
            return self._rng.random(SETTINGS)
        good = min(-(-len(values) // 10), 25)
        order = np.argsort(-values)
        of_good, of_bad = tried[order[:good]], tried[order[good:]]
        chosen = self._rng.integers(good + 1, size=24)  # the last one: anywhere
        near = of_good[np.minimum(chosen, good - 1)]
        near = near + _bandwidth(of_good) * self._rng.standard_normal(near.shape)
        near = np.where((chosen == good)[:, np.newaxis], self._rng.random(near.shape), near).clip(0, 1)
        return np.asarray(near[(_log_density(near, of_good) - _log_density(near, of_bad)).argmax()])


def _bandwidth(points: Scores) -> float:
    return float(0.2 * len(points) ** (-1 / (SETTINGS + 4)))


def _log_density(places: Scores, points: Scores) -> Scores:
    width = _bandwidth(points)
    squares = ((places[:, np.newaxis] - points) ** 2).sum(axis=-1) / (2 * width**2)
    around = np.exp(-squares) / (width * np.sqrt(2 * np.pi)) ** SETTINGS
    return np.asarray(np.log((around.sum(axis=1) + 1) / (len(points) + 1)))


def study_of(
    metric: Metric, trials: int, truth: Truth, auc: float, rng: np.random.Generator, *, like_tpe: bool
) -> Scores:
    """The scores of a study's trials, all of the same true AUC, of a search for a metric; (trials, clips)."""
    shifts = np.sqrt(2) * norm.ppf(auc) * np.array(truth.labels)
    if not like_tpe:
        return np.asarray(rng.standard_normal((trials, len(truth))) + shifts)
    search = Search(len(truth), rng)
    settings, values, scores = np.empty((trials, SETTINGS)), np.empty(trials), np.empty((trials, len(truth)))
    for trial in range(trials):
        settings[trial] = search.suggestion(settings[:trial], values[:trial])
        scores[trial] = search.errors(settings[trial]) + shifts
        values[trial] = metric_of_each(metric, scores[trial : trial + 1], truth)[0]
    return scores


def false_claims(
    metric: Metric, trials: int, auc: float, ids: int, clips: int, studies: int, *, like_tpe: bool
) -> npt.NDArray[np.float64]:
    """The shares of false claims, before and after: a gain, worse than the best, better than guessing; and the power.

    The last number is the mean gain over the baseline that is said to be detectable.
    """
    truth = truth_of(metric, ids, clips)
    bootstrap = Bootstrap(truth)
    found = []
    for number in range(studies):
        rng = np.random.default_rng([number, trials, clips, ids])
        scores = study_of(metric, trials, truth, auc, rng, like_tpe=like_tpe)
        order = np.argsort(-metric_of_each(metric, scores, truth), kind="stable")
        first, scores = int(np.flatnonzero(order == 0)[0]), scores[order]
        resampled = bootstrap.metric(metric, scores[0])
        some = rng.permutation(np.arange(1, trials))[:10]
        worse = [np.quantile(resampled - bootstrap.metric(metric, scores[other]), 0.025) > 0 for other in some]
        gain = first != 0 and np.quantile(resampled - bootstrap.metric(metric, scores[first]), 0.025) > 0
        judged = leads(metric, scores, truth, tried=trials)
        found.append(
            (
                gain,
                judged[first].is_told,
                np.mean(worse),
                np.mean([lead.is_told for lead in judged[1:]]),
                np.quantile(resampled, 0.025) > 0.5,
                lead_over_guessing(scores, truth, tried=trials).is_told,
                judged[first].detectable,
            )
        )
    return np.asarray(np.array(found, dtype=np.float64).mean(axis=0))


def power(trials: int, auc: float, ids: int, clips: int, studies: int) -> tuple[float, float]:
    """A gain over the baseline that is said to be detectable, and the share of studies that show a gain so large.

    In each study one trial has it, and all are independent. The gain is the mean over the studies without that trial.
    """
    truth = truth_of("auc", ids, clips)
    labels, drawn = np.array(truth.labels), []
    for number in range(studies):
        rng = np.random.default_rng([number, trials, clips, ids])
        drawn.append(study_of("auc", trials, truth, auc, rng, like_tpe=False))
    gain = float(np.mean([_lead_over_first(scores, truth).detectable for scores in drawn]))
    further = np.sqrt(2) * (norm.ppf(min(auc + gain, 1.0)) - norm.ppf(auc))
    for scores in drawn:
        scores[-1] += further * labels
    return gain, float(np.mean([_lead_over_first(scores, truth).is_told for scores in drawn]))


def _lead_over_first(scores: Scores, truth: Truth) -> Lead:
    order = np.argsort(-metric_of_each("auc", scores, truth), kind="stable")
    return leads("auc", scores[order], truth, tried=len(scores))[int(np.flatnonzero(order == 0)[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=150, help="sets of clips for each cell")
    parser.add_argument("--studies", type=int, default=100, help="studies for each row; of 500 trials half of them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--ids", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--only", choices=["intervals", "unequal", "differences", "trials", "power"])
    asked = parser.parse_args()
    console, parallel = Console(width=140), joblib.Parallel(asked.jobs)
    for metric in asked.metrics if asked.only in (None, "intervals") else ():
        for shape in SHAPES:
            for ids in [ids for ids in asked.ids if metric != "worst_id" or ids > 1]:
                title = f"{metric}, {shape}, {ids} IDs: coverage before, now (width)"
                cells = [(metric, shape, auc, ids, clips, asked.sets) for auc in AUCS for clips in CLIPS]
                console.print(_grid(title, cells, parallel))
    if asked.only in (None, "unequal"):
        table = Table("deviation", "AUC", *(f"{n} + {m}" for n, m in UNEQUAL), title="AUC, 1 ID: coverage now")
        cells_of_rows = [(spread, auc) for spread in (1.0, 2.0, 3.0) for auc in (0.55, 0.7, 0.85, 0.97)]
        held = parallel(
            joblib.delayed(coverage_of_unequal)(n, m, spread, auc, asked.sets)
            for spread, auc in cells_of_rows
            for n, m in UNEQUAL
        )
        for row, (spread, auc) in enumerate(cells_of_rows):
            of_row = held[row * len(UNEQUAL) : (row + 1) * len(UNEQUAL)]
            table.add_row(f"{spread:g}", str(auc), *(f"{100 * share:.0f} %" for share in of_row))
        console.print(table)
    for alike in (0.0, 0.5, 0.9) if asked.only in (None, "differences") else ():
        table = Table(
            "AUC", *(f"{clips} + {clips}" for clips in CLIPS), title=f"differences, 3 IDs, correlation {alike}"
        )
        pairs = parallel(
            joblib.delayed(coverage_of_difference)("auc", alike, auc, 3, clips, asked.sets)
            for auc in AUCS
            for clips in CLIPS
        )
        _add_rows(table, [f"{100 * before:.0f} %, {100 * after:.0f} %" for before, after in pairs])
        console.print(table)
    for like_tpe in (False, True) if asked.only in (None, "trials") else ():
        title = f"false claims before, now; 3 IDs; {'trials like TPE’s' if like_tpe else 'independent trials'}"
        table = Table(
            "metric",
            "AUC",
            "clips",
            "trials",
            "a gain",
            "told from the best",
            "better than guessing",
            "detectable",
            title=title,
        )
        rows: list[tuple[Metric, int, float, int, int, int]] = [
            ("auc", n, auc, 3, clips, _studies(asked.studies, n))
            for auc in (0.5, 0.8, 0.97)
            for clips in (5, 25)
            for n in TRIALS
            if "auc" in asked.metrics
        ]
        rows += [
            (metric, n, 0.8, 3, 25, _studies(asked.studies, n))
            for metric in asked.metrics
            if metric != "auc"
            for n in TRIALS
        ]
        shares = parallel(joblib.delayed(false_claims)(*row, like_tpe=like_tpe) for row in rows)
        for (metric, n, auc, _, clips, _), of_row in zip(rows, shares, strict=True):
            percents = [f"{100 * share:.0f} %" for share in of_row[:6]]
            guessing = ", ".join(percents[4:]) if metric == "auc" and auc == 0.5 else ""
            claims = (", ".join(percents[:2]), ", ".join(percents[2:4]), guessing)
            table.add_row(metric, str(auc), f"{clips} + {clips}", str(n), *claims, f"{of_row[6]:.3f}")
        console.print(table)
    if asked.only in (None, "power"):
        table = Table("AUC", "clips", "trials", "detectable gain", "shown in", title="power, 3 IDs, independent trials")
        cells_of_power = [(n, auc, 3, clips, _studies(asked.studies, n)) for auc, clips in POWER for n in TRIALS]
        found = parallel(joblib.delayed(power)(*cell) for cell in cells_of_power)
        for (n, auc, _, clips, _), (gain, shown) in zip(cells_of_power, found, strict=True):
            table.add_row(str(auc), f"{clips} + {clips}", str(n), f"{gain:.3f}", f"{100 * shown:.0f} %")
        console.print(table)


def _studies(studies: int, trials: int) -> int:
    return max(studies // 2, 1) if trials > 100 else studies


def _grid(title: str, cells: Sequence[Cell], parallel: joblib.Parallel) -> Table:
    table = Table("AUC", *(f"{clips} + {clips}" for clips in CLIPS), title=title)
    defined = [cell for cell in cells if cell[0] not in WITH_PAUC or cell[4] >= FEWEST_NORMALS_FOR_PAUC]
    shares = dict(zip(defined, parallel(joblib.delayed(coverage)(*cell) for cell in defined), strict=True))
    in_words = {
        cell: f"{100 * before:.0f} %, {100 * now:.0f} % ({width:.2f})" for cell, (before, now, width) in shares.items()
    }
    _add_rows(table, [in_words.get(cell, "") for cell in cells])
    return table


def _add_rows(table: Table, cells: Sequence[str]) -> None:
    for row, auc in enumerate(AUCS):
        table.add_row(str(auc), *cells[row * len(CLIPS) : (row + 1) * len(CLIPS)])


if __name__ == "__main__":
    main()
