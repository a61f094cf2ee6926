"""The detectors that a trial makes of one training: which combinations, in which order."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from search.errors import StudyFileError
from search.study.study import Study
from search.study.study_file import study_of_tree
from search.study.variants import Variant, variants_of

VAE = {"family": "vae", "context": 2, "h_dim": {"low": 4, "high": 64}, "z_dim": 2}


def study_with(model: dict[str, Any] | list[dict[str, Any]], **blocks: Any) -> Study:
    return study_of_tree({"study": "here", "model": model, "training": {"threads": 1}, **blocks}, origin="here")


def variants_in(study: Study, *, number: int = 1) -> tuple[Variant, ...]:
    """The variants of a trial of Optuna's with this number."""
    fresh = optuna.create_study()
    for _ in range(number):
        fresh.ask()
    return variants_of(study, fresh.ask(), study.close)


def values_in(study: Study, *, number: int = 1) -> list[dict[str, Any]]:
    return [dict(variant.values) for variant in variants_in(study, number=number)]


def test_the_defaults_come_first_and_every_other_choice_once() -> None:
    study = study_with(
        VAE, scoring={"pooling": {"choices": ["max", "mean"]}, "calibration": {"choices": ["z", "none"]}}
    )

    assert values_in(study) == [
        {"pooling": "mean", "calibration": "none"},
        {"pooling": "mean", "calibration": "z"},
        {"pooling": "max", "calibration": "none"},
        {"pooling": "max", "calibration": "z"},
    ]
    assert [variant.changes for variant in variants_in(study)] == [0, 1, 1, 2]


def test_the_parameters_of_a_trial_are_those_of_its_training_alone() -> None:
    study = study_with({**VAE, "score": {"choices": ["reconstruction", "knn"]}})
    trial = optuna.create_study().ask()

    variants = variants_of(study, trial, study.close)

    assert trial.params.keys() == {"h_dim"}
    assert {variant.recipe.model.model_dump()["h_dim"] for variant in variants} == {trial.params["h_dim"]}


def test_a_variant_names_the_settings_that_have_an_effect_alone_and_each_combination_of_these_is_one() -> None:
    study = study_with(
        {**VAE, "score": {"choices": ["reconstruction", "knn", "mahalanobis"]}, "neighbours": {"choices": [2, 4]}},
        scoring={"pooling": {"choices": ["mean", "top"]}, "top_share": {"choices": [0.1, 0.5]}},
    )

    assert values_in(study) == [
        {"score": "reconstruction", "pooling": "mean"},
        {"score": "reconstruction", "pooling": "top", "top_share": 0.1},
        {"score": "reconstruction", "pooling": "top", "top_share": 0.5},
        {"score": "knn", "neighbours": 2},
        {"score": "knn", "neighbours": 4},
        {"score": "mahalanobis"},
    ]


@pytest.mark.parametrize(
    ("opened", "tried"),
    [
        ({"low": 1, "high": 4}, [2, 1, 4]),  # 2 is the default
        ({"low": 1, "high": 100}, [2, 1, 4, 8]),
        ({"low": 5, "high": 7}, [5, 7]),  # none of the grid's
        ({"choices": [3, 5]}, [3, 5]),
    ],
)
def test_a_few_values_stand_for_a_range(opened: dict[str, Any], tried: list[int]) -> None:
    study = study_with({**VAE, "score": "knn", "neighbours": opened})

    assert [values["neighbours"] for values in values_in(study)] == tried


def test_what_the_baseline_sets_is_closed_in_its_trial() -> None:
    study = study_with(
        VAE,
        scoring={"pooling": {"choices": ["mean", "max"]}, "calibration": {"choices": ["none", "z"]}},
        baseline={"pooling": "max"},
    )

    assert values_in(study, number=0) == [
        {"pooling": "max", "calibration": "none"},
        {"pooling": "max", "calibration": "z"},
    ]
    assert len(values_in(study, number=1)) == 4


def test_a_trial_whose_parameters_are_given_has_one_variant() -> None:
    study = study_with(VAE, scoring={"pooling": {"choices": ["mean", "max"]}})

    (variant,) = variants_of(study, FixedTrial({"h_dim": 8, "pooling": "max"}), study.close)

    assert variant.recipe.scoring.pooling == "max"


def test_a_family_without_a_training_leaves_its_settings_to_the_sampler() -> None:
    study = study_with(
        {"family": "stat", "score": {"choices": ["mahalanobis", "knn"]}, "decay": {"low": 0.0, "high": 1.0}}
    )
    trial = optuna.create_study().ask()

    (variant,) = variants_of(study, trial, study.close)

    assert trial.params.keys() == {"score", "decay"}
    assert variant.values == {}


def test_members_of_an_ensemble_share_their_networks_too() -> None:
    study = study_with(
        {
            "family": "fusion",
            "combine": {"choices": ["mean", "weights"]},
            "members": {
                "deep": {
                    "model": VAE,
                    "weight": {"choices": [1.0, 2.0]},
                    "scoring": {"pooling": {"choices": ["mean", "max"]}},
                },
                "flat": {"model": {"family": "stat"}},
            },
        }
    )

    assert [(v["combine"], v.get("weight"), v["pooling"]) for v in values_in(study)] == [
        ("mean", None, "mean"),
        ("mean", None, "max"),
        ("weights", 1.0, "mean"),
        ("weights", 1.0, "max"),
        ("weights", 2.0, "mean"),
        ("weights", 2.0, "max"),
    ]


def test_a_study_with_too_many_combinations_for_each_training_is_refused() -> None:
    many = {"choices": list(range(1, 41))}

    with pytest.raises(
        StudyFileError, match=r"model\.neighbours.* 1,600 combinations .*neighbours \(40\), local_neighbours \(40\)"
    ):
        study_with({**VAE, "score": "knn", "neighbours": many, "local_neighbours": many})
