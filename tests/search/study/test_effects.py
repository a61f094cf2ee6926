"""Settings of densities that nothing reads are refused, and stand in no recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from features.clips.corpus import read_corpus
from search.study.identity import identity_of
from search.study.recipe import Recipe
from search.study.study import Study
from search.study.study_file import to_yaml
from tests.support.study_files import load, refusal


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def study(model: str) -> str:
    return f"study: a\nmodel:\n  {model}\n"


@pytest.mark.parametrize(
    ("model", "key", "score"),
    [
        ("{family: stat, distance: cosine}", "distance", "knn"),
        ("{family: stat, distance: cosine, covariance: tied}", "distance", "knn"),
        ("{family: stat, score: knn, distance: cosine, covariance: tied}", "covariance", "mahalanobis"),
        ("{family: stat, score: {choices: [gmm, lof]}, covariance: tied}", "covariance", "mahalanobis"),
        ("{family: cae, score: knn, nu: 0.2}", "nu", "ocsvm"),
        ("{family: vae, standardize: true}", "standardize", "mahalanobis or gmm or knn or lof or ocsvm or exposure"),
        (
            "{family: classifier, score: cosine, standardize: true}",
            "standardize",
            "mahalanobis or gmm or knn or lof or ocsvm or exposure",
        ),
    ],
)
def test_a_value_that_no_possible_score_reads_is_refused(model: str, key: str, score: str) -> None:
    assert refusal(study(model)) == (
        f"study.yaml, line 3: model.{key} has no effect: it counts with model.score: {score}. "
        f"Set that, or leave {key} out"
    )


def test_the_family_or_member_of_a_refused_value_is_named() -> None:
    listed = "study: a\nmodel:\n  - {family: vae}\n  - family: stat\n    nu: 0.2\n"
    members = "study: a\nmodel:\n  family: fusion\n  members:\n    x: {model: {family: vae}}\n    y:\n"

    assert refusal(listed).startswith("study.yaml, line 5: model.1.nu has no effect: it counts with model.score: ocsvm")
    assert refusal(members + "      model: {family: stat, nu: 0.2}\n").startswith(
        "study.yaml, line 7: model.members.y.model.nu has no effect"
    )


def test_a_value_of_the_command_line_is_refused_alike() -> None:
    assert refusal(study("{family: stat}"), "model.distance=cosine").startswith(
        "setting model.distance=cosine: model.distance has no effect"
    )


@pytest.mark.parametrize(
    "model",
    [
        "{family: stat, score: {choices: [knn, mahalanobis]}, distance: cosine, covariance: tied}",
        "{family: stat, score: {choices: [gmm, ocsvm]}, nu: {low: 0.01, high: 0.5}}",
        "{family: vae, score: {choices: [reconstruction, knn]}, standardize: true}",
        "{family: stat, standardize: {choices: [false, true]}, covariance: {choices: [own, tied]}}",
        "{family: vae, standardize: false, covariance: own, distance: euclidean, nu: 0.1}",  # the defaults
    ],
)
def test_what_some_score_reads_is_searched_or_set(model: str) -> None:
    load(study(model))


def test_a_range_that_no_score_reads_is_refused_as_any_other() -> None:
    assert refusal(study("{family: stat, distance: {choices: [euclidean, cosine]}}")) == (
        "study.yaml, line 3: model.distance would be searched for nothing: it counts with model.score: knn"
    )


def test_a_covariance_tied_to_no_other_id_is_refused_and_may_be_one_of_the_choices() -> None:
    assert refusal(study("{family: stat, covariance: tied, per_id: true}")) == (
        "study.yaml, line 2: model covariance: tied takes several machine IDs in one model, but per_id: true makes a "
        "model for each: set per_id: false or covariance: own"
    )
    load(study("{family: stat, covariance: {choices: [tied, own]}, per_id: {choices: [true, false]}}"))


def test_an_exported_recipe_with_an_edited_score_is_refused_too() -> None:
    recipe = recipe_of({"family": "stat", "score": "knn", "distance": "cosine"})
    text = to_yaml({**recipe.tree(), "from": {"study": "other", "trial": 3}})

    load(text)

    assert "model.distance has no effect" in refusal(text, "model.score=gmm")


def recipe_of(model: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"study": "a", "model": model})


@pytest.mark.parametrize(
    ("chosen", "written"),
    [
        ({"score": "knn", "distance": "cosine", "covariance": "tied", "nu": 0.3}, {"distance": "cosine"}),
        (
            {"score": "mahalanobis", "covariance": "tied", "standardize": True},
            {"covariance": "tied", "standardize": True},
        ),
        ({"score": "ocsvm", "nu": 0.3, "distance": "cosine"}, {"nu": 0.3}),
        ({"score": "gmm", "nu": 0.1, "standardize": False}, {}),
    ],
)
def test_a_recipe_names_them_only_where_they_change_something(chosen: dict[str, Any], written: dict[str, Any]) -> None:
    stat = {"family": "stat", **chosen}
    tree = recipe_of(stat).tree()["model"]
    member = recipe_of({"family": "fusion", "members": {"x": {"model": stat}, "y": {"model": stat}}}).tree()["model"]

    for model in (tree, member["members"]["x"]["model"]):
        assert {key: model[key] for key in ("standardize", "covariance", "distance", "nu") if key in model} == written


def test_a_study_that_writes_out_their_defaults_is_the_same_study(corpus_root: Path) -> None:
    corpus = read_corpus(corpus_root)

    def identity(study: Study) -> Any:
        return identity_of(study, corpus)["study"]

    plain = load(study("{family: stat, score: {choices: [knn, ocsvm]}}"))
    spelt = load(study("{family: stat, score: {choices: [knn, ocsvm]}, nu: 0.1, distance: euclidean}"))
    other = load(study("{family: stat, score: {choices: [knn, ocsvm]}, nu: 0.2}"))

    assert identity(plain) == identity(spelt) != identity(other)
