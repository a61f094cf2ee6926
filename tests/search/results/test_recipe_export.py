"""A recipe is the same file with every range closed: written, read again, it is the same training bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from search.errors import StudyError
from search.results.export import export_recipe
from search.study.recipe import Recipe
from search.study.study_file import load_study, study_of_tree, to_yaml
from search.study.trial_recipe import trial_recipe

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


def read_again(recipe: Recipe) -> Recipe:
    Path("recipe.yaml").write_text(to_yaml(recipe.tree()), encoding="utf-8")
    study = load_study("recipe.yaml")
    assert study.space.settings == ()
    return study.first_recipe()


@settings(max_examples=60, deadline=None, database=None)
@given(
    learning_rate=st.floats(min_value=0, exclude_min=True, max_value=1e30),
    kld_weight=st.floats(min_value=0, allow_infinity=False),
    share=st.floats(min_value=0, max_value=0.5),
    rate=st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True),
    seed=st.integers(min_value=0),
)
def test_numbers_survive_the_file_bit_for_bit(
    learning_rate: float, kld_weight: float, share: float, rate: float, seed: int
) -> None:
    recipe = Recipe.model_validate(
        {
            "study": "r",
            "model": {"family": "vae", "kld_weight": kld_weight},
            "training": {"learning_rate": learning_rate, "calibration_share": share, "seed": seed},
            "scoring": {"false_alarm_rate": rate},
        }
    )

    assert repr(read_again(recipe).tree()) == repr(recipe.tree())


@settings(max_examples=60, deadline=None, database=None)
@given(
    root=st.text(min_size=1).filter(str.isprintable),
    machines=st.lists(st.text(min_size=1).filter(str.isprintable), min_size=1, max_size=3),
    study=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True),
)
def test_names_survive_the_file_whatever_they_look_like(root: str, machines: list[str], study: str) -> None:
    recipe = Recipe.model_validate(
        {"study": study, "model": {"family": "vae"}, "corpus": {"root": root, "machines": machines}}
    )

    assert read_again(recipe).tree() == recipe.tree()


@pytest.mark.parametrize(
    "name", ["2020", "1e5", "true", "null", "~", "0x1f", "2020-01-01", "a: b", "- a", "x #y", "é ü"]
)
def test_a_machine_may_have_a_name_that_yaml_would_take_for_something_else(name: str) -> None:
    recipe = Recipe.model_validate({"study": "r", "model": {"family": "vae"}, "corpus": {"machines": [name]}})

    assert read_again(recipe).corpus.machines == [name]


def test_what_a_recipe_leaves_out_is_left_out_of_its_file() -> None:
    tree = Recipe.model_validate({"study": "r", "model": {"family": "vae"}}).tree()

    assert tree["corpus"] == {"train_on": "development"}
    assert not {"seed", "threads"} & tree["training"].keys()
    assert "from" not in tree


OPEN: dict[str, Any] = {
    "study": "open",
    "model": {"family": "vae", "h_dim": {"low": 8, "high": 64}},
    "training": {"learning_rate": {"low": 1e-5, "high": 0.1, "log": True}},
    "search": {"seed": 7},
}


def test_each_trial_has_a_seed_of_its_own() -> None:
    study = study_of_tree(OPEN, origin="here")

    seeds = {
        trial_recipe(study, FixedTrial({"h_dim": 8, "learning_rate": 0.1}, number=number), threads=1).training.seed
        for number in range(50)
    }

    assert len(seeds) == 50


def test_another_study_seed_gives_its_trials_other_seeds() -> None:
    trial = FixedTrial({"h_dim": 8, "learning_rate": 0.1}, number=3)

    one = trial_recipe(study_of_tree(OPEN, origin="here"), trial, threads=1)
    other = trial_recipe(study_of_tree({**OPEN, "search": {"seed": 8}}, origin="here"), trial, threads=1)

    assert one.training.seed != other.training.seed


def test_a_seed_that_the_study_gives_is_the_trial_s() -> None:
    tree = {**OPEN, "training": {"seed": 5, "threads": 2}}

    recipe = trial_recipe(study_of_tree(tree, origin="here"), FixedTrial({"h_dim": 8}, number=3), threads=1)

    assert (recipe.training.seed, recipe.training.threads) == (5, 2)


def test_an_exported_recipe_is_a_study_file_that_leaves_nothing_open(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=2)
    tiny.worker().run()

    recipe = export_recipe(tiny.storage, tiny.stored, number=1)
    trial = optuna.load_study(study_name="tiny", storage=tiny.url).trials[1]

    assert read_again(recipe) == recipe
    tree = recipe.tree()
    assert tree["study"] == "tiny-trial-1"
    assert tree["from"] == {"study": "tiny", "trial": 1}
    assert tree["model"]["h_dim"] == trial.params["h_dim"]
    assert tree["training"]["threads"] == trial.user_attrs["threads"] == 1
    assert (
        tree["training"]["seed"] == trial_recipe(tiny.stored.study(), FixedTrial(trial.params, number=1)).training.seed
    )
    assert tree["corpus"]["root"] == str(tiny.root)
    assert not {"search", "baseline"} & tree.keys()


def test_the_recipe_has_the_threads_of_the_trial_and_not_of_whoever_exports_it(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=1, training={"learning_rate": 0.01, "batch_size": 64, "epochs": 1})
    tiny.worker().run()

    torch.set_num_threads(2)

    assert export_recipe(tiny.storage, tiny.stored).training.threads == 1


def test_the_best_trial_is_exported_unless_another_is_asked_for(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=4)
    tiny.worker().run()
    values = [trial.value for trial in optuna.load_study(study_name="tiny", storage=tiny.url).trials]
    best = values.index(max(value for value in values if value is not None))

    exported = [export_recipe(tiny.storage, tiny.stored, number=number).from_ for number in (None, 0, 3)]

    assert [origin.trial for origin in exported if origin is not None] == [best, 0, 3]


def test_a_trial_that_does_not_exist_cannot_be_exported(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=1)
    tiny.worker().run()

    with pytest.raises(StudyError, match="'tiny' has no trial 7; it has trials 0 to 0"):
        export_recipe(tiny.storage, tiny.stored, number=7)


def test_a_study_without_a_complete_trial_has_nothing_to_export(tiny_study: MakeStudy) -> None:
    tiny = tiny_study()

    with pytest.raises(StudyError, match="'tiny' has no complete trial yet"):
        export_recipe(tiny.storage, tiny.stored)
    with pytest.raises(StudyError, match="has no trial 0; it has no trial yet"):
        export_recipe(tiny.storage, tiny.stored, number=0)
