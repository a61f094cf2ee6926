"""`training.precision: auto` is closed once, with the trial, and stays closed in its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial

from search.study.precision import precision_of, with_precision
from search.study.recipe import Origin, Recipe
from search.study.study_file import load_study, study_of_tree, to_yaml
from search.study.trial_recipe import trial_recipe

VAE: dict[str, Any] = {"family": "vae"}
STAT: dict[str, Any] = {"family": "stat"}


def recipe_of(model: dict[str, Any], **training: Any) -> Recipe:
    return Recipe.model_validate({"study": "closing", "model": model, "training": training})


def ensemble_of(**members: dict[str, Any]) -> dict[str, Any]:
    return {"family": "fusion", "members": members}


def closed(recipe: Recipe, native: str) -> Recipe:
    return with_precision(recipe, None, native=lambda: native)  # type: ignore[arg-type,return-value]


def not_asked() -> Any:
    pytest.fail("the device was asked")


def precisions(recipe: Recipe) -> dict[str, str]:
    return {name: member.training.precision for name, member in recipe.ensemble.items()}


@pytest.mark.parametrize("native", ["float32", "bfloat16"])
def test_auto_becomes_what_the_device_computes_natively(native: str) -> None:
    recipe = closed(recipe_of(VAE), native)

    assert recipe.training.precision == precision_of(recipe) == native


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_set_is_used_on_every_device_which_is_not_asked(precision: str) -> None:
    recipe = with_precision(recipe_of(VAE, precision=precision), None, native=not_asked)

    assert recipe.training.precision == precision_of(recipe) == precision


def test_what_trains_no_network_has_no_precision_and_its_device_is_not_asked() -> None:
    recipe = with_precision(recipe_of(STAT), None, native=not_asked)

    assert precision_of(recipe) == "float32"
    assert "precision" not in recipe.tree()["training"]


MIXED = ensemble_of(
    old={"model": VAE, "training": {"precision": "float32"}},
    levels={"model": STAT},
    open={"model": VAE},
    coarse={"model": VAE, "training": {"precision": "bfloat16"}},
)


@pytest.mark.parametrize(
    ("native", "word", "of_members"),
    [
        ("bfloat16", "float32+bfloat16+bfloat16", ["float32", "bfloat16", "bfloat16"]),
        ("float32", "float32+float32+bfloat16", ["float32", "float32", "bfloat16"]),
    ],
)
def test_members_are_closed_each_by_its_own_setting_and_one_word_closes_them_again_on_any_host(
    native: str, word: str, of_members: list[str]
) -> None:
    recipe = closed(recipe_of(MIXED), native)

    assert precision_of(recipe) == word
    assert [precisions(recipe)[name] for name in ("old", "open", "coarse")] == of_members
    assert with_precision(recipe_of(MIXED), word, native=not_asked) == recipe


def test_members_that_agree_are_one_word() -> None:
    recipe = closed(recipe_of(ensemble_of(a={"model": VAE}, b={"model": STAT}, c={"model": VAE})), "bfloat16")

    assert precision_of(recipe) == "bfloat16"
    assert "auto" not in to_yaml(recipe.tree())


@pytest.mark.parametrize("model", [VAE, STAT, MIXED], ids=["a network", "a density", "an ensemble"])
def test_a_closed_recipe_that_was_exported_is_the_same_when_it_is_read_again(model: dict[str, Any]) -> None:
    recipe = closed(recipe_of(model), "bfloat16").model_copy(update={"from_": Origin(study="s", trial=1)})
    Path("recipe.yaml").write_text(to_yaml(recipe.tree()))

    read = load_study("recipe.yaml").first_recipe()

    assert read == recipe
    assert with_precision(read, None, native=not_asked) == recipe


@pytest.mark.parametrize("model", [VAE, ensemble_of(a={"model": VAE}, b={"model": VAE})], ids=["one", "an ensemble"])
def test_an_exported_recipe_without_a_precision_is_of_an_offkey_that_had_float32_alone(model: dict[str, Any]) -> None:
    tree = {"study": "old", "from": {"study": "s", "trial": 1}, "model": model}

    for training in ({}, {"training": {"epochs": 3}}):
        recipe = Recipe.model_validate(tree | training)
        assert {member.training.precision for member in recipe.members} == {"float32"}


def test_a_recipe_written_by_hand_leaves_its_precision_to_the_device() -> None:
    assert recipe_of(VAE).training.precision == "auto"


def test_a_trial_keeps_the_precision_with_which_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of_tree({"study": "s", "model": {**VAE, "h_dim": {"low": 8, "high": 64}}}, origin="here")
    trial = FixedTrial({"h_dim": 8})
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}, raising=False)

    assert trial_recipe(study, trial, threads=1).training.precision == "bfloat16"
    assert trial_recipe(study, trial, threads=1, precision="float32").training.precision == "float32"


def test_a_study_may_search_it() -> None:
    tree = {"study": "s", "model": VAE, "training": {"precision": {"choices": ["auto", "float32"]}}}
    study = study_of_tree(tree, origin="here")

    for choice, word in (("auto", "bfloat16"), ("float32", "float32")):
        recipe = trial_recipe(study, FixedTrial({"precision": choice}), threads=1, precision="bfloat16")
        assert recipe.training.precision == word
