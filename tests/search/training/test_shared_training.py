"""One training, many detectors: a variant has the scores that a training of its own would give, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from features.clips.corpus import Corpus, read_corpus
from search.study.recipe import Recipe, ValidationSettings
from search.study.study_file import study_of_tree
from search.training.cross_validation import CrossValidation
from search.training.loop import Training
from search.training.objective import objective, train_for_real
from search.training.variant_choice import NoEvidence
from search.validation.split import blind
from search.validation.views import validation_data_of
from tests.support.training import trained

CPU = torch.device("cpu")
WINDOWS = {"context": 2, "h_dim": 8}
VARIED_SCORING: list[dict[str, Any]] = [
    {"pooling": "mean"},
    {"pooling": "max"},
    {"pooling": "gwrp", "decay": 0.5},
    {"calibration": "z"},
    {"windows": "quiet"},
    {"windows": "loud", "windows_share": 0.1, "pooling": "max"},
]
DENSITIES: list[dict[str, Any]] = [
    {"score": "mahalanobis"},
    {"score": "mahalanobis", "statistic": "quantile+deviation", "share": 0.25},
    {"score": "knn", "statistic": "loud", "share": 0.25},
    {"score": "knn", "decay": 0.5},
    {"score": "knn", "neighbours": 1},
    {"score": "knn", "neighbours": 2, "local_neighbours": 0},
    {"score": "gmm"},
    {"score": "lof"},
    {"score": "exposure", "standardize": True},
]

RESIDUALS: list[dict[str, Any]] = [
    {"score": "mahalanobis", "points": "residual", "standardize": True},
    {"score": "mahalanobis", "points": "residual", "statistic": "quiet", "covariance": "tied"},
]
QUIET: list[dict[str, Any]] = [{"score": "mahalanobis", "statistic": "quiet"}, {"score": "knn", "statistic": "loud"}]

#: Family → its settings, and variants of its `model:` block.
FAMILIES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "vae": ({**WINDOWS, "z_dim": 2}, DENSITIES + RESIDUALS),
    "vae, one for each ID": ({**WINDOWS, "z_dim": 2, "per_id": True}, [*QUIET, {"score": "exposure"}]),
    "ae": ({**WINDOWS, "z_dim": 2, "layers": 1}, QUIET + RESIDUALS),
    "cae": ({"frames": 32, "width": 2, "z_dim": 2, "crops_per_clip": 2}, QUIET + RESIDUALS),
    "made": (WINDOWS, []),
    "group_made": ({**WINDOWS, "context": 3}, [{"score": "last_frame"}]),
    "classifier": (
        {"frames": 32, "crops_per_clip": 2, "embedding_dim": 4},
        [{"score": "softmax"}, {"score": "cosine"}, *QUIET],
    ),
}


@pytest.fixture(scope="module")
def corpus(corpus_root: Path) -> Corpus:
    return blind(read_corpus(corpus_root), ValidationSettings())


def recipes_of(name: str) -> list[Recipe]:
    """The recipe of a family by its defaults, and its variants."""
    model, varied = FAMILIES[name]
    blocks: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, scoring) for scoring in VARIED_SCORING]
    blocks += [(block, {}) for block in varied]
    return [
        Recipe.model_validate(
            {
                "study": "here",
                "features": {"n_mels": 32},
                "model": {"family": name.split(",")[0], **model, **block},
                "training": {
                    "epochs": 2,
                    "batch_size": 64,
                    "learning_rate": 0.01,
                    "seed": 1,
                    "threads": 1,
                    "calibration_share": 0.4,
                },
                "scoring": scoring,
            }
        )
        for block, scoring in blocks
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_variant_scores_as_its_own_training_does(name: str, corpus: Corpus) -> None:
    recipes = recipes_of(name)

    shared = trained(recipes[0], corpus).scores_of_variants(recipes)

    for recipe, scores in zip(recipes, shared, strict=True):
        alone = trained(recipe, corpus).validation_scores()
        np.testing.assert_array_equal(scores, alone, err_msg=f"{recipe.model} {recipe.scoring}")


def test_members_of_an_ensemble_are_trained_once_for_all_variants(corpus: Corpus) -> None:
    def recipe(combine: str, **vae: Any) -> Recipe:
        members = {
            "deep": {"model": {"family": "vae", **WINDOWS, "z_dim": 2, **vae}},
            "flat": {"model": {"family": "stat"}, "features": {"kind": "rms"}},
        }
        tree = recipes_of("vae")[0].tree()
        tree |= {"model": {"family": "fusion", "combine": combine, "members": members}}
        return Recipe.model_validate(tree)

    recipes = [recipe("mean"), recipe("rank"), recipe("max", score="exposure")]

    shared = trained(recipes[0], corpus).scores_of_variants(recipes)

    for each, scores in zip(recipes, shared, strict=True):
        np.testing.assert_array_equal(scores, trained(each, corpus).validation_scores())


def test_each_network_reads_the_recordings_once_for_all_variants_of_a_kind(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [recipe for recipe in recipes_of("vae") if recipe.model.backend is None]
    training = trained(recipes[0], corpus)
    (single,) = training.scorer.singles()
    reads: list[int] = []
    score = single.model.score
    monkeypatch.setattr(single.model, "score", lambda batch: reads.append(1) or score(batch))  # type: ignore[func-returns-value]

    training.scores_of_variants(recipes[:1])
    once = len(reads)
    training.scores_of_variants([recipe for recipe in recipes if recipe.scoring.calibration == "none"])

    assert len(reads) == 2 * once


def test_each_network_embeds_the_recordings_once_for_all_statistics(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [recipe for recipe in recipes_of("vae") if recipe.model.backend not in (None, "exposure")]
    training = trained(recipes[0], corpus)
    (single,) = training.scorer.singles()
    reads: list[int] = []
    embed = single.model.embed
    monkeypatch.setattr(single.model, "embed", lambda batch: reads.append(1) or embed(batch))  # type: ignore[func-returns-value]

    training.scores_of_variants(recipes[:1])
    once = len(reads)
    training.scores_of_variants(recipes)

    assert len(reads) == 2 * once


def test_a_variant_that_the_clips_cannot_serve_leaves_the_others_as_they_are(corpus: Corpus) -> None:
    tree = recipes_of("vae")[0].tree()
    blocks = tree | {"training": {**tree["training"], "calibration_share": 0.0}}
    plain = Recipe.model_validate(blocks)
    calibrated = Recipe.model_validate(blocks | {"scoring": {"calibration": "z"}})
    training = trained(plain, corpus)

    scores, reason = training.scores_of_variants([plain, calibrated])

    np.testing.assert_array_equal(scores, training.validation_scores())
    assert "withheld" in str(reason)


def test_folds_share_their_trainings_and_a_resumed_one_knows_the_earlier_folds(corpus: Corpus) -> None:
    recipes = recipes_of("vae")[:3]
    views = validation_data_of(corpus, ValidationSettings(folds=2)).views

    def folds(recipes: list[Recipe]) -> CrossValidation:
        return CrossValidation(recipes, views, "cpu", train_for_real)

    shared, file = folds(recipes), BytesIO()
    for _ in range(3):
        shared.run_epoch(lambda: None)
    shared.save(file)
    file.seek(0)
    resumed = folds(recipes)
    resumed.resume(file)
    resumed.run_epoch(lambda: None)

    for recipe, scores in zip(recipes, resumed.scores_of_variants(recipes), strict=True):
        alone = folds([recipe])
        for _ in range(4):
            alone.run_epoch(lambda: None)
        np.testing.assert_array_equal(scores, alone.validation_scores())


def test_the_training_goes_on_as_if_no_variant_had_been_scored(corpus: Corpus) -> None:
    recipes = recipes_of("classifier")
    disturbed, undisturbed = (Training(recipes[0], corpus, CPU) for _ in range(2))
    for training in (disturbed, undisturbed):
        training.run_epoch()
        if training is disturbed:
            training.scores_of_variants(recipes)
        training.run_epoch()

    np.testing.assert_array_equal(disturbed.validation_scores(), undisturbed.validation_scores())


class Noted(NoEvidence):
    """Evidence that notes what a trial takes."""

    def take(self, values: Mapping[str, Any], curve: Mapping[int, float]) -> None:
        self.values, self.curve = dict(values), dict(curve)


@pytest.mark.parametrize("pruner", ["none", "wilcoxon"])
def test_a_curve_is_rewritten_for_the_variant_that_is_taken_but_where_each_fold_is_reported_alone(
    pruner: str, corpus: Corpus
) -> None:
    tree = {
        "study": "here",
        "features": {"n_mels": 32},
        "model": {"family": "vae", **WINDOWS, "z_dim": 2},
        "training": {"epochs": 1, "batch_size": 64, "threads": 1},
        "scoring": {"pooling": {"choices": ["mean", "max"]}},
        "validation": {"folds": 5},
        "search": {"pruner": pruner},
    }
    study = study_of_tree(tree, origin="here")
    validation_data = validation_data_of(corpus, study.validation)
    evidence, trial = Noted(), optuna.create_study(direction="maximize").ask()

    value = objective(trial, study, validation_data, evidence=evidence)

    assert evidence.values.keys() == {"pooling"}
    assert evidence.curve.get(5, value) == value
    assert sorted(evidence.curve) == ([] if pruner == "wilcoxon" else [1, 2, 3, 4, 5])
