"""From a recipe to its detector in a folder or a bucket: read and check the recordings, train, measure, save."""

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
from search.detector.final_training import train_detector
from search.errors import StorageError
from search.evaluation.decisions import Decisions
from search.evaluation.interval import Interval
from search.preparation.prepared import prepare_recipe
from search.storage import database
from search.storage.counted_evaluations import TestEvaluations, enter_test_evaluation
from search.study.ensembles import recipe_of_member
from search.study.recipe import Recipe
from search.training.stores import open_corpus_stores
from search.validation.split import held_out_clips

_log = logging.getLogger(__name__)


def _no_progress(done: int, total: int) -> None:
    """Shows no progress."""


def make_detector(
    recipe: Recipe,
    bundle: str | Path,
    *,
    device: torch.device,
    default_root: str | None = None,
    storage: str | None = None,
    on_faults: Progress = _no_progress,
    on_features: Progress = _no_progress,
    on_epoch: Progress = _no_progress,
    tell: Callable[[str], None] = _log.warning,
) -> Detector:
    """Trains a recipe, measures it on the held-out test clips, and writes it to a folder or bucket, as a bundle.

    `default_root` holds the clips of a recipe that names no folder. The test evaluation is counted in `storage` (a
    URL), if that exists. `on_faults`, `on_features` and `on_epoch` report the progress of one stage after the other
    (done, in all); `tell` is called with warnings for the user.
    Raises BundleError, CorpusError, StoreError, StudyError, UnservedError or TrialFailure, and StorageError if
    `storage` is not the URL of a storage. If the storage cannot be written, `tell` is called and the detector is saved
    all the same.
    """
    require_free(bundle)
    if storage is not None:
        database.parse_url(storage)
    prepared = prepare_recipe(recipe, default_root=default_root, tell=tell, progress=on_faults)
    recipe, corpus, views = prepared.recipe, prepared.corpus, prepared.validation_data.views
    # Views with synthetic faults have other clips than the corpus.
    for view in (*views, corpus) if recipe.validation.uses_proxies else (corpus,):
        open_corpus_stores(view, recipe, progress=on_features)
    detector = train_detector(prepared, device, on_epoch=on_epoch)
    if storage is not None and detector.test is not None:
        why = detector.test.why_no_interval
        interval = detector.test.interval or why
        measured: list[tuple[Recipe, float, Interval | str, Decisions | None]] = [
            (detector.recipe, detector.test.auc, interval, detector.decisions)
        ]
        best = detector.best_member
        if best is not None and best.test is not None:
            member = recipe_of_member(detector.recipe, best.name)
            measured.insert(0, (member, best.test.auc, best.test.interval or why, None))
        # The ensemble last: its count includes its best member's.
        *_, evaluations = [_count_test_evaluation(storage, corpus, *each, tell) for each in measured]
        detector = replace(detector, test_evaluations=evaluations)
    save_bundle(detector, bundle)
    return detector


def _count_test_evaluation(
    storage: str,
    corpus: Corpus,
    recipe: Recipe,
    auc: float,
    interval: Interval | str,
    decisions: Decisions | None,
    tell: Callable[[str], None],
) -> TestEvaluations:
    """Enters the test evaluation of a recipe in the storage; returns how many there are by now."""
    try:
        clips = held_out_clips(corpus, recipe.validation)
        return enter_test_evaluation(storage, clips, recipe, auc, interval, decisions)
    except (StorageError, OSError) as error:  # the trained detector is kept all the same
        reason = f"{database.shown(database.parse_url(storage))} could not be written"
        tell(f"this test evaluation is not counted: {error}")
        return TestEvaluations.uncounted(reason)
