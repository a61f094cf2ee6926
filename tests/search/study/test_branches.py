"""Branches of a list of families: their names, features of their own, and what a trial makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from jsonschema import Draft7Validator
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial, TrialState
from ruamel.yaml import YAML

from features.clips.corpus import read_corpus
from search.preparation.prepared import prepare
from search.results.export import export_recipe
from search.study.effects import idle_settings
from search.study.identity import identity_of
from search.study.recipe import Recipe
from search.study.schema.json_schema import study_schema
from search.study.study_file import study_of_tree, to_yaml
from tests.support.detectors import detector_of
from tests.support.study_files import load, refusal
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

STUDY = """\
study: branches
features:
  n_mels: {choices: [32, 64]}
  n_fft: 512
model:
  - {family: vae, context: 3, z_dim: {low: 2, high: 8}}
  - {family: stat, decay: {low: 0.0, high: 1.0}}
  - family: stat
    name: whole
    score: {choices: [mahalanobis, knn]}
    features: {kind: clip_spectrum, n_bands: {low: 16, high: 64}}
  - family: stat
    name: loud
    decay: 0.0
    features: {n_mels: {choices: [16, 20]}, hop_length: 128}
"""


def test_features_of_a_branch_are_open_settings_of_that_branch() -> None:
    study = load(STUDY)

    assert study.space.distributions() == {
        "family": CategoricalDistribution(["vae", "stat", "whole", "loud"]),
        "n_mels": CategoricalDistribution([32, 64]),
        "z_dim": IntDistribution(2, 8),
        "decay": FloatDistribution(0, 1),
        "score": CategoricalDistribution(["mahalanobis", "knn"]),
        "n_bands": IntDistribution(16, 64),
        "loud.n_mels": CategoricalDistribution([16, 20]),
    }
    assert idle_settings(study.space) == []


@pytest.mark.parametrize(
    ("params", "model", "features"),
    [
        ({"family": "stat", "n_mels": 64, "decay": 0.5}, {"decay": 0.5}, {"n_mels": 64, "n_fft": 512}),
        (
            {"family": "whole", "score": "knn", "n_bands": 17},
            {"score": "knn"},
            {"kind": "clip_spectrum", "n_bands": 17},
        ),
        ({"family": "loud", "loud.n_mels": 20}, {"decay": 0.0}, {"n_mels": 20, "n_fft": 512, "hop_length": 128}),
    ],
)
def test_a_closed_branch_is_an_ordinary_recipe(
    params: dict[str, Any], model: dict[str, Any], features: dict[str, Any]
) -> None:
    # A FixedTrial refuses to be asked for a parameter that it was not given: n_mels is for branches that read it alone.
    recipe = load(STUDY).close(FixedTrial(params))

    assert recipe == Recipe.model_validate(
        {"study": "branches", "features": features, "model": {"family": "stat", **model}}
    )
    assert study_of_tree(recipe.tree(), origin=to_yaml(recipe.tree())).first_recipe() == recipe


def test_members_of_a_branch_inherit_its_features() -> None:
    study = load(
        "study: a\nfeatures: {n_mels: 64, n_fft: 512}\nmodel:\n- {family: vae}\n- family: fusion\n  name: both\n"
        "  features: {n_mels: {low: 16, high: 32}, hop_length: 128}\n  members:\n"
        "    one: {model: {family: stat}}\n    two: {model: {family: stat}, features: {n_mels: 20}}\n"
    )

    recipe = study.close(FixedTrial({"family": "both", "n_mels": 30}))

    found = {name: member.features for name, member in recipe.ensemble.items()}
    assert (found["one"].n_mels, found["two"].n_mels) == (30, 20)
    assert {(of.n_fft, of.hop_length) for of in found.values()} == {(512, 128)}


def test_the_baseline_names_the_branch() -> None:
    baseline = "baseline: {family: loud, loud.n_mels: 16}\n"

    assert load(STUDY + baseline).baseline == {"family": "loud", "loud.n_mels": 16}
    assert "must be one of vae, stat, whole, loud" in refusal(STUDY + baseline.replace("loud,", "lout,"))


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("model.whole.features.n_bands=99", ("features", "n_bands"), 99),
        ("model.stat.features.kind=mfcc", ("features", "kind"), "mfcc"),
        ("model.whole.decay=0.5", ("decay",), 0.5),
    ],
)
def test_set_names_a_branch(override: str, path: tuple[str, ...], value: Any) -> None:
    study = load(STUDY, override)

    found: Any = study.space.tree["model"][study.space.families.index(override.split(".")[1])]
    for key in path:
        found = found[key]
    assert found == value


WRONG: dict[str, tuple[str, str, str]] = {
    "a name with a dot": ("name: whole", "name: w.hole", "line 9: model.2.name must be of letters, digits, _, + and -"),
    "a number as name": ("name: whole", "name: 12", "line 9: model.2.name must be of letters"),
    "an open name": ("name: whole", "name: {choices: [a, b]}", "line 9: model.2.name must be of letters"),
    "a name twice": ("name: whole", "name: vae", "line 9: model.2.name is that of another branch"),
    "a family twice without a name": ("    name: whole\n", "", "line 8: model.2 names the family stat again: give"),
    "a rate of its own": (
        "kind: clip_spectrum,",
        "sample_rate: 8000,",
        "line 11: model.2.features.sample_rate is one for all branches, which read the same sound: set it in the study",
    ),
    "an open channel": (
        "kind: clip_spectrum,",
        "channel: {choices: [0, 1]},",
        "line 11: model.2.features.channel is one for all branches",
    ),
    "no block": ("{n_mels: {choices: [16, 20]}, hop_length: 128}", "rms", "line 15: model.3.features must be a block"),
    "a mistyped name": ("name: whole", "nam: whole", "model.2 names the family stat again"),
    "a mistyped key": (
        "    features: {n_mels",
        "    feature: {n_mels",
        "model.3.feature is not a setting; did you mean",
    ),
    "a mistyped setting": (
        "hop_length: 128",
        "hop_lenght: 128",
        "line 15: model.3.features.hop_lenght is not a setting",
    ),
    "a mistyped kind": ("kind: clip_spectrum", "kind: clip_spektrum", "line 11: model.2.features.kind each kind must"),
    "no bands": ("low: 16, high: 64", "low: 0, high: 64", "line 11: model.2.features.n_bands should be greater than 0"),
    "a setting of no use": (
        "kind: clip_spectrum,",
        "kind: clip_spectrum, n_mels: 32,",
        "line 11: model.2.features.n_mels has no effect on clip_spectrum: it is a setting of logmel, mfcc",
    ),
    "a range of no use": (
        "kind: clip_spectrum,",
        "kind: clip_spectrum, hop_length: {low: 1, high: 2},",
        "line 11: model.2.features.hop_length has no effect on clip_spectrum",
    ),
    "a rule between what is merged": (
        "[16, 20]",
        "[300, 400]",
        "line 15: model.3.features n_mels ≤ n_fft / 2 must hold, but got n_mels = 300, n_fft = 512",
    ),
}


@pytest.mark.parametrize(("right", "wrong", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_named_with_its_place(right: str, wrong: str, message: str) -> None:
    assert right in STUDY
    assert message in refusal(STUDY.replace(right, wrong))


@pytest.mark.parametrize("key", ["name: x", "features: {kind: rms}"])
def test_a_single_family_has_neither(key: str) -> None:
    message = refusal(f"study: a\nmodel: {{family: vae, {key}}}\n")

    assert f"line 2: model.{key.split(':')[0]} is for the families of a list, but this is one: " in message


def test_a_setting_that_every_branch_replaces_is_searched_for_nothing() -> None:
    text = "study: a\nfeatures: {n_mels: {low: 8, high: 16}}\nmodel:\n- {family: vae, features: {n_mels: 32}}\n"

    assert "features.n_mels would be searched for nothing: each branch has its own" in refusal(text)


def test_a_range_of_the_study_is_legal_by_the_branches_that_read_it_alone() -> None:
    text = (
        "study: a\nfeatures: {n_mels: {choices: [128, 256]}, n_fft: 512}\nmodel:\n- {family: vae}\n"
        "- {family: stat, features: {n_mels: 8, n_fft: 16}}\n"
    )

    assert load(text).recipes()[1].features.n_mels == 8
    assert "model.1.features n_mels ≤ n_fft / 2" in refusal(text.replace("n_mels: 8, ", ""))


def test_a_written_out_default_is_the_same_study(corpus_root: Path) -> None:
    corpus = read_corpus(corpus_root)
    one, other, different = (
        identity_of(load(text), corpus)
        for text in (
            STUDY,
            STUDY.replace("  n_fft: 512", "  n_fft: 512\n  kind: logmel"),
            STUDY.replace("  n_fft: 512", "  n_fft: 512\n  normalize: bin"),
        )
    )

    assert one == other != different


def test_editors_know_what_a_branch_has() -> None:
    schema = Draft7Validator(study_schema())
    tree = YAML(typ="safe").load(STUDY)

    assert list(schema.iter_errors(tree)) == []
    for key, value in (("name", "w.hole"), ("features", {"sample_rate": 8000}), ("features", {"kindd": "rms"})):
        wrong = {**tree, "model": [{"family": "vae", key: value}]}
        assert [problem.json_path for problem in schema.iter_errors(wrong)] == ["$.model"]
        assert [*schema.iter_errors({**tree, "model": {"family": "vae", key: value}})]


def test_a_branch_that_the_recordings_cannot_serve_is_dropped_by_its_name(corpus_root: Path) -> None:
    tree = YAML(typ="safe").load(STUDY) | {"corpus": {"root": str(corpus_root)}, "baseline": {"family": "loud"}}
    tree["model"][2]["features"] = {"kind": "clip_spectrum", "n_bands": 9000}

    ready = prepare(study_of_tree(tree, origin="here"), default_root=None)

    (warning,) = ready.warnings
    assert warning.startswith("model: dropped whole: ")
    assert "Lower features.n_bands" in warning
    assert ready.study.space.families == ("vae", "stat", "loud")
    assert ready.study.baseline == {"family": "loud"}


def test_a_search_chooses_among_branches_and_its_recipes_give_the_same_values(tiny_study: MakeStudy) -> None:
    model = [
        {"family": "stat", "decay": {"low": 0.0, "high": 1.0}},
        {"family": "stat", "name": "whole", "features": {"kind": "clip_spectrum", "n_bands": {"low": 16, "high": 64}}},
    ]
    tiny = tiny_study(trials=6, model=model, baseline={"family": "whole", "n_bands": 20})
    tiny.worker().run()

    trials = trials_of(tiny)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert trials[0].params == {"family": "whole", "n_bands": 20}
    assert {trial.params["family"] for trial in trials} == {"stat", "whole"}
    assert {frozenset(trial.params) for trial in trials} == {
        frozenset({"family", "decay"}),
        frozenset({"family", "n_bands"}),
    }
    for number in (0, next(trial.number for trial in trials if trial.params["family"] == "stat")):
        recipe = export_recipe(tiny.storage, tiny.stored, number=number)
        detector = detector_of(recipe, read_corpus(tiny.root), torch.device("cpu"))
        assert detector.value == trials[number].value
