"""Ensembles in study files and recipes: open settings of members, what they leave out, and members that are recipes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from features.clips.corpus import read_corpus
from search.detector.bundle import load_bundle, save_bundle
from search.detector.scored_clips import score_clips
from search.errors import StudyFileError
from search.results.export import export_recipe
from search.study.ensembles import ensemble_of, seed_groups
from search.study.recipe import Recipe
from search.study.study_file import load_study, study_of_tree, to_yaml
from search.study.trial_recipe import trial_recipe
from tests.support.detectors import detector_of
from tests.support.study_files import load, refusal

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    Offkey = Callable[..., Ran]
    MakeStudy = Callable[..., TinyStudy]

CPU = torch.device("cpu")

STUDY = """\
study: pair
features: {n_fft: 512}
model:
  family: fusion
  combine: {choices: [mean, min, rank]}
  members:
    logmel:
      features: {kind: logmel, n_mels: 32}
      model: {family: vae, h_dim: {low: 8, high: 64}, z_dim: {low: 2, high: 8}}
    chroma:
      features: {kind: chroma}
      model: {family: vae, h_dim: {low: 4, high: 16}}
      training: {epochs: 5}
training: {epochs: 3, learning_rate: 0.01, batch_size: 64}
baseline: {combine: mean, logmel.h_dim: 16, chroma.h_dim: 8, z_dim: 4}
"""

CLOSED = {"combine": "min", "logmel.h_dim": 9, "chroma.h_dim": 5, "z_dim": 3}


def members_of(recipe: Recipe) -> dict[str, Any]:
    return {name: member.model_dump() for name, member in recipe.ensemble.items()}


def test_an_open_setting_has_its_own_name_with_the_member_in_front_where_several_share_it() -> None:
    assert load(STUDY).space.distributions() == {
        "combine": CategoricalDistribution(["mean", "min", "rank"]),
        "logmel.h_dim": IntDistribution(8, 64),
        "z_dim": IntDistribution(2, 8),
        "chroma.h_dim": IntDistribution(4, 16),
    }


def test_a_setting_of_all_members_keeps_its_name_beside_a_member_s_own() -> None:
    study = load(
        STUDY.replace("epochs: 3", "epochs: {low: 1, high: 3}").replace("epochs: 5", "epochs: {low: 1, high: 5}")
    )

    assert {"epochs", "chroma.epochs"} <= study.space.distributions().keys()
    recipe = study.close(FixedTrial({**CLOSED, "epochs": 2, "chroma.epochs": 4}))
    assert {name: member["training"]["epochs"] for name, member in members_of(recipe).items()} == {
        "logmel": 2,
        "chroma": 4,
    }


def test_a_trial_closes_the_settings_of_each_member() -> None:
    recipe = load(STUDY).close(FixedTrial(CLOSED))

    members = members_of(recipe)
    assert recipe.model.model_dump()["combine"] == "min"
    assert (members["logmel"]["model"]["h_dim"], members["chroma"]["model"]["h_dim"]) == (9, 5)
    assert members["logmel"]["model"]["z_dim"] == 3


def test_what_a_member_leaves_out_is_as_the_study_says() -> None:
    members = members_of(load(STUDY).close(FixedTrial(CLOSED)))

    assert [member["features"]["n_fft"] for member in members.values()] == [512, 512]
    assert [member["training"]["epochs"] for member in members.values()] == [3, 5]
    assert [member["training"]["learning_rate"] for member in members.values()] == [0.01, 0.01]


def test_a_trial_s_seed_reaches_members_without_their_own_and_a_repeat_changes_all() -> None:
    # Handed down, the study's seed would be a repeat's seed too.
    study = load(STUDY.replace("{epochs: 5}", "{epochs: 5, seed: 9}").replace("{epochs: 3,", "{epochs: 3, seed: 4,"))

    recipe = trial_recipe(study, FixedTrial(CLOSED), threads=1, repeat=2)

    assert recipe.training.seed == 6
    assert [member["training"]["seed"] for member in members_of(recipe).values()] == [None, 9 + 2]


def test_an_exported_ensemble_is_complete_and_read_again_it_is_the_same() -> None:
    recipe = trial_recipe(load(STUDY), FixedTrial(CLOSED), threads=1)

    Path("recipe.yaml").write_text(to_yaml(recipe.tree()))

    assert load_study("recipe.yaml").first_recipe() == recipe
    chroma = recipe.tree()["model"]["members"]["chroma"]
    assert chroma["features"]["n_chroma"] == 12
    assert chroma["training"].keys() == {"learning_rate", "batch_size", "epochs", "precision"}


@pytest.mark.parametrize(
    ("right", "wrong", "place", "rule"),
    [
        (
            "n_mels: 32",
            "n_mells: 32",
            "line 8: model.members.logmel.features.n_mells",
            "is not a setting; did you mean n_mels?",
        ),
        (
            "h_dim: {low: 8,",
            "h_dmi: {low: 8,",
            "line 9: model.members.logmel.model.h_dmi",
            "is not a setting; did you mean h_dim?",
        ),
        (
            "training: {epochs: 5}",
            "trainin: {epochs: 5}",
            "line 13: model.members.chroma.trainin",
            "is not a setting; did you mean training?",
        ),
        (
            "{epochs: 5}",
            "{epoch: 5}",
            "line 13: model.members.chroma.training.epoch",
            "is not a setting; did you mean epochs?",
        ),
        ("{epochs: 3,", "{epoch: 3,", "line 14: training.epoch", "is not a setting; did you mean epochs?"),
        (
            "family: vae, h_dim: {low: 4",
            "family: vea, h_dim: {low: 4",
            "line 12: model.members.chroma.model.family",
            "there is no model family 'vea'; did you mean vae?",
        ),
        (
            "h_dim: {low: 4, high: 16}",
            "h_dim: {low: 64, high: 16}",
            "line 12: model.members.chroma.model.h_dim",
            "low ≤ high must hold",
        ),
        (
            "h_dim: {low: 4, high: 16}",
            "h_dim: many",
            "line 12: model.members.chroma.model.h_dim",
            "should be a valid integer, but got 'many'",
        ),
        (
            "{kind: chroma}",
            "{kind: chroma, n_mels: 32}",
            "line 11: model.members.chroma.features.n_mels",
            "has no effect on chroma",
        ),
        ("{n_fft: 512}", "{n_fft: 512, n_mfcc: 9}", "line 2: features.n_mfcc", "has no effect on logmel, chroma"),
        (
            "{n_fft: 512}",
            "{n_fft: 512, n_mels: {low: 8, high: 16}}",
            "line 2: features.n_mels",
            "would be searched for nothing: it has no effect on chroma",
        ),
        (
            "{kind: chroma}",
            "{kind: chroma, sample_rate: {choices: [8000, 16000]}}",
            "line 11: model.members.chroma.features.sample_rate",
            "holds a range",
        ),
        (
            "{kind: chroma}",
            "{kind: chroma, resample: {choices: [true, false]}}",
            "line 11: model.members.chroma.features.resample",
            "holds a range",
        ),
        (
            "{kind: chroma}",
            "{kind: chroma, channel: {choices: [0, 1]}}",
            "line 11: model.members.chroma.features.channel",
            "holds a range",
        ),
        (
            "{epochs: 5}",
            "{epochs: 5, threads: 1}",
            "line 13: model.members.chroma.training.threads",
            "is one for all members: set it in the study's `training:`",
        ),
        (
            "{epochs: 5}",
            "{calibration_share: 0.2}",
            "line 13: model.members.chroma.training.calibration_share",
            "is one for all members",
        ),
        (
            "training: {epochs: 5}",
            "scoring: {threshold: gamma}",
            "line 13: model.members.chroma.scoring.threshold",
            "is one for all members",
        ),
        (
            "training: {epochs: 5}",
            "weight: {low: 0, high: 1}",
            "line 13: model.members.chroma.weight",
            "would be searched for nothing: it counts with model.combine: weights",
        ),
        (
            "training: {epochs: 5}",
            "scoring: {decay: {low: 0, high: 1}}",
            "line 13: model.members.chroma.scoring.decay",
            "would be searched for nothing: it counts with model.members.chroma.scoring.pooling: gwrp",
        ),
        ("  combine:", "  per_id: true\n  combine:", "line 5: model.per_id", "is for members, each by its own"),
        (
            "  combine:",
            "  per_id: {choices: [true, false]}\n  combine:",
            "line 5: model.per_id",
            "is for members, each by its own",
        ),
        (
            "chroma.h_dim: 8",
            "chorma.h_dim: 8",
            "line 15: baseline.chorma.h_dim",
            "is not an open setting; did you mean chroma.h_dim?",
        ),
        ("chroma.h_dim: 8", "chroma.h_dim: 99", "line 15: baseline.chroma.h_dim", "must lie in its range, 4 to 16"),
        (
            STUDY[STUDY.index("    logmel:") : STUDY.index("    chroma:")],
            "",
            "line 6: model.members",
            "an ensemble has two members at least, but got 1",
        ),
        ("n_mels: 32", "n_mels: 300", "line 8: model.members.logmel.features", "n_mels ≤ n_fft / 2 must hold"),
        ("    chroma:\n", "    chro.ma:\n", "line 6: model.members", "a member's name is of letters, digits"),
    ],
)
def test_a_mistake_in_a_member_is_refused_with_its_place(right: str, wrong: str, place: str, rule: str) -> None:
    assert refusal(STUDY.replace(right, wrong)).startswith(f"study.yaml, {place} {rule}")


@pytest.mark.parametrize(
    ("block", "open_setting"),
    [
        ("features: {n_fft: 512, n_chroma: 24}", None),
        ("features: {n_fft: 512, n_chroma: {choices: [12, 24]}}", "n_chroma"),
        ("features: {n_fft: {choices: [512, 1024]}}", "n_fft"),
        ("features: {n_fft: 512}\nscoring: {pooling: {choices: [mean, max]}}", "pooling"),
    ],
)
def test_a_setting_of_the_study_that_one_member_uses_is_accepted(block: str, open_setting: str | None) -> None:
    study = load(STUDY.replace("features: {n_fft: 512}", block, 1))

    assert open_setting is None or open_setting in study.space.distributions()


def test_a_setting_that_each_member_has_of_its_own_is_searched_for_nothing() -> None:
    text = STUDY.replace("epochs: 3", "epochs: {low: 1, high: 3}").replace(
        "n_mels: 32}", "n_mels: 32}\n      training: {epochs: 2}"
    )

    assert "training.epochs would be searched for nothing: each member has its own" in refusal(text)


def test_a_rule_between_a_member_s_settings_and_the_study_s_may_hold_at_some_corners() -> None:
    text = STUDY.replace("n_mels: 32", "n_mels: {choices: [200, 32]}").replace(
        "n_fft: 512", "n_fft: {choices: [256, 512]}"
    )

    recipe = load(text).first_recipe()

    logmel = recipe.ensemble["logmel"].features
    assert logmel.n_mels <= logmel.n_fft // 2


@pytest.mark.parametrize(
    ("override", "member", "path", "value"),
    [
        ("model.members.chroma.model.h_dim=7", "chroma", ("model", "h_dim"), 7),
        ("model.members.chroma.features.n_chroma=24", "chroma", ("features", "n_chroma"), 24),
        ("model.members.logmel.training.epochs=1", "logmel", ("training", "epochs"), 1),
        ("training.epochs=1", "logmel", ("training", "epochs"), 1),
        ("model.members.logmel.weight=2.5", "logmel", ("weight",), 2.5),
    ],
)
def test_set_reaches_into_members(override: str, member: str, path: tuple[str, ...], value: object) -> None:
    found: Any = members_of(load(STUDY, override).first_recipe())[member]

    for key in path:
        found = found[key]
    assert found == value


def test_a_setting_closed_by_set_leaves_the_baseline_and_the_other_member_s_name_follows() -> None:
    assert load(STUDY, "model.members.chroma.model.h_dim=7").baseline == {"combine": "mean", "h_dim": 16, "z_dim": 4}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.members.chrmoa.model.h_dim=7", "there is no member chrmoa; did you mean chroma?"),
        (
            "model.members.chroma.model.h_dmi=7",
            "model.members.chroma.model.h_dmi is not a setting; did you mean h_dim?",
        ),
        ("model.members.rms={features: {kind: rms}}", "model.members.rms.model is missing"),
    ],
)
def test_a_wrong_set_in_a_member_is_named(override: str, message: str) -> None:
    assert refusal(STUDY, override).startswith(f"setting {override}: {message}")


def test_weights_may_be_searched_where_they_are_combined_by() -> None:
    text = STUDY.replace("combine: {choices: [mean, min, rank]}", "combine: {choices: [weights, mean]}").replace(
        "training: {epochs: 5}", "weight: {low: 0, high: 1}"
    )

    assert load(text.replace("combine: mean, ", "")).space.distributions()["weight"] == FloatDistribution(0, 1)


def test_members_may_be_called_like_the_keys_of_a_range() -> None:
    study = load(STUDY.replace("logmel:\n", "low:\n").replace("chroma:\n", "high:\n").split("baseline")[0])

    assert sorted(study.space.distributions()) == ["combine", "high.h_dim", "low.h_dim", "z_dim"]


@pytest.mark.parametrize(
    ("logmel", "of_all", "most"),
    [
        ("{epochs: 2}", "100", 5),
        ("{epochs: {low: 2, high: 40}}", "100", 40),
        ("{learning_rate: 0.1}", "{choices: [3, 50]}", 50),
    ],
)
def test_the_longest_member_is_the_pruner_s_largest_resource(logmel: str, of_all: str, most: int) -> None:
    text = STUDY.replace("n_mels: 32}", f"n_mels: 32}}\n      training: {logmel}").replace(
        "epochs: 3", f"epochs: {of_all}"
    )

    assert load(text).max_epochs == most


@pytest.fixture
def branches() -> dict[str, Any]:
    Path("study.yaml").write_text(STUDY)
    tree = copy.deepcopy(load_study("study.yaml").tree)
    tree["model"] = [{"family": "vae", "h_dim": {"low": 100, "high": 200}}, tree["model"]]
    tree["baseline"] = {"family": "fusion", "logmel.h_dim": 16, "chroma.h_dim": 8, "combine": "mean", "z_dim": 4}
    return tree


def test_an_ensemble_may_be_one_family_of_a_list(branches: dict[str, Any]) -> None:
    study = study_of_tree(branches, origin="here")

    assert sorted(study.space.distributions()) == sorted([*CLOSED, "family", "vae.h_dim"])
    assert study.close(FixedTrial({"family": "vae", "vae.h_dim": 150})).model.family == "vae"
    assert members_of(study.close(FixedTrial({"family": "fusion", **CLOSED})))["chroma"]["model"]["h_dim"] == 5
    assert [recipe.model.family for recipe in study.recipes()] == ["vae", "fusion"]


def test_set_reaches_into_the_members_of_a_family_of_a_list(branches: dict[str, Any]) -> None:
    study = study_of_tree(branches, origin="here", overrides=["model.fusion.members.chroma.model.h_dim=7"])

    assert members_of(study.recipes()[1])["chroma"]["model"]["h_dim"] == 7
    assert study.baseline == {"family": "fusion", "logmel.h_dim": 16, "combine": "mean", "z_dim": 4}


def test_a_mistake_in_a_member_of_a_family_of_a_list_is_refused(branches: dict[str, Any]) -> None:
    branches["model"][1]["members"]["chroma"]["model"]["h_dmi"] = 3

    with pytest.raises(StudyFileError, match=r"^here: model.1.members.chroma.model.h_dmi is not a setting"):
        study_of_tree(branches, origin="here")


TINY_MEMBERS = {
    "logmel": {"model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 16}, "z_dim": 4, "per_id": True}},
    "loudness": {
        "features": {"kind": "rms"},
        "model": {"family": "vae", "context": 2, "h_dim": {"low": 4, "high": 8}, "z_dim": 2},
        "training": {"epochs": 1},
    },
}


def test_an_exported_ensemble_trained_again_has_the_value_in_the_storage_and_scores_from_its_bundle(
    tiny_study: MakeStudy, corpus_root: Path, tmp_path: Path
) -> None:
    tiny = tiny_study(
        trials=1,
        features={"n_mels": 16},
        model={"family": "fusion", "combine": {"choices": ["mean", "rank"]}, "members": TINY_MEMBERS},
        training={"learning_rate": 0.01, "batch_size": 128, "epochs": 2, "threads": 1},
        baseline={"combine": "rank", "logmel.h_dim": 8, "loudness.h_dim": 4},
    )
    tiny.worker().run()
    corpus = read_corpus(corpus_root)

    (trial,) = optuna.load_study(study_name="tiny", storage=tiny.url).trials
    Path("recipe.yaml").write_text(to_yaml(export_recipe(tiny.storage, tiny.stored).tree()))
    detector = detector_of(load_study("recipe.yaml").first_recipe(), corpus, CPU)

    assert list(trial.intermediate_values) == [1, 2]
    assert detector.validation.auc == trial.value
    save_bundle(detector, tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.recipe == detector.recipe
    paths = [clip.path for clip in corpus.clips[::9]]
    scores = [clip.score for clip in score_clips(loaded, paths, CPU)]
    loaded.scorer.load_state_dict(detector.scorer.state_dict())
    np.testing.assert_array_equal(scores, [clip.score for clip in score_clips(loaded, paths, CPU)])
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "| logmel | vae, one for each machine ID | logmel | 2 |\n| loudness | vae | rms | 1 |" in card


def write_recipe(name: str, **blocks: Any) -> str:
    """A small recipe, with other settings in some blocks."""
    tree: dict[str, Any] = {
        "study": name,
        "features": {"n_mels": 16},
        "model": {"family": "vae", "context": 2, "h_dim": 8, "z_dim": 2},
        "training": {"epochs": 1, "learning_rate": 0.01, "batch_size": 128},
    }
    for block, settings in blocks.items():
        if {"kind", "family"}.intersection(settings):  # whose settings are others
            tree[block] = {}
        tree[block] = tree.get(block, {}) | settings if isinstance(settings, dict) else settings
    Path(f"{name}.yaml").write_text(to_yaml(tree))
    return f"{name}.yaml"


WITH_RECIPES = """\
study: recipes
model:
  family: fusion
  combine: weights
  members:
    wide: {recipe: wide.yaml, weight: {low: 0, high: 1}}
    deep: {recipe: deep.yaml, weight: {low: 0.5, high: 1}}
"""


def test_a_member_may_be_a_finished_recipe() -> None:
    write_recipe("wide", training={"seed": 7}, scoring={"pooling": "max", "false_alarm_rate": 0.3})
    write_recipe("deep", features={"kind": "chroma", "n_chroma": 24})

    study = load(WITH_RECIPES)

    assert list(study.space.distributions()) == ["wide.weight", "deep.weight"]
    recipe = study.first_recipe()
    wide, deep = recipe.ensemble.values()
    assert (wide.features.n_mels, wide.training.seed, wide.scoring.pooling) == (16, 7, "max")
    assert (deep.features.kind, deep.features.n_chroma, deep.training.seed) == ("chroma", 24, None)
    assert recipe.scoring.false_alarm_rate == 0.1


def test_a_study_of_recipes_needs_them_no_more_once_it_is_read() -> None:
    files = [write_recipe("wide"), write_recipe("deep")]
    study = load(WITH_RECIPES)
    for file in files:
        Path(file).unlink()

    assert study_of_tree(study.tree, origin="the storage") == study


def test_what_stands_beside_a_recipe_goes_before_it() -> None:
    write_recipe("wide")
    write_recipe("deep")

    study = load(WITH_RECIPES, "model.members.wide.model.h_dim={low: 2, high: 4}", "model.members.deep.training.seed=3")

    assert study.space.distributions()["h_dim"] == IntDistribution(2, 4)
    recipe = study.first_recipe()
    assert members_of(recipe)["wide"]["model"]["z_dim"] == 2
    assert [member.training.seed for member in recipe.members] == [None, 3]


@pytest.mark.parametrize(
    ("recipe", "study", "message"),
    [
        (None, "", "wide.yaml: no such study file"),
        ({"model": {"h_dim": {"low": 2, "high": 8}}}, "", "wide.yaml leaves h_dim open"),
        ({"model": {"h_dmi": 2}}, "", "wide.yaml, line 9: model.h_dmi is not a setting; did you mean h_dim?"),
        (
            {"corpus": {"train_on": "additional"}},
            "",
            "corpus.train_on is additional in wide.yaml, but development here",
        ),
        (
            {},
            "corpus: {train_on: {choices: [development, additional]}}",
            "corpus.train_on is development in wide.yaml, but open here",
        ),
        ({"cleaning": {"method": "rms"}}, "", "cleaning.method is rms in wide.yaml, but none here"),
        (
            {"cleaning": {"method": "rms"}},
            "cleaning: {method: rms, drop: 0.2}",
            "cleaning.drop is 0.05 in wide.yaml, but",
        ),
        ({"training": {"calibration_share": 0.3}}, "", "training.calibration_share is 0.3 in wide.yaml, but 0.1 here"),
        (
            {"model": {"family": "fusion", "members": {key: {"model": {"family": "vae"}} for key in "ab"}}},
            "",
            "wide.yaml is an ensemble itself",
        ),
        ({"validation": {"share": 0.3}}, "", "validation.share is 0.3 in wide.yaml, but 0.5 here"),
        ({}, "validation: {seed: 4}", "validation.seed is 0 in wide.yaml, but 4 here"),
        (
            {"validation": {"seed": 4}},
            "validation: {share: 0.5}",
            "validation.seed is 4 in wide.yaml, but 0 here",
        ),
    ],
)
def test_a_recipe_that_cannot_be_a_member_is_refused(recipe: dict[str, Any] | None, study: str, message: str) -> None:
    if recipe is not None:
        write_recipe("wide", **recipe)

    text = refusal(WITH_RECIPES + study + "\n")

    assert text.startswith("study.yaml, line 6: model.members.wide.recipe cannot be used: ")
    assert message in text


@pytest.mark.parametrize(
    ("validation", "differs"),
    [
        ("{metric: proxy}", None),
        ("{metric: [proxy, parameters]}", None),
        ("{metric: proxy, share: 0.5}", "validation.share is 0.25 in wide.yaml, but 0.5 here"),
        ("{metric: proxy, shares: 0.5}", "validation.shares is not a setting"),
    ],
)
def test_a_recipe_that_was_found_by_proxies_is_a_member_where_as_many_clips_are_held_out(
    validation: str, differs: str | None
) -> None:
    for name in ("wide", "deep"):
        write_recipe(name, validation={"metric": "proxy"})
    text = f"{WITH_RECIPES}validation: {validation}\n"

    if differs is None:
        assert load(text).validation.share == 0.25
    else:
        assert differs in refusal(text)


def recipe_of(file: str) -> tuple[str, Recipe]:
    return file, load_study(file).first_recipe()


def test_several_recipes_make_an_ensemble_named_by_their_studies() -> None:
    files = [write_recipe("wide", training={"seed": 7}), write_recipe("v1.5", model={"h_dim": 4})]

    recipe = ensemble_of([recipe_of(file) for file in files], combine="mean", seeds=1)

    assert recipe.study == "wide+v1-5"
    assert {name: member["model"]["h_dim"] for name, member in members_of(recipe).items()} == {"wide": 8, "v1-5": 4}
    assert [member.training.seed for member in recipe.members] == [7, None]
    assert recipe.epochs == 1


def test_seeds_make_members_of_one_recipe() -> None:
    recipe = ensemble_of([recipe_of(write_recipe("wide", training={"seed": 7}))], combine="max", seeds=3)

    assert {name: member.training.seed for name, member in recipe.ensemble.items()} == {
        "wide-seed-7": 7,
        "wide-seed-8": 8,
        "wide-seed-9": 9,
    }
    assert recipe.study == "wide"


def test_members_that_differ_in_their_seed_alone_are_one_recipe_s(tmp_path: Path) -> None:
    files = [write_recipe("wide", training={"seed": 7}), write_recipe("deep", model={"h_dim": 4})]
    recipe = ensemble_of([recipe_of(file) for file in files], combine="mean", seeds=2)
    Path("ensemble.yaml").write_text(to_yaml(recipe.tree()))

    groups = seed_groups(recipe)

    assert groups == {
        "wide": {"wide-seed-7": 7, "wide-seed-8": 8},
        "deep": {"deep-seed-0": 0, "deep-seed-1": 1},
    }
    assert seed_groups(load_study("ensemble.yaml").first_recipe()) == groups


@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [
        ({"training": {"seed": 1}}, {"training": {"seed": 2}}, {"one+two": {"one": 1, "two": 2}}),
        ({}, {"training": {"seed": 2}}, {"one+two": {"one": 5, "two": 2}}),
        ({}, {"training": {"seed": 5}}, {}),
        ({"training": {"seed": 1}}, {"training": {"seed": 2, "epochs": 3}}, {}),
        ({"training": {"seed": 1}, "weight": 2.0}, {"training": {"seed": 2}}, {"one+two": {"one": 1, "two": 2}}),
        ({"training": {"seed": 1}}, {"training": {"seed": 2}, "features": {"n_mels": 16}}, {}),
    ],
)
def test_a_study_s_members_may_differ_in_their_seed_alone_too(
    first: dict[str, Any], second: dict[str, Any], groups: dict[str, dict[str, int]]
) -> None:
    members = {name: {"model": {"family": "vae"}, **blocks} for name, blocks in (("one", first), ("two", second))}
    tree = {"study": "pair", "model": {"family": "fusion", "members": members}, "training": {"seed": 5}}

    assert seed_groups(Recipe.model_validate(tree)) == groups


def test_train_shows_the_spread_of_each_recipe_s_seeds_and_counts_its_test_evaluations(
    offkey: Offkey, corpus_root: Path, storage_url: str
) -> None:
    files = [write_recipe("wide"), write_recipe("deep", model={"h_dim": 4})]
    common = ("--storage", storage_url, "--set", f"corpus.root={corpus_root}")

    ran = offkey("train", *files, "-o", "four", "--seeds", 2, "--json", *common)
    shown = offkey("train", files[0], "-o", "two", "--seeds", 2, *common)

    assert (ran.code, shown.code) == (0, 0), ran.stderr + shown.stderr
    document = json.loads(ran.stdout)
    assert (document["test_looks"], document["test_recipes"]) == (1, 1)
    assert document["seeds"]["recipes"].keys() == {"wide", "deep"}
    assert [len(of["test"]["auc"]) for of in document["seeds"]["recipes"].values()] == [2, 2]
    assert document == {"bundle": "four", **json.loads(Path("four/metrics.json").read_text())}
    for text in ("2 of wide", "validation − test", "used in 2 test evaluations, this one included, of 2 different"):
        assert text in shown.stdout


@pytest.mark.parametrize(
    ("blocks", "key"),
    [
        ({"corpus": {"machines": ["fan"]}}, "corpus.machines is None in one and ['fan'] in the other"),
        ({"corpus": {"train_on": "additional"}}, "corpus.train_on"),
        ({"corpus": {"root": "elsewhere"}}, "corpus.root"),
        ({"cleaning": {"method": "rms"}}, "cleaning.method is none in one and rms in the other"),
        ({"validation": {"share": 0.4}}, "validation.share is 0.5 in one and 0.4 in the other"),
        ({"validation": {"seed": 1}}, "validation.seed"),
        ({"training": {"calibration_share": 0.2}}, "training.calibration_share is 0.1 in one and 0.2 in the other"),
        ({"scoring": {"false_alarm_rate": 0.2}}, "scoring.false_alarm_rate"),
        ({"study": "wide"}, "a.yaml and b.yaml would both be the member wide"),
    ],
)
def test_recipes_that_make_no_ensemble_are_named_with_the_setting(blocks: dict[str, Any], key: str) -> None:
    one, other = write_recipe("a", study="wide"), write_recipe("b", **blocks)

    with pytest.raises(StudyFileError) as refused:
        ensemble_of([recipe_of(one), recipe_of(other)], combine="mean", seeds=1)

    assert str(refused.value).startswith("a.yaml and b.yaml ")
    assert key in str(refused.value)


def test_train_makes_an_ensemble_of_recipes_whose_bundle_s_recipe_makes_it_again(
    offkey: Offkey, corpus_root: Path
) -> None:
    files = [write_recipe("wide"), write_recipe("chroma", features={"kind": "chroma"})]
    root = ("--set", f"corpus.root={corpus_root}")

    ran = offkey("train", *files, "-o", "pair", "--combine", "rank", "--json", *root)
    again = offkey("train", "pair/recipe.yaml", "-o", "again", "--json")

    assert (ran.code, again.code) == (0, 0), ran.stderr + again.stderr
    assert load_bundle(Path("pair")).recipe.model.model_dump()["combine"] == "rank"
    one, other = json.loads(ran.stdout), json.loads(again.stdout)
    assert one["test"] == other["test"]
    assert {*one["validation"], *one["test"]} >= {"auc", "pooled_auc"}


def test_combine_without_an_ensemble_is_misuse(offkey: Offkey) -> None:
    ran = offkey("train", write_recipe("wide"), "-o", "new", "--combine", "max")

    assert ran.code == 2
    assert "--combine max is for several recipes or for --seeds" in ran.stderr


def test_a_member_that_names_its_own_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "self.yaml"
    file.write_text(f"study: self\nmodel:\n  family: fusion\n  members:\n    x: {{recipe: {file}}}\n")

    with pytest.raises(StudyFileError, match=r"self\.yaml names itself as a member"):
        load_study(str(file))


def test_what_a_member_s_recipe_has_not_is_not_taken_from_the_study(tmp_path: Path) -> None:
    whole = Recipe.model_validate({"study": "whole", "model": {"family": "vae"}})
    half = Recipe.model_validate({"study": "half", "features": {"fmax": 4000.0}, "model": {"family": "vae"}})

    ensemble = ensemble_of([("half.yaml", half), ("whole.yaml", whole)], combine="mean", seeds=1)
    (tmp_path / "ensemble.yaml").write_text(to_yaml(ensemble.tree()))
    again = load_study(tmp_path / "ensemble.yaml").first_recipe()

    assert [member.features.fmax for member in ensemble.members] == [4000.0, None]
    assert [member.features.fmax for member in again.members] == [4000.0, None]
