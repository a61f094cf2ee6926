"""Two epochs of tiny networks: scores of the validation clips, the number of parameters, a training loss of each.

The loss stands beside the scores since two epochs forgive much: a score hardly depends on the weight of a term yet.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch

from features.clips.corpus import Corpus
from models.settings import BACKENDS
from search.study.recipe import Recipe, ValidationSettings
from search.training.cross_validation import start_training
from search.training.loop import Training, no_interruption
from search.validation.split import blind
from search.validation.views import validation_data_of
from tests.computation.case import Case, Values, listed
from tests.support.detectors import detector_of

CPU = torch.device("cpu")

_WINDOWS = {"context": 2, "h_dim": 12}
_CROPS = {"frames": 28, "crops_per_clip": 2}
_VAE = {"family": "vae", **_WINDOWS, "z_dim": 3}
_AE = {"family": "ae", **_WINDOWS, "z_dim": 3, "layers": 2}
_CAE = {"family": "cae", **_CROPS, "width": 4, "z_dim": 4}
_MADE = {"family": "made", **_WINDOWS, "orderings": 2}
_GROUP_MADE = {"family": "group_made", **_WINDOWS, "context": 3}
_CLASSIFIER = {"family": "classifier", **_CROPS, "embedding_dim": 8}
_STAT = {"family": "stat", "decay": 0.7}

#: Batch normalisation leaves some weights before it (biases, for example) with gradients that are rounding noise alone.
#: Adam makes whole steps of them. Families that normalise take few steps, and small ones: so CPUs stay together.
_CALM = {"learning_rate": 1e-6, "batch_size": 400}
_NORMALISED = ("ae", "classifier")

_MEMBERS = {"levels": {"model": _STAT, "weight": 2.0}, "networks": {"model": {**_VAE, "per_id": True}}}
_FUSION = {"family": "fusion", "members": _MEMBERS}

MODELS: dict[str, dict[str, Any]] = {
    "vae": _VAE,
    "vae, other layers and weight": {**_VAE, "layers": 1, "kld_weight": 0.5},
    "vae, conditional": {**_VAE, "conditional": True},
    "vae, per_id": {**_VAE, "per_id": True},
    "vae, per_id, others shared": {**_VAE, "per_id": True, "unknown_id": "shared"},
    **{f"vae, {backend}": {**_VAE, "score": backend} for backend in BACKENDS},
    "ae": _AE,
    "ae, conditional, knn": {**_AE, "conditional": True, "score": "knn"},
    "cae": _CAE,
    "cae, global latent, knn": {**_CAE, "frames": 32, "latent": "global", "score": "knn"},
    "made": _MADE,
    "made, conditional mixture": {**_MADE, "conditional": True, "components": 2},
    "group_made": _GROUP_MADE,
    "group_made, middle_last, last_frame": {**_GROUP_MADE, "orderings": "middle_last", "score": "last_frame"},
    "group_made, in_time": {**_GROUP_MADE, "orderings": "in_time"},
    "classifier": _CLASSIFIER,
    "classifier, softmax, mixup": {**_CLASSIFIER, "score": "softmax", "mixup": 0.5},
    "classifier, arcface, cosine": {**_CLASSIFIER, "frames": 12, "loss": "arcface", "score": "cosine"},
    "classifier, adacos, attributes": {**_CLASSIFIER, "loss": "adacos", "classes": "attributes"},
    "classifier, adacos of two classes": {**_CLASSIFIER, "loss": "adacos", "adacos_scale": "fixed"},
    "classifier, subclusters, augmentations": {
        **_CLASSIFIER,
        "loss": "subcluster_adacos",
        "subclusters": 2,
        "adacos_scale": "fixed",
        "classes": "augmentations",
    },
    "classifier, with a spectrum, mahalanobis": {**_CLASSIFIER, "spectrum": True, "score": "mahalanobis"},
    "classifier, a network of timm's": {**_CLASSIFIER, "frames": 32, "backbone": "test_efficientnet"},
    **{f"stat, {backend}": {**_STAT, "score": backend} for backend in BACKENDS},
    "vae, mahalanobis of quiet windows": {**_VAE, "score": "mahalanobis", "statistic": "quiet", "share": 0.2},
    "cae, knn of loud crops": {**_CAE, "score": "knn", "statistic": "loud", "share": 0.4},
    "stat, a stack, whitened": {**_STAT, "statistic": "quantile+change", "whiten": 5},
    "stat, mean over time, others shared": {"family": "stat", "unknown_id": "shared"},
    "stat, tied and standardised": {**_STAT, "covariance": "tied", "standardize": True},
    "vae, nearest standardised directions": {**_VAE, "score": "knn", "distance": "cosine", "standardize": True},
    **{f"fusion, {how}": {**_FUSION, "combine": how} for how in ("mean", "min", "max", "rank", "weights")},
    "fusion, empirical": {**_FUSION, "calibrate": "empirical"},
}

#: Other blocks of a recipe with the first model, and of those that have members with the last one.
RECIPES: dict[str, dict[str, Any]] = {
    **{f"pooling {name}": {"scoring": {"pooling": name, "decay": 0.8}} for name in ("max", "top", "gwrp")},
    **{f"calibration {name}": {"scoring": {"calibration": name}} for name in ("z", "empirical")},
    "features, normalize clip": {"features": {"normalize": "clip"}},
    "features, normalize bin": {"features": {"normalize": "bin", "kind": "logmel+rms"}},
    "cleaning": {"cleaning": {"method": "neighbours", "drop": 0.2}},
    "another seed, order and step": {"training": {"seed": 2, "batch_size": 50, "learning_rate": 0.02, "epochs": 3}},
    "members with seeds and features": {
        "model": {
            "family": "fusion",
            "members": {
                "one": {"model": _VAE, "training": {"seed": 3, "epochs": 1}},
                "other": {"model": _VAE, "features": {"kind": "mfcc", "n_mfcc": 6}, "scoring": {"pooling": "max"}},
            },
        }
    },
}


def recipe_of(changes: dict[str, Any]) -> Recipe:
    tree: dict[str, Any] = {
        "study": "golden",
        "features": {"n_mels": 28},
        "model": _VAE,
        "training": {
            "learning_rate": 0.005,
            "batch_size": 32,
            "epochs": 2,
            "seed": 1,
            "threads": 1,
            "precision": "float32",
            "calibration_share": 0.25,
        },
    }
    for block, settings in deepcopy(changes).items():
        tree[block] = settings if block == "model" else {**tree.get(block, {}), **settings}
    if tree["model"]["family"] in _NORMALISED:
        tree["training"] |= _CALM
    return Recipe.model_validate(tree)


def _trained(changes: dict[str, Any], corpus: Corpus) -> Values:
    recipe = recipe_of(changes)
    training = Training(recipe, blind(corpus, ValidationSettings()), CPU)
    while training.epoch < recipe.epochs:
        training.run_epoch()
    return [*listed(training.validation_scores()), f"{training.parameters} parameters", *_losses(training)]


def _losses(training: Training) -> list[float]:
    """Of each network, on the first 32 of its windows or crops."""
    losses = []
    recordings = training.recordings_of(training.clips.train)
    for single in training.scorer.singles():
        if single.member.model.is_trained:
            own = recordings.of_ids(single.labels.ids)
            excerpts = own.excerpts(single.member.features, single.member.model, single.labels)
            torch.manual_seed(0)
            single.model.train()
            with torch.no_grad():
                losses.append(float(single.model.loss(next(iter(excerpts.in_order(32))))))
    return losses


def _folds(corpus: Corpus) -> list[float]:
    """A cross-validation of two folds: the scores of their clips."""
    recipe = recipe_of({"validation": {"folds": 2}})
    validation_data = validation_data_of(corpus, recipe.validation)
    trial = start_training([recipe], validation_data, "cpu", lambda recipe, view, device: Training(recipe, view, CPU))
    while trial.epoch < recipe.epochs * len(validation_data.views):
        trial.run_epoch(no_interruption)
    scores = trial.validation_scores()
    return [*listed(scores), validation_data.metric("auc", scores), validation_data.last_models_metric("auc", scores)]


def _detector(threshold: str, corpus: Corpus) -> list[float]:
    """The thresholds of a final detector and its metrics."""
    detector = detector_of(recipe_of({"scoring": {"threshold": threshold}}), corpus, CPU)
    assert detector.test is not None and detector.optimism is not None
    return [
        *detector.thresholds.values(),
        detector.value,
        detector.test.auc,
        detector.test.pooled,
        detector.optimism.difference,
    ]


CASES: dict[str, Case] = {
    **{f"model: {name}": partial(_trained, {"model": model}) for name, model in MODELS.items()},
    **{f"recipe: {name}": partial(_trained, changes) for name, changes in RECIPES.items()},
    "recipe: folds": _folds,
    **{f"detector: {threshold}": partial(_detector, threshold) for threshold in ("quantile", "gamma")},
}
