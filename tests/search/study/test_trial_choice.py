"""What a trial keeps beside its parameters: the variant that it took, and the parameters without effect."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import create_trial

from search.study.study_file import study_of_tree
from search.study.trial_choice import TakenVariant, choice_of, effective_params, taken_variant

TREE: dict[str, Any] = {
    "study": "here",
    "model": [
        {
            "family": "vae",
            "h_dim": {"low": 4, "high": 64},
            "score": {"choices": ["reconstruction", "knn"]},
            "neighbours": {"choices": [2, 4]},
        },
        {"family": "stat", "score": {"choices": ["knn", "mahalanobis"]}, "neighbours": {"choices": [1, 2]}},
    ],
    "training": {"learning_rate": {"low": 1e-4, "high": 1e-2}},
    "scoring": {"pooling": {"choices": ["mean", "top"]}, "top_share": {"choices": [0.1, 0.5]}},
    "baseline": {},
    "search": {"first": [{"family": "vae", "vae.score": "reconstruction"}]},
}

VAE = {"family": "vae", "h_dim": 8, "learning_rate": 1e-3, "vae.neighbours": 4, "top_share": 0.1}
STAT = {"family": "stat", "learning_rate": 1e-3, "pooling": "mean", "top_share": 0.1, "stat.neighbours": 2}


@pytest.mark.parametrize(
    ("number", "params", "tried", "values", "idle"),
    [
        (1, {**VAE, "vae.score": "knn", "pooling": "mean"}, 7, {"score": "knn", "neighbours": 4},
         {"pooling", "top_share"}),
        (1, {**VAE, "vae.score": "reconstruction", "pooling": "top"}, 7,
         {"score": "reconstruction", "pooling": "top", "top_share": 0.1}, {"vae.neighbours"}),
        (0, {**VAE, "vae.score": "reconstruction", "pooling": "mean"}, 3, {"pooling": "mean"},
         {"vae.neighbours", "top_share"}),
        (1, {**STAT, "stat.score": "mahalanobis"}, 1, None,
         {"learning_rate", "pooling", "top_share", "stat.neighbours"}),
    ],
    ids=["a density", "a pooling", "an entry of search.first has set the score", "nothing trained, nothing to choose"],
)  # fmt: skip
def test_a_choice_is_of_what_has_an_effect(
    number: int, params: dict[str, Any], tried: int, values: dict[str, Any] | None, idle: set[str]
) -> None:
    study = study_of_tree(TREE, origin="here")
    closed_later = {"vae.score", "vae.neighbours", "pooling", "top_share"}
    chosen = {name: value for name, value in params.items() if name in closed_later and tried > 1}

    choice = choice_of(study, number, params, chosen=chosen, tried=tried)

    assert choice.variant == (None if values is None else TakenVariant(values, tried))
    assert choice.idle == idle


def test_a_trial_that_kept_its_choice_shows_it() -> None:
    study = study_of_tree(TREE, origin="here")
    params = {**VAE, "vae.score": "reconstruction", "pooling": "top"}
    chosen = {"vae.score": "reconstruction", "pooling": "top", "top_share": 0.1}
    choice = choice_of(study, 1, params, chosen=chosen, tried=7)
    ranges = study.space.distributions()
    trial = create_trial(
        value=0.5,
        params=params,
        distributions={name: ranges[name] for name in params},
        system_attrs=choice.system_attributes,
    )

    assert taken_variant(trial) == choice.variant
    assert choice.user_attributes == {
        "chosen": "score reconstruction, pooling top, top_share 0.1 (one of 7 tried on this training)"
    }
    assert effective_params(trial) == {name: value for name, value in params.items() if name != "vae.neighbours"}


def test_a_trial_of_an_earlier_version_shows_all_of_its_parameters() -> None:
    ranges = study_of_tree(TREE, origin="here").space.distributions()
    trial = create_trial(value=0.5, params=STAT, distributions={name: ranges[name] for name in STAT})

    assert taken_variant(trial) is None
    assert effective_params(trial) == STAT
