"""How far the label-free value of search.validation.proxy_clips can be trusted: does it rank models as real faults do?

    python -m benchmarks.proxy -o DIR [--trials 20]         # on sounds made here, whose faults the proxies do not know
    python -m benchmarks.proxy ROOT -o DIR [--trials 6]     # on a corpus with labelled test clips, machine by machine

Of each of six families so many random settings are trained for a few epochs on what the proxy leaves of the training
clips, on one core. Each trained model is judged three times: by the proxy, by the validation part of the labelled
test clips, which a search with labels would go by, and by their held-out part. Its AUC on all labelled test clips is
the most that is known of it, and the proxy has seen none of them.

rank correlation : Spearman's, with 95 % intervals from resampled trials. "within": the mean of those within each
                   family. "between": of the families' means, six points.
searches         : of so many trials drawn at random, the held-out AUC of the one that a search would choose. They share
                   their trials and test clips: that all of them end well says nothing of other clips.

Trials that are there in DIR are not done again. What was used is decided once for each machine, before any trial.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from optuna.samplers import RandomSampler
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from benchmarks.sides import machine_line, on_one_core
from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_corpus import make_corpus
from features.clips.synthetic_faults import KINDS
from features.frames.feature_settings import FeatureSettings
from search.errors import TrialFailure
from search.evaluation.interval import Interval
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth
from search.preparation.proxy_judgement import aucs_of, judge_proxies, useful_proxies
from search.study.proxies import OTHER_IDS, PROXIES
from search.study.recipe import ValidationSettings
from search.study.study import Study
from search.study.study_file import study_of_tree
from search.study.trial_recipe import trial_recipe
from search.training.loop import Training
from search.validation.proxy_clips import ProxyCorpus, hold_out
from search.validation.split import blind, held_out_clips, labelled_test_clips

HELD_OUT_SHARE = 0.25  # of the normal training clips
VALIDATION = ValidationSettings()
SEARCH_SIZES, SEARCHES = (10, 20), 2000
RESAMPLES = 2000

Values = npt.NDArray[np.float64]

_WINDOWS: dict[str, Any] = {
    "features": {"n_mels": {"choices": [32, 64]}},
    "training": {"learning_rate": {"low": 3e-4, "high": 3e-2, "log": True}, "batch_size": 256},
    "scoring": {"pooling": {"choices": ["mean", "max", "gwrp"]}},
}
_CROPS: dict[str, Any] = {
    "features": {"n_mels": {"choices": [32, 64]}},
    "training": {"learning_rate": {"low": 3e-4, "high": 1e-2, "log": True}, "batch_size": 64},
    "scoring": {"pooling": {"choices": ["mean", "max"]}},
}
_EPOCHS = {"low": 3, "high": 20}

#: Small, and quickly trained: what is asked is which of some settings is better, not how good any can be.
SPACES: dict[str, dict[str, Any]] = {
    "vae": {
        **_WINDOWS,
        "model": {
            "family": "vae",
            "context": {"low": 1, "high": 5},
            "h_dim": {"low": 16, "high": 128, "log": True},
            "z_dim": {"low": 2, "high": 16, "log": True},
            "score": {"choices": ["reconstruction", "mahalanobis"]},
        },
    },
    "ae": {
        **_WINDOWS,
        "model": {
            "family": "ae",
            "context": {"low": 1, "high": 5},
            "layers": {"low": 1, "high": 3},
            "h_dim": {"low": 16, "high": 128, "log": True},
            "z_dim": {"low": 2, "high": 16, "log": True},
            "score": {"choices": ["reconstruction", "mahalanobis"]},
        },
    },
    "made": {
        **_WINDOWS,
        "model": {
            "family": "made",
            "context": {"low": 1, "high": 2},
            "h_dim": {"low": 32, "high": 128, "log": True},
            "layers": {"low": 1, "high": 2},
            "components": {"low": 1, "high": 2},
            "orderings": 2,
        },
    },
    "cae": {
        **_CROPS,
        "model": {
            "family": "cae",
            "frames": 32,
            "width": {"low": 4, "high": 8},
            "z_dim": {"low": 8, "high": 32, "log": True},
            "dropout": {"low": 0.0, "high": 0.3},
            "score": {"choices": ["reconstruction", "knn"]},
        },
    },
    "classifier": {
        **_CROPS,
        "model": {
            "family": "classifier",
            "frames": {"choices": [32, 64]},
            "embedding_dim": {"choices": [16, 64]},
            "mixup": {"low": 0.0, "high": 0.5},
            "score": {"choices": ["log_odds", "knn", "mahalanobis"]},
        },
    },
    "stat": {
        "features": {"n_mels": {"choices": [32, 64, 128]}},
        "model": {
            "family": "stat",
            "decay": {"low": 0.0, "high": 1.0},
            "score": {"choices": ["mahalanobis", "gmm", "knn", "lof"]},
        },
    },
}


@dataclass(frozen=True)
class Trial:
    """One setting, trained and judged; AUCs are means over machine IDs."""

    family: str
    parameters: dict[str, Any]
    proxies: dict[str, float]
    proxy: float
    validation: float
    held_out: float
    labelled: float  # validation and held-out clips together
    seconds: float


def study_of(family: str, seed: int) -> Study:
    space = SPACES[family]
    training = {"seed": seed, "threads": 1, **space.get("training", {})}
    if "learning_rate" in training:
        training["epochs"] = _EPOCHS
    return study_of_tree({**space, "study": "proxy", "training": training}, origin="benchmarks.proxy")


def measured(family: str, number: int, corpus: Corpus, proxy_corpus: ProxyCorpus) -> Trial | None:
    """One random setting of a family. None where its training fails."""
    study = study_of(family, number)
    trial = optuna.create_study(sampler=RandomSampler(seed=1000 * list(SPACES).index(family) + number)).ask()
    recipe = trial_recipe(study, trial)
    tests = labelled_test_clips(corpus)
    unlabelled = tuple(replace(clip, label=None) for clip in tests)
    seen = replace(proxy_corpus.corpus, clips=(*proxy_corpus.corpus.clips, *unlabelled))
    start = time.process_time()
    try:
        training = Training(recipe, seen, torch.device("cpu"))
        while training.epoch < recipe.epochs:
            training.run_epoch()
        by_proxy, scores = training.validation_scores(), training.scores_of(unlabelled)
    except TrialFailure as failure:
        print(f"{family} {number}: {failure}")
        return None
    held_out = {clip.name for clip in held_out_clips(corpus, VALIDATION)}

    def auc(chosen: Callable[[str], bool]) -> float:
        members = [index for index, clip in enumerate(tests) if chosen(clip.name)]
        return mean_auc(scores[members], Truth.of([tests[index] for index in members]))

    return Trial(
        family=family,
        parameters=dict(trial.params),
        proxies={proxy.name: auc for proxy, auc in aucs_of(by_proxy, proxy_corpus.clips).items()},
        proxy=mean_auc(by_proxy, Truth.of(proxy_corpus.clips)),
        validation=auc(lambda name: name not in held_out),
        held_out=auc(lambda name: name in held_out),
        labelled=auc(lambda name: True),
        seconds=time.process_time() - start,
    )


def trials_on(corpus: Corpus, folder: Path, *, trials: int) -> list[Trial]:
    """So many trials of each family on one machine, with the proxies that were found to say something there."""
    folder.mkdir(parents=True, exist_ok=True)
    # As a search would, with no look at a test clip.
    every = hold_out(blind(corpus, VALIDATION), share=HELD_OUT_SHARE, seed=0).with_proxies(PROXIES)
    judgements = judge_proxies(every, FeatureSettings())
    found = [[one.proxy.name, *(f"{auc:.3f}" for auc in one.aucs), one.objection or "used"] for one in judgements]
    (folder / "proxies.json").write_text(json.dumps(found))
    proxy_corpus = every.of_proxies(useful_proxies(judgements))
    done = []
    for family in SPACES:
        for number in range(trials):
            file = folder / f"{family}-{number:03d}.json"
            if not file.exists():
                trial = measured(family, number, corpus, proxy_corpus)
                file.write_text(json.dumps(None if trial is None else asdict(trial)))
            told = json.loads(file.read_text())
            if told is not None:
                done.append(Trial(**told))
    return done


def spearman(one: Values, other: Values) -> Values:
    """Rank correlation along the last axis; 0 where one side is all ties."""
    a, b = (rankdata(values, axis=-1) for values in (one, other))
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (a, b))
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.asarray(np.divide((a * b).sum(axis=-1), scale, out=np.zeros_like(scale), where=scale > 0))


def correlation(pairs: Sequence[tuple[Values, Values]]) -> str:
    """Mean rank correlation of some groups of trials, with its interval."""
    rng = np.random.default_rng(0)
    resampled = np.zeros(RESAMPLES)
    for one, other in pairs:
        drawn = rng.integers(0, len(one), (RESAMPLES, len(one)))
        resampled += spearman(one[drawn], other[drawn]) / len(pairs)
    low, high = Interval.of(resampled)
    return f"{np.mean([float(spearman(*pair)) for pair in pairs]):+.2f} ({low:+.2f} to {high:+.2f})"


Of = Callable[[Trial], float]


def _values(trials: Sequence[Trial], of: Of) -> Values:
    return np.array([of(trial) for trial in trials])


def _by_family(trials: Sequence[Trial]) -> list[list[Trial]]:
    groups = [[trial for trial in trials if trial.family == family] for family in SPACES]
    return [group for group in groups if len(group) > 2]


def within(machines: Sequence[Sequence[Trial]], one: Of, other: Of) -> str:
    """Of each family on each machine, the mean."""
    groups = [group for trials in machines for group in _by_family(trials)]
    return correlation([(_values(group, one), _values(group, other)) for group in groups])


def between(machines: Sequence[Sequence[Trial]], one: Of, other: Of) -> str:
    means = [
        [(float(np.mean(_values(group, one))), float(np.mean(_values(group, other)))) for group in _by_family(trials)]
        for trials in machines
    ]
    found = [float(spearman(*np.array(of_machine).T)) for of_machine in means]
    return f"{np.mean(found):+.2f}"


def overall(machines: Sequence[Sequence[Trial]], one: Of, other: Of) -> str:
    return correlation([(_values(trials, one), _values(trials, other)) for trials in machines])


def by_proxy(trial: Trial) -> float:
    return trial.proxy


def by_validation(trial: Trial) -> float:
    return trial.validation


def on_held_out(trial: Trial) -> float:
    return trial.held_out


def on_all(trial: Trial) -> float:
    return trial.labelled


def of_kind(kind: str) -> Of:
    """The mean AUC of a kind's grades."""
    return lambda trial: float(np.mean([auc for name, auc in trial.proxies.items() if name.startswith(kind)]))


def show(console: Console, machines: dict[str, list[Trial]], told: dict[str, list[list[str]]]) -> None:
    for machine, found in told.items():
        table = Table("proxy", "by mean levels", "by highest levels", "", title=f"Cheap detectors' AUC, {machine}")
        for row in found:
            table.add_row(*row)
        console.print(table)
    groups = list(machines.values())
    count = sum(len(trials) for trials in groups)
    table = Table(
        "",
        "proxy, all labelled clips",
        "proxy, held-out part",
        "validation part, held-out part",
        "AUC on all labelled clips",
        title=f"Rank correlation with the AUC, {count} trials",
    )
    pairs: list[tuple[Of, Of]] = [(by_proxy, on_all), (by_proxy, on_held_out), (by_validation, on_held_out)]
    for name, how in (("all trials", overall), ("within families", within), ("between families", between)):
        table.add_row(name, *(how(groups, *pair) for pair in pairs), "")
    for family in SPACES:
        own = [[trial for trial in trials if trial.family == family] for trials in groups]
        if min(len(trials) for trials in own) > 2:
            aucs = [trial.labelled for trials in own for trial in trials]
            spread = f"{np.mean(aucs):.3f} ({min(aucs):.3f}–{max(aucs):.3f})"
            table.add_row(family, *(overall(own, *pair) for pair in pairs), spread)
    console.print(table)

    table = Table("kind", "all trials", "within families", "between families", title="Of each kind by itself")
    for kind in (OTHER_IDS.name, *KINDS):
        have = [trials for trials in groups if any(name.startswith(kind) for name in trials[0].proxies)]
        if have:
            table.add_row(kind, *(how(have, of_kind(kind), on_all) for how in (overall, within, between)))
    console.print(table)

    table = Table(
        "trials in a search",
        "chosen by the proxy",
        "chosen by validation",
        "a random one",
        "the best there is",
        "proxy − random",
        title="Held-out AUC of the trial that a search chooses: mean (quartiles), means over machines",
    )
    for size in SEARCH_SIZES:
        table.add_row(str(size), *searches(groups, size))
    table.add_row("all", *searches(groups, None))
    if len(machines) > 1:
        for machine, trials in machines.items():
            table.add_row(f"all, {machine}", *searches([trials], None))
    console.print(table)


def searches(machines: Sequence[Sequence[Trial]], size: int | None) -> list[str]:
    """What searches of so many trials end with; of all of them where `size` is None."""
    rng = np.random.default_rng(0)
    ends = np.zeros((4, 1 if size is None else SEARCHES))
    for trials in machines:
        proxy, validation, held_out = (_values(trials, of) for of in (by_proxy, by_validation, on_held_out))
        if size is None:
            drawn = np.arange(len(trials))[np.newaxis]
        else:
            drawn = np.argsort(rng.random((SEARCHES, len(trials))), axis=1)[:, :size]
        rows = np.arange(len(drawn))
        ends[0] += held_out[drawn[rows, proxy[drawn].argmax(axis=1)]] / len(machines)
        ends[1] += held_out[drawn[rows, validation[drawn].argmax(axis=1)]] / len(machines)
        ends[2] += held_out[drawn].mean(axis=1) / len(machines)
        ends[3] += held_out[drawn].max(axis=1) / len(machines)
    gain = ends[0] - ends[2]

    def said(values: Values) -> str:
        if size is None:
            return f"{values[0]:.3f}"
        low, high = np.quantile(values, [0.25, 0.75])
        return f"{values.mean():.3f} ({low:.3f}–{high:.3f})"

    above = "" if size is None else f", above 0 in {np.mean(gain > 0):.0%}"
    return [*(said(values) for values in ends), f"{gain.mean():+.3f}{above}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, help="corpus with labelled test clips; sounds made here if none")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for clips and figures")
    parser.add_argument("--trials", type=int, default=20, help="of each family and machine")
    asked = parser.parse_args()
    on_one_core()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder: Path = asked.output
    folder.mkdir(parents=True, exist_ok=True)
    root = asked.root or folder / "demo"
    if asked.root is None and not root.exists():
        make_corpus(root)
    corpus = read_corpus(root)
    machines, told = {}, {}
    for machine in corpus.machines:
        own = folder / f"figures-{root.name}" / machine
        machines[machine] = trials_on(corpus.for_study([machine]), own, trials=asked.trials)
        told[machine] = json.loads((own / "proxies.json").read_text())
    console = Console(width=150)
    seconds = sum(trial.seconds for trials in machines.values() for trial in trials)
    console.print(f"{root.name} ({machine_line()}), {seconds:.0f} s of CPU in trials\n")
    show(console, machines, told)


if __name__ == "__main__":
    main()
