"""Samplers on a conditional space: regret after equal time, and how often they find the best family.

    python -m benchmarks.conditional [--sides "TPE as it is" offkey] [--seeds 100] [--jobs 1]

A study with the shape of studies/best.yaml, seven families with three to six settings of their own and four that they
share, and in place of a training a formula: a family's AUC falls from its best to its floor with the distance from
where its settings are best. Where that is, which settings count, and how two of them make up for one another, is drawn
anew for each seed and family. A trial is told the AUC with noise; regret is what the chosen one's, without noise,
falls short of the best there is.

A trial takes as long as its family's trials do (SECONDS), times a random factor. The time of a study is that of all its
workers together. A study ends after the longest budget of time, or after MOST_TRIALS trials if these come first.
"""

from __future__ import annotations

import argparse
import heapq
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from rich.console import Console
from rich.table import Table

from search.sampling.samplers import sampler_for
from search.study.open_setting import OpenSetting
from search.study.search_settings import SearchSettings
from search.study.space import Space
from search.study.study import Study

BUDGETS = (1000, 2500, 5000)  # seconds of the workers together
MOST_TRIALS = 200  # as many as studies/best.yaml has
NOISE = 0.01  # AUC, standard deviation from training to training

#: Seconds of a trial of each family, roughly as of studies/best.yaml on a CPU; a single trial's differ by a factor.
SECONDS = {"vae": 30, "ae": 30, "cae": 90, "made": 45, "group_made": 60, "classifier": 120, "stat": 1}
SPREAD = 0.5  # standard deviation of the logarithm of that factor

Ranges = dict[str, BaseDistribution]

WIDTH = IntDistribution(64, 512, log=True)
CONTEXT = IntDistribution(1, 9)
SHARED: Ranges = {
    "n_mels": CategoricalDistribution([64, 128]),
    "pooling": CategoricalDistribution(["mean", "max", "top", "gwrp"]),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "batch_size": IntDistribution(64, 1024, log=True),
}
OWN: dict[str, Ranges] = {
    "vae": {"vae.h_dim": WIDTH, "vae.z_dim": IntDistribution(4, 64, log=True), "kld_weight": FloatDistribution(0, 1)},
    "ae": {
        "ae.h_dim": WIDTH,
        "ae.z_dim": IntDistribution(4, 64, log=True),
        "ae.context": CONTEXT,
        "ae.score": CategoricalDistribution(["reconstruction", "mahalanobis"]),
    },
    "cae": {
        "width": IntDistribution(8, 64, log=True),
        "cae.z_dim": IntDistribution(8, 128, log=True),
        "cae.frames": CategoricalDistribution([32, 64]),
        "cae.score": CategoricalDistribution(["reconstruction", "knn"]),
    },
    "made": {
        "made.h_dim": WIDTH,
        "made.context": CONTEXT,
        "made.layers": IntDistribution(1, 4),
        "made.components": IntDistribution(1, 8),
        "made.orderings": IntDistribution(1, 8),
    },
    "group_made": {
        "group_made.h_dim": WIDTH,
        "group_made.context": CONTEXT,
        "group_made.layers": IntDistribution(1, 4),
        "group_made.components": IntDistribution(1, 8),
        "group_made.orderings": CategoricalDistribution(["each_last", "middle_last", "in_time"]),
        "group_made.score": CategoricalDistribution(["window", "last_frame"]),
    },
    "classifier": {
        "backbone": CategoricalDistribution(["small", "mobilenetv2_050", "mobilenetv2_100"]),
        "classifier.score": CategoricalDistribution(["log_odds", "knn", "mahalanobis"]),
        "margin": FloatDistribution(0, 1),
        "logit_scale": FloatDistribution(4, 64, log=True),
        "subclusters": IntDistribution(1, 16, log=True),
        "mixup": FloatDistribution(0, 1),
    },
    "stat": {
        "decay": FloatDistribution(0, 1),
        "stat.score": CategoricalDistribution(["mahalanobis", "gmm", "knn", "lof"]),
        "stat.components": IntDistribution(1, 16, log=True),
    },
}
FAMILIES = tuple(OWN)
SPACE = Space(
    tree={"study": "conditional", "shared": {}, "model": [{"family": family} for family in FAMILIES]},
    families=FAMILIES,
    settings=(
        *(OpenSetting(("shared", name), name, distribution) for name, distribution in SHARED.items()),
        *(
            OpenSetting(("model", branch, name), name, distribution)
            for branch, family in enumerate(FAMILIES)
            for name, distribution in OWN[family].items()
        ),
    ),
)


@dataclass(frozen=True)
class Family:
    """What a family can do: the AUC where its settings are worst and best, and how near to those it must come."""

    floor: float
    best: float
    nearness: float


ORDINARY = {
    "vae": Family(0.62, 0.82, 0.3),
    "ae": Family(0.62, 0.81, 0.3),
    "cae": Family(0.58, 0.80, 0.3),
    "made": Family(0.60, 0.83, 0.28),
    "group_made": Family(0.60, 0.85, 0.26),
}

#: With random settings, the classifier beats the best that `stat` can do in one trial of five in the first; it has no
#: chance in the second.
LANDSCAPES = {
    "the best family has to be tuned, another is decent at once": {
        **ORDINARY,
        "classifier": Family(0.66, 0.92, 0.28),
        "stat": Family(0.77, 0.84, 0.4),
    },
    "the best family is decent at once": {
        **ORDINARY,
        "classifier": Family(0.60, 0.86, 0.25),
        "stat": Family(0.77, 0.90, 0.4),
    },
    "the best family is quick and has to be tuned, the slowest is decent at once": {
        **ORDINARY,
        "vae": Family(0.62, 0.92, 0.28),
        "classifier": Family(0.77, 0.84, 0.4),
        "stat": Family(0.60, 0.80, 0.3),
    },
}


class Landscape:
    """The AUC of every setting of every family, drawn from a seed."""

    def __init__(self, families: dict[str, Family], seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.families = families
        self.best_family = max(families, key=lambda family: families[family].best)
        self.best = families[self.best_family].best
        self.costs: dict[str, list[tuple[str, float, Callable[[Any], float]]]] = {}
        self.ridge: dict[str, float] = {}
        for family in families:
            ranges = {**SHARED, **OWN[family]}
            weights = rng.dirichlet(np.ones(len(ranges)))  # some settings count a lot, most of them little
            self.costs[family] = [
                (name, weight, _offset(distribution, rng))
                for (name, distribution), weight in zip(ranges.items(), weights, strict=True)
            ]
            self.ridge[family] = rng.choice([-0.9, 0.9])

    def auc(self, params: dict[str, Any]) -> float:
        family = params["family"]
        offsets = [math.sqrt(weight) * offset(params[name]) for name, weight, offset in self.costs[family]]
        # Neighbours in the list make up for one another in part, or aggravate one another.
        pairs = zip(offsets, [*offsets[1:], offsets[0]], strict=True)
        distance = sum(one * one + self.ridge[family] * one * next_one for one, next_one in pairs)
        shape = self.families[family]
        return shape.floor + (shape.best - shape.floor) * math.exp(-distance / (2 * shape.nearness**2))


def _offset(distribution: BaseDistribution, rng: np.random.Generator) -> Callable[[Any], float]:
    """How far a value is from where it would be best, as a share of its range."""
    if isinstance(distribution, CategoricalDistribution):
        offsets = rng.uniform(0.15, 0.6, len(distribution.choices))
        offsets[rng.integers(len(offsets))] = 0
        of_choice = dict(zip(distribution.choices, offsets, strict=True))
        return lambda value: float(of_choice[value])
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    scale = math.log if distribution.log else float
    low, high, best = scale(distribution.low), scale(distribution.high), rng.uniform(0.15, 0.85)
    return lambda value: float((scale(value) - low) / (high - low) - best)


#: The sampler of a study's trial, by the study's seed and the trial's number.
Sampling = Callable[[int, int], BaseSampler]


def optuna_s(make: Callable[[int], BaseSampler]) -> Sampling:
    """One sampler for all trials of a study."""
    made: dict[int, BaseSampler] = {}

    def of(seed: int, number: int) -> BaseSampler:
        if seed not in made:
            made.clear()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                made[seed] = make(seed)
        return made[seed]

    return of


def offkey(seed: int, number: int) -> BaseSampler:
    return sampler_for(Study(space=SPACE, search=SearchSettings(seed=seed), baseline={}), number)


SIDES: dict[str, Callable[[], Sampling]] = {
    "random": lambda: optuna_s(lambda seed: RandomSampler(seed=seed)),
    "TPE, one setting at a time": lambda: optuna_s(lambda seed: TPESampler(seed=seed, multivariate=False)),
    "TPE as it is": lambda: optuna_s(lambda seed: TPESampler(seed=seed)),  # multivariate, without group
    "TPE, group": lambda: optuna_s(lambda seed: TPESampler(seed=seed, multivariate=True, group=True)),
    "offkey": lambda: offkey,
}


@dataclass(frozen=True)
class Outcome:
    """Of the trials of a study that ended within a budget."""

    regret: float  # AUC
    trials: int
    share: float  # of the time, in the best family
    found: bool  # whether the trial with the best reported AUC is of that family


def outcomes(side: str, landscape: str, seed: int, *, workers: int = 1) -> list[Outcome]:
    """A study's outcome at each budget, with so many trials running at any moment."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    truth, sampling = Landscape(LANDSCAPES[landscape], seed), SIDES[side]()
    noise = np.random.default_rng([seed, 1])
    study = optuna.create_study(direction="maximize")
    clock, running, ended = (
        0.0,
        list[tuple[float, int, optuna.Trial, float]](),
        list[tuple[float, str, float, float, float]](),
    )
    for number in range(MOST_TRIALS):
        if len(running) == workers:
            clock, _, trial, seconds = heapq.heappop(running)
            trial.set_user_attr("seconds", seconds)
            auc = truth.auc(trial.params)
            reported = auc + noise.normal(scale=NOISE)
            study.tell(trial, reported)
            ended.append((clock, trial.params["family"], seconds, auc, reported))
        if clock * workers > max(BUDGETS):
            break
        study.sampler = sampling(seed, number)
        trial = study.ask()
        SPACE.close(trial)
        seconds = SECONDS[trial.params["family"]] * math.exp(noise.normal(scale=SPREAD))
        heapq.heappush(running, (clock + seconds, number, trial, seconds))
    found = []
    for budget in BUDGETS:
        within = [entry for entry in ended if entry[0] * workers <= budget]
        _, family, _, auc, _ = max(within, key=lambda entry: entry[-1])
        share = sum(e[2] for e in within if e[1] == truth.best_family) / sum(e[2] for e in within)
        found.append(Outcome(truth.best - auc, len(within), share, family == truth.best_family))
    return found


def show(landscape: str, sides: list[str], *, seeds: int, jobs: int, workers: int = 1) -> None:
    """Of each sampler and budget: regret, median and quartiles; trials in the best family; studies that found it."""
    title = f"{landscape[0].upper()}{landscape[1:]}; {workers} trial{'s' * (workers > 1)} at a time, {seeds} seeds"
    table = Table("", "seconds", "trials", "regret", "quartiles", "time in the best family", "found it", title=title)
    for side in sides:
        run = joblib.delayed(outcomes)
        studies = joblib.Parallel(jobs)(run(side, landscape, seed, workers=workers) for seed in range(seeds))
        for column, budget in enumerate(BUDGETS):
            of_budget = [study[column] for study in studies]
            low, median, high = np.quantile([outcome.regret for outcome in of_budget], [0.25, 0.5, 0.75])
            table.add_row(
                side if column == 0 else "",
                f"{budget:,}",
                f"{np.median([outcome.trials for outcome in of_budget]):.0f}",
                f"{median:.3f}",
                f"{low:.3f}–{high:.3f}",
                f"{np.mean([outcome.share for outcome in of_budget]):.0%}",
                f"{np.mean([outcome.found for outcome in of_budget]):.0%}",
            )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1, help="processes; -1: as many as there are cores")
    arguments = parser.parse_args()
    for landscape in LANDSCAPES:
        show(landscape, arguments.sides, seeds=arguments.seeds, jobs=arguments.jobs)
    hardest = next(iter(LANDSCAPES))
    show(hardest, arguments.sides, seeds=arguments.seeds, jobs=arguments.jobs, workers=8)


if __name__ == "__main__":
    main()
