"""Machine types in study files: how a recipe names them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import create_trial

from models.member import OfMachineType
from search.study.effects import idle_settings
from search.study.recipe import Recipe
from search.study.study import Study
from search.study.study_file import load_study, study_of_tree, to_yaml
from search.study.trial_recipe import recipe_of_trial
from tests.support.study_files import refusal


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_recipe_says_of_each_type_all_that_has_an_effect_and_is_the_same_when_read_again() -> None:
    study = study_of_tree(
        {
            "study": "here",
            "model": {
                "family": "fusion",
                "combine": {"choices": ["mean", "weights"]},
                "members": {
                    "deep": {
                        "model": {"family": "ae", "score": {"choices": ["reconstruction", "knn"]}},
                        "weight": {"low": 0.0, "high": 4.0},
                    },
                    "flat": {"model": {"family": "stat", "standardize": True, "decay": {"low": 0.0, "high": 1.0}}},
                },
            },
            "scoring": {"calibration": {"choices": ["none", "z"]}},
            "search": {"scoring_for": "each_machine_type"},
        },
        origin="here",
    )
    fan = {"combine": "weights", "score": "knn", "weight": 2.0, "decay": 1.0, "calibration": "none"}
    pump = {"combine": "mean", "score": "reconstruction", "weight": 1.0, "decay": 0.5, "calibration": "z"}

    recipe = of_types(study, {"fan": fan, "pump": pump})

    written = recipe.tree()["machine_types"]
    assert written["fan"]["model"]["combine"] == "weights"
    assert written["fan"]["model"]["members"]["deep"]["weight"] == 2.0
    assert written["fan"]["model"]["members"]["deep"]["model"]["neighbours"] == 2  # its default, which counts
    assert written["pump"]["model"]["members"]["deep"] == {
        "model": {"score": "reconstruction"},
        "scoring": {"pooling": "mean", "windows": "all"},
    }
    assert written["pump"]["scoring"] == {"calibration": "z"}
    assert "combine" not in recipe.tree()["model"]  # it would look as if it counted
    Path("recipe.yaml").write_text(to_yaml(recipe.tree()))
    assert load_study("recipe.yaml").first_recipe() == recipe


def of_types(study: Study, by_machine: dict[str, dict[str, Any]]) -> Recipe:
    """The recipe of a trial that has taken these values for each machine type."""
    parameters = {f"{machine}.{name}": value for machine, own in by_machine.items() for name, value in own.items()}
    ranges = study.space.distributions()
    trial = create_trial(
        value=0.5,
        params=parameters,
        distributions={key: ranges[key.partition(".")[2]] for key in parameters},
        user_attrs={"machine_types": list(by_machine)},
    )
    trial.number = 3
    return recipe_of_trial(study, trial, threads=1)


STUDY = "study: here\nmodel: {family: vae, h_dim: 8}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "machine_types:\n  fan:\n    model: {h_dim: 4}\n",
            "study.yaml, line 5: machine_types.fan.model.h_dim changes the training, which all machine types share: "
            "set it beside `machine_types`",
            id="a setting of the training",
        ),
        pytest.param(
            "machine_types:\n  fan:\n    scoring:\n      poolin: max\n",
            "study.yaml, line 6: machine_types.fan.scoring.poolin is not a setting; did you mean pooling?",
            id="a typing error",
        ),
        pytest.param(
            "machine_types:\n  fan:\n    model: {neighbours: 0, score: knn}\n",
            "study.yaml, line 5: machine_types.fan.model.neighbours should be greater than or equal to 1, but got 0",
            id="a value outside of its range",
        ),
        pytest.param(
            "machine_types:\n  fan:\n    model:\n      neighbours: 4\n",
            "study.yaml, line 6: machine_types.fan.model.neighbours has no effect beside the other settings: leave it "
            "out",
            id="a setting without effect",
        ),
        pytest.param(
            "machine_types: {}\n",
            "study.yaml, line 3: machine_types must name each machine type whose clips are scored, but names none: "
            "leave it out",
            id="no machine type",
        ),
        pytest.param(
            "machine_types:\n  fan: {features: {n_mels: 4}}\n",
            "study.yaml, line 4: machine_types.fan.features is not a setting; known here: model, scoring",
            id="another block",
        ),
        pytest.param(
            "machine_types:\n  fan: {scoring: {pooling: {choices: [max, mean]}}}\n",
            "study.yaml, line 4: machine_types.fan.scoring.pooling holds a range, but this setting cannot be searched: "
            "give one value",
            id="a range",
        ),
        pytest.param(
            "search:\n  scoring_for: each_machine_type\n",
            "study.yaml, line 4: search.scoring_for has nothing to choose: no setting is open that a trial closes "
            "after its training. Open one, such as scoring.pooling or model.score, or leave it out",
            id="nothing to close",
        ),
        pytest.param(
            "scoring: {pooling: {choices: [max, mean]}}\nmachine_types: {fan: {}}\n"
            "search: {scoring_for: each_machine_type}\n",
            "study.yaml, line 4: machine_types says what search.scoring_for would choose: leave one of the two out",
            id="said twice",
        ),
    ],
)
def test_what_a_machine_type_cannot_have_is_refused_where_it_stands(text: str, message: str) -> None:
    assert refusal(STUDY + text) == message


def test_a_type_inherits_what_has_no_effect_beside_it_without_a_warning_and_keeps_it_when_written() -> None:
    tree = {
        "study": "here",
        "model": {"family": "vae", "score": "reconstruction", "standardize": True, "neighbours": 8},
        "machine_types": {"fan": {"model": {"score": "knn"}}, "pump": {"scoring": {"pooling": "max"}}},
    }

    study = study_of_tree(tree, origin="here")

    assert idle_settings(study.space) == []
    recipe = study.first_recipe()
    assert getattr(recipe.member.of_machine_types["fan"].model, "neighbours") == 8  # noqa: B009
    assert recipe.tree()["model"]["standardize"] is True
    Path("recipe.yaml").write_text(to_yaml(recipe.tree()))
    assert load_study("recipe.yaml").first_recipe() == recipe


def test_a_recipe_made_in_code_is_refused_too() -> None:
    tree = {"study": "here", "model": {"family": "vae"}, "machine_types": {"fan": {"model": {"z_dim": 4}}}}

    with pytest.raises(ValueError, match=r"fan\.model\.z_dim changes the training"):
        Recipe.model_validate(tree)


def test_statistics_of_stat_are_closed_for_each_type_and_otherwise_by_the_sampler() -> None:
    tree = {"study": "here", "model": {"family": "stat", "statistic": {"choices": ["mean", "quiet"]}}}
    shared, of_each = (
        study_of_tree(tree | {"search": search}, origin="here") for search in ({}, {"scoring_for": "each_machine_type"})
    )

    assert [setting.is_scoring for study in (shared, of_each) for setting in study.space.settings] == [False, True]
    assert (shared.search.trials, of_each.search.trials) == (100, 1)  # all trials would be the same
    recipe = of_types(of_each, {"fan": {"statistic": "quiet"}, "pump": {"statistic": "mean"}})
    assert recipe.machine_types is not None
    assert recipe.machine_types["fan"] == OfMachineType(
        model={
            "score": "mahalanobis",
            "standardize": False,
            "covariance": "own",
            "statistic": "quiet",
            "share": 0.1,
            "whiten": 0,
        },
        scoring={},
    )
