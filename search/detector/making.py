"""From a recipe to its detector in a folder or a bucket: recordings read and checked, trained, measured, saved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from features.clips.corpus import Corpus
from features.progress import Progress
from search.detector.bundle import require_free, save_bundle
from search.detector.detector import Detector
from search.detector.final import train_detector
from search.errors import StorageError
from search.preparation.prepared import prepare_recipe
from search.storage import database
from search.storage.test_evaluations import TestEvaluations, enter_test_evaluation
from search.study.recipe import Recipe
from search.training.loop import open_corpus_stores
from search.validation.split import held_out_clips

_log = logging.getLogger(__name__)


def _unseen(done: int, total: int) -> None:
    """Where nobody watches."""


def make_detector(
    recipe: Recipe,
    bundle: str | Path,
    *,
    device: torch.device,
    default_root: str | None = None,
    storage: str | None = None,
    on_faults: Progress = _unseen,
    on_features: Progress = _unseen,
    on_epoch: Progress = _unseen,
    tell: Callable[[str], None] = _log.warning,
) -> Detector:
    """Trains a recipe, measures it on the held-out test clips, and writes it to a folder or bucket, as a bundle.

    `default_root` holds the clips of a recipe that does not say where they lie. The look at the test clips is counted
    in `storage` (a URL), if it is there. `on_faults`, `on_features` and `on_epoch` are told how far the work is (done,
    in all), one after the other; `tell` what the user should know.
    Raises BundleError, CorpusError, StoreError, StudyError, UnservedError or TrialFailure; StorageError for what is no
    storage's URL. A storage that cannot be written costs a word, and not the detector.
    """
    require_free(bundle)
    if storage is not None:
        database.parse_url(storage)
    prepared = prepare_recipe(recipe, default_root=default_root, tell=tell, progress=on_faults)
    recipe, corpus, views = prepared.recipe, prepared.corpus, prepared.validation_data.views
    # Views with made faults have other clips than the corpus.
    for heard in (*views, corpus) if recipe.validation.uses_proxies else (corpus,):
        open_corpus_stores(heard, recipe, progress=on_features)
    detector = train_detector(prepared, device, on_epoch=on_epoch)
    if storage is not None and detector.test is not None:
        detector = replace(detector, test_evaluations=_counted(storage, corpus, detector, detector.test.auc, tell))
    save_bundle(detector, bundle)
    return detector


def _counted(
    storage: str, corpus: Corpus, detector: Detector, auc: float, tell: Callable[[str], None]
) -> TestEvaluations:
    """The test evaluations so far, after this one is entered in the storage."""
    try:
        return enter_test_evaluation(storage, held_out_clips(corpus, detector.recipe.validation), detector.recipe, auc)
    except (StorageError, OSError) as error:  # what is trained is kept, whatever a file system says
        reason = f"{database.shown(database.parse_url(storage))} could not be written"
        tell(f"this test evaluation is not counted: {error}")
        return TestEvaluations.uncounted(reason)
