"""A trial has values for those settings alone that have an effect on its detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.trial import FixedTrial

from search.preparation.prepared import prepare
from search.results.export import export_recipe
from search.sampling.samplers import FamilySampler
from search.study.open_setting import Facts, open_setting
from search.study.study import Study
from search.study.study_file import load_study, study_of_tree
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

STAT: dict[str, Any] = {
    "family": "stat",
    "neighbours": {"low": 1, "high": 4},  # before the score, which decides over it
    "score": {"choices": ["mahalanobis", "knn"]},
    "statistic": {"choices": ["mean", "quantile", "quiet+maximum"]},
    "share": {"choices": [0.05, 0.1]},
    "covariance": {"choices": ["own", "tied"]},
}
VAE: dict[str, Any] = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 16}, "z_dim": 2}
CLASSIFIER: dict[str, Any] = {
    "family": "classifier",
    "loss": {"choices": ["cross_entropy", "arcface"]},
    "margin": {"low": 0.1, "high": 0.5},
}
FUSION: dict[str, Any] = {
    "family": "fusion",
    "members": {
        "deep": {"model": VAE, "training": {"batch_size": {"low": 8, "high": 64}}},
        "flat": {"model": {"family": "stat"}, "features": {"kind": "logmel", "n_mels": 16}},
    },
}
SHARED: dict[str, Any] = {
    "features": {
        "n_fft": 512,
        "kind": {"choices": ["logmel", "rms"]},
        "n_mels": {"choices": [16, 32]},
    },
    "training": {"learning_rate": {"low": 1e-4, "high": 1e-2}, "epochs": {"choices": [1, 2]}},
    "scoring": {"pooling": {"choices": ["max", "mean"]}, "calibration": {"choices": ["none", "z"]}},
}


def study_of(*model: dict[str, Any], **blocks: Any) -> Study:
    return study_of_tree({"study": "here", "model": list(model), **SHARED, **blocks}, origin="here")


def suggested(study: Study, values: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a trial in which these values are fixed."""
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked.enqueue_trial(values)
    trial = asked.ask()
    study.space.suggest(trial)
    return dict(trial.params)


STAT_SETTINGS = {"family", "kind", "calibration"}
NETWORK_SETTINGS = {"family", "kind", "learning_rate", "epochs"}


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({"family": "vae", "kind": "logmel"}, {*NETWORK_SETTINGS, "h_dim", "n_mels"}),
        ({"family": "vae", "kind": "rms"}, {*NETWORK_SETTINGS, "h_dim"}),
        ({"family": "classifier", "kind": "rms", "loss": "cross_entropy"}, {*NETWORK_SETTINGS, "loss"}),
        ({"family": "classifier", "kind": "rms", "loss": "arcface"}, {*NETWORK_SETTINGS, "loss", "margin"}),
        (
            {"family": "stat", "kind": "rms", "score": "mahalanobis", "statistic": "mean"},
            {"family", "kind", "score", "statistic", "covariance"},
        ),
        (
            {"family": "stat", "kind": "logmel", "score": "knn", "statistic": "quantile"},
            {"family", "kind", "n_mels", "score", "neighbours", "statistic", "share"},
        ),
        (
            {"family": "stat", "kind": "rms", "score": "knn", "statistic": "quiet+maximum"},
            {"family", "kind", "score", "neighbours", "statistic", "share"},
        ),
    ],
    ids=lambda given: " ".join(given.values()) if isinstance(given, dict) else "",
)
def test_a_trial_is_asked_for_the_settings_that_have_an_effect_beside_its_values(
    values: dict[str, Any], settings: set[str]
) -> None:
    assert suggested(study_of(VAE, STAT, CLASSIFIER), values).keys() == settings


def test_members_have_what_counts_for_each() -> None:
    features = {"n_fft": 512, "n_mels": {"choices": [16, 32]}}
    study = study_of(FUSION, STAT, features=features)

    # n_mels is that of the deep member: the flat one has its own.
    assert suggested(study, {"family": "fusion"}).keys() == {
        "family",
        "n_mels",
        "h_dim",
        "batch_size",
        "learning_rate",
        "epochs",
    }
    alone = study_of_tree(
        {
            "study": "here",
            "model": {**FUSION, "members": {name: {"model": {"family": "stat"}} for name in "ab"}},
            "training": {"calibration_share": {"low": 0.0, "high": 0.5}},
        },
        origin="here",
    )
    assert suggested(alone, {}).keys() == {"calibration_share"}


def test_what_a_trial_has_no_value_for_is_at_its_default_or_at_the_first_value_without_it() -> None:
    study = study_of(VAE, {**STAT, "share": {"choices": [0.3, 0.2]}}, features={"n_fft": 512})

    recipe = study.close(
        FixedTrial(
            {"family": "stat", "score": "mahalanobis", "statistic": "mean", "covariance": "own", "calibration": "z"}
        )
    )

    stat = recipe.model.model_dump()
    assert (stat["neighbours"], stat["share"], recipe.scoring.pooling) == (2, 0.3, "mean")
    assert recipe.training.learning_rate == 1e-3
    for content, rest in (({"low": 5, "high": 9}, 5), ({"low": 1, "high": 9}, 2), ({"choices": [7, 2]}, 2)):
        assert open_setting(("a",), "a", content, Facts(default=2)).at_rest == rest


def test_two_trials_of_a_shipped_study_are_the_same_detector_only_with_the_same_parameters() -> None:
    study = load_study("best", overrides=["features.n_mels=64", "features.normalize=none", "training.epochs=3"])
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    detectors: dict[str, dict[str, Any]] = {}
    for number in range(150):
        asked.enqueue_trial({"family": ("stat", "whole_spectrum")[number % 2]})
        trial = asked.ask()
        study.space.suggest(trial)
        tree = str(study.close(FixedTrial(trial.params)).tree())
        assert detectors.setdefault(tree, trial.params) == trial.params
    assert 30 < len(detectors) < 150, "some came twice"


def test_a_trial_of_an_earlier_version_keeps_its_values_without_effect() -> None:
    study = study_of(VAE, STAT)
    counting = {"family": "stat", "kind": "rms", "score": "mahalanobis", "statistic": "mean", "covariance": "own"}
    counting["calibration"] = "none"
    idle = {"neighbours": 4, "share": 0.05, "learning_rate": 0.005, "epochs": 2, "pooling": "max"}

    recipe = study.close(FixedTrial(counting | idle))

    closed = {**recipe.model.model_dump(), **recipe.training.model_dump()}
    closed["pooling"] = recipe.scoring.pooling
    assert {name: closed[name] for name in idle} == idle


def test_the_sampler_suggests_what_an_entry_leaves_open_and_no_more() -> None:
    space = study_of(VAE, STAT).space
    for seed in range(8):
        asked = optuna.create_study(sampler=FamilySampler(space, seed=seed))
        asked.enqueue_trial({"family": "stat", "kind": "rms", "score": "mahalanobis"})
        trial = asked.ask()

        space.suggest(trial)

        assert trial.params.keys() - {"share"} == {"family", "kind", "score", "statistic", "covariance"}
        assert ("share" in trial.params) == (trial.params["statistic"] != "mean")


def test_a_grid_has_each_detector_once() -> None:
    model = {"family": "stat", "score": {"choices": ["knn", "mahalanobis"]}, "neighbours": {"choices": [1, 2]}}
    tree = {"study": "here", "model": model, "search": {"sampler": "grid"}, "baseline": {"score": "mahalanobis"}}

    study = study_of_tree(tree, origin="here")

    assert study.grid() == [
        {"score": "mahalanobis"},
        {"score": "knn", "neighbours": 1},
        {"score": "knn", "neighbours": 2},
    ]
    assert study.search.trials == 3


def test_a_study_tries_each_detector_once_before_it_repeats_one(tiny_study: MakeStudy) -> None:
    model = {"family": "stat", "score": {"choices": ["knn", "mahalanobis"]}, "neighbours": {"choices": [1, 2]}}
    tiny = tiny_study(model=model, baseline={"score": "mahalanobis", "neighbours": 2}, search={"trials": 3})

    tiny.worker().run()

    trials = trials_of(tiny)
    assert trials[0].params == {"score": "mahalanobis"}, "what the baseline names for nothing is no parameter"
    assert sorted(str(trial.params) for trial in trials[1:]) == [
        "{'score': 'knn', 'neighbours': 1}",
        "{'score': 'knn', 'neighbours': 2}",
    ]
    assert export_recipe(tiny.storage, tiny.stored, number=0).model.model_dump()["neighbours"] == 2


def test_values_that_are_named_for_nothing_are_warned_of_and_make_no_entry_another_one(corpus_root: Path) -> None:
    plain = {"family": "stat", "kind": "rms", "score": "mahalanobis", "statistic": "mean"}
    study = study_of(
        VAE,
        STAT,
        baseline={**plain, "pooling": "max", "h_dim": 8},
        search={"trials": 9, "first": [{**plain, "share": 0.1}, {**plain, "score": "knn", "covariance": "tied"}]},
    )

    ready = prepare(study, default_root=str(corpus_root))

    beside = "family stat, kind rms, score mahalanobis, statistic mean"
    assert ready.warnings == (
        f"baseline: beside {beside}, pooling, h_dim have no effect: leave them out",
        f"search.first: beside {beside}, share has no effect: leave it out",
        f"search.first: beside {beside.replace('mahalanobis', 'knn')}, covariance has no effect: leave it out",
    )
    assert ready.study.search.first == [{**plain, "score": "knn", "covariance": "tied"}]
