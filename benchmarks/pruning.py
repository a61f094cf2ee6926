"""Pruners on recorded trials: how far from the best a search ends, for how many steps.

    python -m benchmarks.pruning FOLDER [--pools vae families folds] [--seeds 100] [--clips 6 12 30]

step : where trials are compared: after an epoch, or after a model of a cross-validation (folds), which is trained
       without a part of the training clips, and scores that part, too.

The trials are recorded once, into FOLDER, on the corpus of features.clips.synthetic_corpus with 60 + 60 labelled
clips of each of three machine IDs: random settings of one family (vae) and of several (families), 18 epochs each, and
of one with 6 folds of 12 epochs (folds); one core, an hour and more. Then each seed draws that many normal clips and
as many anomalies of each ID, which validate the trials, with folds each model's own part beside them, and an order of
the settings, and each pruner sees the same: one worker, an Optuna study in memory, trials that report what was
recorded. As in a search, the complete trial with the highest validation AUC is chosen. Regret is what the chosen
one's AUC of all other labelled clips falls short of that of the best setting of the pool. With folds, an AUC is the
mean over the models.

Beside Offkey's pruners stand "of all": the same without its rules, which compare all families with one another, and
from the first epoch on.

Regret is given after the whole pool, and after as many steps as 8 and 16 trials of full length have: there a pruner
has seen more settings. Beside it stands how many trials were stopped, and how many of these would have had the highest
validation AUC so far. Seeds differ in clips and order; settings, trainings and folds are the same in all.

FOLDER/truth.npz       : ids and labels of the labelled clips, (clips,).
FOLDER/POOL-NUMBER.npy : scores after each epoch, (epochs, clips); no epochs for a setting that failed.
FOLDER/folds-truth.npz : the truth of all models' clips, one model's after the other's, as in search.evaluation.metrics.
FOLDER/folds-NUMBER.npy: scores of these, (clips,); none for a setting that failed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.samplers import RandomSampler
from rich.console import Console
from rich.progress import track
from rich.table import Table

from features.clips.clip import ANOMALY, NORMAL
from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_corpus import make_corpus
from models.scoring.scores import Scores
from search.errors import TrialFailure
from search.evaluation.interval import Interval
from search.evaluation.metrics import metric_of_each
from search.evaluation.noise import noise_of
from search.evaluation.truth import Truth
from search.sampling.pruning import NoisePruner, noise_key
from search.sampling.rungs import is_rung
from search.sampling.samplers import pruner_for, sampler_for
from search.study.recipe import Recipe, ValidationSettings
from search.study.search_settings import SearchSettings
from search.study.study_file import study_of_tree
from search.study.trial_recipe import trial_recipe
from search.training.cross_validation import CrossValidation
from search.training.objective import train_for_real
from search.validation.split import folds_of, labelled_test_clips

EPOCHS = 18
FOLDS, EPOCHS_OF_A_FOLD = 6, 12
LABELLED = 60  # clips of each label and machine ID
BUDGETS = (8, 16)  # trials of full length

_Mask = npt.NDArray[np.bool_]

_SHARED: dict[str, Any] = {
    "features": {"n_mels": {"choices": [64, 128]}, "n_fft": 1024, "hop_length": 512},
    "training": {
        "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "batch_size": {"low": 128, "high": 1024, "log": True},
        "epochs": EPOCHS,
        "threads": 1,
    },
    "scoring": {"pooling": {"choices": ["mean", "max"]}},
    "search": {"sampler": "random", "pruner": "none"},
}
_WIDTHS: dict[str, Any] = {"h_dim": {"low": 32, "high": 256, "log": True}, "z_dim": {"low": 4, "high": 40}}
_VAE: dict[str, Any] = {"family": "vae", "context": 5, **_WIDTHS}
_FAMILIES: list[dict[str, Any]] = [
    {
        "family": "ae",
        "context": {"low": 1, "high": 9},
        **_WIDTHS,
        "score": {"choices": ["reconstruction", "mahalanobis", "knn"]},
    },
    {
        "family": "group_made",
        "context": {"low": 3, "high": 7},
        "h_dim": {"low": 64, "high": 256, "log": True},
    },
    {
        "family": "classifier",
        "frames": 32,
        "crops_per_clip": 5,
        "backbone": "small",
        "loss": {"choices": ["cross_entropy", "arcface", "adacos"]},
        "score": {"choices": ["log_odds", "mahalanobis", "knn"]},
        "mixup": {"low": 0.0, "high": 0.5},
    },
]

_WITH_FOLDS: dict[str, Any] = {
    "study": "folds",
    "model": _VAE,
    "training": _SHARED["training"] | {"epochs": EPOCHS_OF_A_FOLD},
    "validation": {"folds": FOLDS},
}

#: Study tree and number of settings, by the pool's name.
POOLS: dict[str, tuple[dict[str, Any], int]] = {
    "vae": (_SHARED | {"study": "vae", "model": _VAE}, 64),
    "families": (_SHARED | {"study": "families", "model": _FAMILIES}, 42),
    "folds": (_SHARED | _WITH_FOLDS, 48),
}


def record(folder: Path, pools: Iterable[str]) -> None:
    """Trains what is not recorded yet."""
    missing = [
        (pool, number, file)
        for pool in pools
        for number in range(POOLS[pool][1])
        if not (file := folder / f"{pool}-{number:03d}.npy").exists()
    ]
    if not missing:
        return
    sounds = folder / "sounds"
    if not sounds.exists():
        make_corpus(sounds, test_clips=LABELLED, seconds=2.0)
    os.environ["OFFKEY_CACHE"] = str(folder / "cache")
    corpus = read_corpus(sounds)
    views = folds_of(corpus, ValidationSettings(folds=FOLDS), "development")
    write_truth(folder / "truth.npz", Truth.of(labelled_test_clips(corpus)))
    write_truth(folder / "folds-truth.npz", Truth.of_folds([labelled_test_clips(view) for view in views]))
    for pool, number, file in track(missing, "recording"):
        study = study_of_tree(POOLS[pool][0], origin=pool)
        optuna_study = optuna.create_study(direction="maximize", sampler=sampler_for(study, number))
        study.space.close(optuna_study.ask())
        trial = optuna_study.get_trials()[0]
        trial.number = number  # of which its seed is made
        recipe = trial_recipe(study, trial, threads=1)
        np.save(file, scores_of_folds(recipe, views) if pool == "folds" else learning_curve(recipe, corpus))


def families_in(pool: str) -> list[str]:
    model = POOLS[pool][0]["model"]
    return [block["family"] for block in (model if isinstance(model, list) else [model])]


def family_of(pool: str, number: int) -> str:
    """The family of a setting, which is drawn again."""
    study = study_of_tree(POOLS[pool][0], origin=pool)
    trial = optuna.create_study(direction="maximize", sampler=sampler_for(study, number)).ask()
    study.space.close(trial)
    return str(trial.params.get("family", families_in(pool)[0]))


def learning_curve(recipe: Recipe, corpus: Corpus) -> Scores:
    """Scores after each epoch, (epochs, clips)."""
    curve: list[Scores] = []
    try:
        training = train_for_real(recipe, corpus, "cpu")
        while training.epoch < recipe.epochs:
            training.run_epoch(lambda: None)
            curve.append(training.validation_scores())
    except TrialFailure:
        curve = []
    return np.array(curve).reshape(len(curve), len(labelled_test_clips(corpus)))


def scores_of_folds(recipe: Recipe, views: Sequence[Corpus]) -> Scores:
    """Scores of one model after the other, (clips,)."""
    try:
        training = CrossValidation([recipe], views, "cpu", train_for_real)
        while training.epoch < recipe.epochs * len(views):
            training.run_epoch(lambda: None)
    except TrialFailure:
        return np.empty(0)
    return training.validation_scores()


def write_truth(file: Path, truth: Truth) -> None:
    columns = {name: np.array(values) for name, values in asdict(truth).items() if name != "rule"}
    np.savez(file, allow_pickle=False, **columns)


def read_truth(file: Path) -> Truth:
    stored = np.load(file)
    columns = {name: tuple(stored[name].tolist()) for name in stored}
    return Truth(columns["ids"], columns["labels"], columns["domains"], columns["folds"], columns["recordings"])


def part_of(truth: Truth, chosen: _Mask) -> Truth:
    """The truth of some of the clips."""
    return truth.at(np.flatnonzero(chosen))


@dataclass(frozen=True)
class Replay:
    """What a seed's trials report, in their order."""

    aucs: Scores  # (trials, steps), of the validation clips: after each epoch, or the mean over the models so far
    own: Scores  # (trials, steps), the same, but of each model by itself
    noise: Sequence[dict[int, list[float] | None]]  # of each trial's aucs, at each rung
    true: Scores  # (trials,), of the other labelled clips after the last step
    families: Sequence[str]  # of each trial


def drawn(truth: Truth, *, clips: int, rng: np.random.Generator) -> _Mask:
    """So many clips of each label and machine ID."""
    ids, labels = np.array(truth.ids), np.array(truth.labels)
    chosen = np.zeros(len(ids), dtype=bool)
    for name in sorted(set(truth.ids)):
        for label in (NORMAL, ANOMALY):
            chosen[rng.choice(np.flatnonzero((ids == name) & (labels == label)), clips, replace=False)] = True
    return chosen


def replay_of_curves(
    curves: Sequence[Scores], families: Sequence[str], truth: Truth, *, clips: int, seed: int
) -> Replay:
    """A seed's clips and order; curves: (epochs, clips) of each setting."""
    rng = np.random.default_rng([seed, clips])
    validates = drawn(truth, clips=clips, rng=rng)
    seen, unseen = part_of(truth, validates), part_of(truth, ~validates)
    order = rng.permutation(len(curves))
    shuffled = [curves[setting] for setting in order]
    aucs = np.array([metric_of_each("auc", curve[:, validates], seen) for curve in shuffled])
    return Replay(
        aucs=aucs,
        own=aucs,
        noise=[
            {epoch: noise_of(scores[validates], seen) for epoch, scores in enumerate(curve, start=1) if is_rung(epoch)}
            for curve in shuffled
        ],
        true=np.concatenate([metric_of_each("auc", curve[-1:, ~validates], unseen) for curve in shuffled]),
        families=[families[setting] for setting in order],
    )


def replay_of_folds(recorded: Sequence[Scores], truth: Truth, *, clips: int, seed: int) -> Replay:
    """A seed's clips and order; recorded: (clips,) of each setting, in the order of the truth's."""
    rng = np.random.default_rng([seed, clips])
    folds, recordings = np.array(truth.folds), np.array(truth.recordings)
    labelled = np.bincount(recordings)[recordings] == FOLDS  # a training clip validates in one fold
    validates = ~labelled
    validates[labelled] = np.tile(drawn(part_of(truth, labelled & (folds == 0)), clips=clips, rng=rng), FOLDS)
    shuffled = np.array(recorded)[rng.permutation(len(recorded))]

    def of_each_model(chosen: _Mask) -> Scores:
        masks = [chosen & (folds == fold) for fold in range(FOLDS)]
        return np.stack([metric_of_each("auc", shuffled[:, mask], part_of(truth, mask)) for mask in masks], axis=1)

    own = of_each_model(validates)
    rungs = {step: validates & (folds < step) for step in range(1, FOLDS + 1) if is_rung(step)}
    seen = {step: part_of(truth, mask) for step, mask in rungs.items()}
    return Replay(
        aucs=own.cumsum(axis=1) / np.arange(1, FOLDS + 1),
        own=own,
        noise=[{step: noise_of(scores[mask], seen[step]) for step, mask in rungs.items()} for scores in shuffled],
        true=of_each_model(~validates).mean(axis=1),
        families=["vae"] * len(shuffled),
    )


@dataclass(frozen=True)
class Side:
    """A pruner, and what it is told."""

    make: Callable[[], BasePruner]
    own: bool = False  # each model's own figure, in place of the mean over the models so far


def sides_of(pool: str) -> dict[str, Side]:
    """What is compared in a pool, by the name it is shown with."""
    max_steps = FOLDS if pool == "folds" else EPOCHS

    families = len(families_in(pool))

    def offkey(name: str) -> Callable[[], BasePruner]:
        settings = SearchSettings.model_validate({"pruner": name})
        return partial(pruner_for, settings, max_steps=max_steps, families=families, name="pruning")

    sides = {name: Side(offkey(name)) for name in ("none", "hyperband", "median", "noise")}
    if pool == "folds":
        return (
            sides
            | {"wilcoxon": Side(offkey("wilcoxon"))}
            | {f"{name}, own": Side(offkey(name), own=True) for name in ("hyperband", "median", "wilcoxon")}
        )
    # All trials beside one another, and from the first epoch on.
    of_all: dict[str, Callable[[], BasePruner]] = {
        "hyperband": partial(HyperbandPruner, min_resource=1, max_resource=max_steps, reduction_factor=3),
        "median": MedianPruner,
        "noise": NoisePruner,
    }
    return sides | {f"{name}, of all": Side(make) for name, make in of_all.items()}


@dataclass(frozen=True)
class Outcome:
    """Of one study."""

    regrets: tuple[float, ...]  # AUC: after each budget, and after the whole pool
    spent: float  # steps of the whole pool, as a share of those without pruning
    stopped: int  # trials
    misjudged: int  # of these, how many would have had the highest AUC so far at their end


def outcome(replay: Replay, side: Side) -> Outcome:
    """What a search with that pruner comes to."""
    study = optuna.create_study(
        study_name="replay", direction="maximize", sampler=RandomSampler(seed=0), pruner=side.make()
    )
    families = CategoricalDistribution(sorted(set(replay.families)))
    spent, complete, stopped = 0, list[tuple[int, int]](), list[bool]()
    for number, reports in enumerate((replay.own if side.own else replay.aucs).tolist()):
        study.enqueue_trial({"family": replay.families[number]})
        trial = study.ask({"family": families})
        for step, auc in enumerate(reports, start=1):
            if step > 1 and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                best = max((replay.aucs[other, -1] for _, other in complete), default=-np.inf)
                stopped.append(replay.aucs[number, -1] > best)
                break
            spent += 1
            if step in replay.noise[number]:
                study._storage.set_trial_system_attr(trial._trial_id, noise_key(step), replay.noise[number][step])
            trial.report(auc, step)
        else:
            study.tell(trial, replay.aucs[number, -1])
            complete.append((spent, number))
    regrets = []
    for budget in (*(trials * replay.aucs.shape[1] for trials in BUDGETS), spent):
        within = [number for end, number in complete if end <= budget]
        chosen = max(within, key=lambda number: replay.aucs[number, -1], default=None)
        regrets.append(np.nan if chosen is None else float(replay.true.max() - replay.true[chosen]))
    return Outcome(tuple(regrets), spent / replay.aucs.size, len(stopped), sum(stopped))


def outcomes(
    pool: str, recorded: Sequence[Scores], families: Sequence[str], truth: Truth, *, clips: int, seed: int
) -> dict[str, Outcome]:
    """Of each side."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if pool == "folds":
        replay = replay_of_folds(recorded, truth, clips=clips, seed=seed)
    else:
        replay = replay_of_curves(recorded, families, truth, clips=clips, seed=seed)
    return {name: outcome(replay, side) for name, side in sides_of(pool).items()}


def quartiles(values: npt.NDArray[np.float64]) -> str:
    low, median, high = np.nanquantile(values, [0.25, 0.5, 0.75])
    return f"{median:.3f} ({low:.3f}–{high:.3f})"


def paired(differences: npt.NDArray[np.float64]) -> str:
    """Mean and its 95 % bootstrap interval over seeds; seeds that are higher and lower."""
    known = differences[~np.isnan(differences)]
    resamples = np.random.default_rng(0).choice(known, (2000, len(known))).mean(axis=1)
    low, high = Interval.of(resamples)
    return f"{known.mean():+.4f} ({low:+.4f} to {high:+.4f}), {(known > 0).sum()} / {(known < 0).sum()}"


def show(pool: str, studies: Sequence[dict[str, Outcome]], *, clips: int) -> None:
    """Medians and quartiles of each side, then its differences from the one that the pool is about."""
    steps, unit, subject = (FOLDS, "models", "wilcoxon, own") if pool == "folds" else (EPOCHS, "epochs", "noise")
    columns = [*(f"regret after {trials * steps} {unit}" for trials in BUDGETS), "regret after the pool"]
    title = f"{pool}: {clips} + {clips} clips of each ID, {len(studies)} seeds"
    table = Table("pruner", f"{unit} spent", *columns, "stopped, to lead", title=f"{title}; median (quartiles)")
    differences = Table(
        "pruner", *columns, title=f"{title}; its regret less that of {subject}, mean (95 %), seeds worse / better"
    )
    regrets = {side: np.array([study[side].regrets for study in studies]) for side in studies[0]}
    for side, of_side in regrets.items():
        spent = np.array([study[side].spent for study in studies])
        stopped = sum(study[side].stopped for study in studies)
        misjudged = sum(study[side].misjudged for study in studies)
        table.add_row(side, quartiles(spent), *map(quartiles, of_side.T), f"{stopped}, {misjudged}")
        if side != subject:
            differences.add_row(side, *map(paired, (of_side - regrets[subject]).T))
    console = Console(width=150)
    console.print(table)
    console.print(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pools", nargs="+", default=list(POOLS), choices=POOLS)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--clips", type=int, nargs="+", default=[6, 12, 30], help="of each label and machine ID")
    parser.add_argument("--jobs", type=int, default=1, help="processes; -1: as many as there are cores")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    record(arguments.folder, arguments.pools)
    for pool in arguments.pools:
        truth = read_truth(arguments.folder / ("folds-truth.npz" if pool == "folds" else "truth.npz"))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        stored = [np.load(file) for file in sorted(arguments.folder.glob(f"{pool}-[0-9]*.npy"))]
        recorded = [scores for scores in stored if len(scores)]
        families = [family_of(pool, number) for number, scores in enumerate(stored) if len(scores)]
        for clips in arguments.clips:
            run = joblib.delayed(outcomes)
            studies = joblib.Parallel(arguments.jobs)(
                run(pool, recorded, families, truth, clips=clips, seed=seed) for seed in range(arguments.seeds)
            )
            show(pool, studies, clips=clips)


if __name__ == "__main__":
    main()
