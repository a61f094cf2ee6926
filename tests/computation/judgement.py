"""From scores to metrics, thresholds and suggestions: on drawn numbers, without a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import optuna
import torch
from optuna.trial import TrialState

from models.layers.masked import log_densities
from models.scoring.calibration import Calibration
from models.scoring.densities.each_id import DensityOfEachId
from models.scoring.pooling import pool
from models.scoring.scores import Scores
from models.scoring.statistics import Statistics, clip_statistics
from models.scoring.threshold import threshold_of
from models.settings import BACKENDS, STATISTICS, Pooling, ScoringSettings
from models.stat import Settings as StatSettings
from models.vae import Settings
from search.detector.optimism import optimism_of
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.evaluate import evaluate
from search.evaluation.interval import Interval
from search.evaluation.metrics import Metric, metric_of
from search.evaluation.noise import noise_of
from search.evaluation.official import Year
from search.evaluation.truth import Truth
from search.sampling.pruning import noise_key
from search.sampling.samplers import pruner_for, sampler_for
from search.storage.optuna_rows import SECONDS
from search.study.search_settings import SearchSettings
from search.study.study_file import study_of_tree
from search.study.trial_recipe import trial_recipe
from tests.computation.case import Case, listed, spread_over, without_clips
from tests.support.points import fitted

_CLIPS_OF_AN_ID = 48

_RNG = np.random.default_rng


def _truth() -> Truth:
    """Three machine IDs of two machines, 24 + 24 clips each, of two domains."""
    ids = ("fan/00", "fan/02", "pump/00")
    count = _CLIPS_OF_AN_ID * len(ids)
    return Truth(
        ids=tuple(name for name in ids for _ in range(_CLIPS_OF_AN_ID)),
        labels=tuple(index % 2 for index in range(count)),
        domains=tuple(("source", "target")[index // 2 % 2] for index in range(count)),
    )


def _scores(truth: Truth, seed: int = 0) -> Scores:
    """Rounded, so that some are equal."""
    return np.round(_RNG(seed).normal(0, 1, len(truth)) + 0.8 * np.array(truth.labels), 1)


def _metrics(metric: Metric, year: Year) -> list[float]:
    """A metric and its resamples."""
    truth = _truth()
    scores = _scores(truth)
    resamples = Bootstrap(truth, resamples=40).metric(metric, scores, year=year)
    return [metric_of(metric, scores, truth, year=year), *spread_over(resamples)]


def _in_folds() -> list[float]:
    """Two folds, in which the clips of the first come again: the AUC, its resamples and the pruner's noise."""
    one = _truth()
    count = len(one)
    truth = Truth(
        ids=one.ids * 2,
        labels=one.labels * 2,
        folds=(0,) * count + (1,) * count,
        recordings=tuple(range(count)) * 2,
    )
    scores = _scores(truth, seed=1)
    noise = noise_of(scores, truth)
    assert noise is not None
    resamples = Bootstrap(truth, resamples=40).aucs(scores)
    return [metric_of("auc", scores, truth), *spread_over(resamples), *spread_over(np.array(noise))]


def _all_metrics() -> list[float]:
    """All metrics of one scoring, the middle of its resamples, and its optimism against another."""
    truth = replace(_truth(), domains=())
    scores, others = _scores(truth), _scores(truth, seed=1)
    found, optimism = evaluate(scores, truth), optimism_of(scores, truth, others, truth)
    assert found.pauc is not None and optimism is not None
    resampled = Interval.of(Bootstrap(truth).aucs(scores))
    return [found.auc, found.pauc, found.pooled, *resampled, optimism.difference]


def _thresholds(threshold: Any) -> list[float]:
    scores = _RNG(2).gamma(3.0, 1.0, 25)
    return [
        threshold_of(part, ScoringSettings(threshold=threshold, false_alarm_rate=rate))
        for part in (scores, -scores, scores[:2])
        for rate in (0.01, 0.1, 0.5)
    ]


def _calibrated(kind: Any) -> list[float]:
    calibration = Calibration(kind)
    calibration.fit(np.round(_RNG(3).normal(2, 1, 20), 1), np.arange(20) % 2)
    return listed(calibration.calibrated(np.linspace(-2, 6, 9), np.array([0, 1, -1] * 3)))


def _pooled(pooling: Pooling) -> list[float]:
    scores = torch.from_numpy(_RNG(4).normal(0, 1, 40).astype(np.float32))
    clips = torch.arange(40) // 13
    return listed(pool(scores, clips, clip_count=4, pooling=pooling, decay=0.8, top_share=0.2).numpy())


def _statistics(**settings: Any) -> list[float]:
    """Of three clips' windows, whose levels have ties."""
    vectors = torch.from_numpy(_RNG(5).normal(0, 1, (20, 3)).astype(np.float32))
    levels = torch.from_numpy(np.round(_RNG(9).normal(-40, 1, 20)).astype(np.float32))
    clips = torch.arange(20) // 7
    batches = [
        (vectors[start : start + 6], levels[start : start + 6], clips[start : start + 6]) for start in range(0, 20, 6)
    ]
    (found,) = clip_statistics(batches, clip_count=3, each=[Statistics.of(StatSettings(**settings))])
    return listed(found)


def _density(score: Any, **settings: Any) -> list[float]:
    rng = _RNG(6)
    points = np.concatenate([rng.normal(0, 1, (14, 3)), rng.normal(3, 2, (10, 3))])
    return listed(fitted(points, score=score, **settings).scores_of(rng.normal(1, 3, (8, 3))))


def _tied(**settings: Any) -> list[float]:
    """Two machine IDs, and clips of both and of neither."""
    densities = DensityOfEachId(Settings(score="mahalanobis", covariance="tied", **settings), ("fan/00", "fan/02"))
    rng = _RNG(6)
    densities.fit(np.concatenate([rng.normal(0, 1, (14, 3)), rng.normal(3, 2, (4, 3))]), np.repeat([0, 1], [14, 4]))
    return listed(densities.scores_of(rng.normal(1, 3, (8, 3)), np.arange(8) % 3 - 1))


def _log_densities(components: int) -> list[float]:
    """Of 12 values, by Gaussians narrower than the narrowest that counts and wider ones."""
    rng = _RNG(8)
    means, spreads, logits = rng.normal(0, 1, (3, 1, components, 12))
    outputs = np.stack([means, 8 * spreads - 4, *([logits] if components > 1 else [])], axis=1)
    values = torch.from_numpy(rng.normal(0, 1, (1, 12)))
    return listed(log_densities(values, torch.from_numpy(outputs)).numpy())


#: By what a study's settings are suggested: blocks of the study file.
_VAE = {"family": "vae", "h_dim": {"low": 4, "high": 64, "log": True}, "z_dim": {"choices": [2, 4, 8]}}
_STAT = {"family": "stat", "decay": {"low": 0.0, "high": 1.0}}
_SAMPLERS: dict[str, dict[str, Any]] = {
    "random": {"model": _VAE, "search": {"sampler": "random", "seed": 5}},
    "tpe": {"model": _VAE, "search": {"sampler": "tpe", "seed": 5}},
    "tpe family by family": {"model": [_VAE, _STAT], "search": {"sampler": "tpe", "seed": 5}},
    "grid": {
        "model": {**_VAE, "h_dim": {"choices": [8, 16]}},
        "training": {"learning_rate": {"choices": [0.01, 0.001]}, "seed": 7},
        "search": {"sampler": "grid", "seed": 5},
    },
}


def _suggestions(blocks: dict[str, Any]) -> list[str]:
    """The settings and seeds of the first trials, of a redraw and of a repeat; each trial's value is its number."""
    rate = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    study = study_of_tree({"study": "golden", "corpus": {"root": "."}, "training": rate, **blocks}, origin="golden")
    suggested: list[str] = []
    trials = optuna.create_study(direction="maximize")
    for number in range(13):
        trials.sampler = sampler_for(study, number, draw=number % 2)
        trial = trials.ask()
        recipe = trial_recipe(study, trial, threads=1, repeat=number % 2)
        trial.set_user_attr(SECONDS, 1.0)  # families share time: what a machine takes decides nothing here
        trials.tell(trial, float(number))
        if number < 4 or number == 12:  # by then TPE has learnt from its own
            settings = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in trial.params.values()]
            suggested.append(f"{' '.join(settings)}, seed {recipe.training.seed}")
    return suggested


def _pruned(pruner: Any) -> list[str]:
    """Which of twenty trials are stopped, and where: their curves rise to drawn heights, with drawn noise."""
    rng = _RNG(7)
    study = optuna.create_study(
        study_name="golden",
        direction="maximize",
        pruner=pruner_for(SearchSettings(pruner=pruner), max_steps=9, name="golden"),
    )
    ends = []
    for number in range(20):
        trial = study.ask()
        height = rng.uniform(0.5, 0.9)
        values = height * (1 - 0.5 ** np.arange(1, 10)) + rng.normal(0, 0.05, 9)
        noises = rng.normal(0, 0.01, (9, 5))
        for step, (value, noise) in enumerate(zip(values, noises, strict=True), start=1):
            trial.storage.set_trial_system_attr(trial._trial_id, noise_key(step), listed(noise))
            trial.report(value, step)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                ends.append(f"trial {number} stopped after {step}")
                break
        else:
            study.tell(trial, values[-1])
    return ends


CASES: dict[str, Case] = {
    **{
        f"metric: {metric} of {year}": without_clips(_metrics, metric, year)
        for metric in get_args(Metric)
        for year in (get_args(Year) if metric == "official" else (2020,))
    },
    "metric: folds": without_clips(_in_folds),
    "metrics and optimism": without_clips(_all_metrics),
    **{f"threshold: {name}": without_clips(_thresholds, name) for name in ("quantile", "gamma")},
    **{f"calibration: {kind}": without_clips(_calibrated, kind) for kind in ("z", "empirical")},
    **{f"pooling: {name}": without_clips(_pooled, name) for name in get_args(Pooling)},
    **{f"pooling of embeddings, decay {decay:g}": without_clips(_statistics, decay=decay) for decay in (1.0, 0.6)},
    **{f"statistic: {name}": without_clips(_statistics, statistic=name, share=0.3) for name in STATISTICS},
    "statistic: a stack, whitened": without_clips(_statistics, statistic="quiet+deviation", share=0.5, whiten=3),
    **{f"density: {backend}": without_clips(_density, backend) for backend in BACKENDS},
    "density: knn of plain distances": without_clips(_density, "knn", local_neighbours=0, neighbours=3),
    "density: gmm of diagonal covariances": without_clips(_density, "gmm", components=9),
    **{f"density: {backend}, standardised": without_clips(_density, backend, standardize=True) for backend in BACKENDS},
    "density: knn of cosine distances": without_clips(_density, "knn", distance="cosine"),
    "density: ocsvm, half outside": without_clips(_density, "ocsvm", nu=0.5),
    "density: mahalanobis, tied": without_clips(_tied, unknown_id="shared"),
    "density: mahalanobis, tied and standardised": without_clips(_tied, unknown_id="shared", standardize=True),
    **{f"density: masked, {count} components": without_clips(_log_densities, count) for count in (1, 3)},
    **{f"pruning: {name}": without_clips(_pruned, name) for name in ("hyperband", "median", "noise", "wilcoxon")},
    **{f"suggestions: {name}": without_clips(_suggestions, blocks) for name, blocks in _SAMPLERS.items()},
}
