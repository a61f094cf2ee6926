"""From a recipe to its detector in a folder or a bucket: recordings read and checked, trained, measured, saved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from features.clips.corpus import Corpus, read_corpus
from features.progress import Progress
from search.detector.bundle import require_free, save_bundle
from search.detector.detector import Detector
from search.detector.final import train_detector
from search.errors import StorageError, StudyError
from search.preparation.clip_checks import require_figures, require_served, views_of, warnings_of
from search.preparation.prepared import with_proxies
from search.storage import database
from search.storage.looks import Looks, enter_look
from search.study.recipe import Recipe
from search.training.loop import open_corpus_stores
from search.validation.split import held_out_clips
from search.validation.views import steering_of

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
    root = recipe.corpus.root or default_root
    if root is None:
        raise StudyError(
            "corpus.root is missing: set it (on the command line with --set corpus.root=DIR), or $OFFKEY_DATA"
        )
    corpus = read_corpus(Path(root)).for_study(recipe.corpus.machines)
    validation, train_on = recipe.validation, recipe.corpus.train_on
    views = views_of(corpus, validation, train_on)
    for line in warnings_of(corpus, validation, views):
        tell(line)
    require_served(recipe, corpus, views)
    validation, said = with_proxies(validation, corpus, recipe, progress=on_faults)
    for line in said:
        tell(line)
    recipe = recipe.model_copy(update={"validation": validation})
    steering = steering_of(corpus, validation, train_on)
    require_figures(steering, validation.objectives[:1])
    # Views with made faults have other clips than the corpus.
    for heard in (*steering.views, corpus) if validation.goes_by_proxies else (corpus,):
        open_corpus_stores(heard, recipe, progress=on_features)
    detector = train_detector(recipe, corpus, device, on_epoch=on_epoch)
    if storage is not None and detector.test is not None:
        detector = replace(detector, looks=_counted(storage, corpus, detector, detector.test.auc, tell))
    save_bundle(detector, bundle)
    return detector


def _counted(storage: str, corpus: Corpus, detector: Detector, auc: float, tell: Callable[[str], None]) -> Looks:
    """The look at the held-out clips, entered in the storage."""
    try:
        return enter_look(storage, held_out_clips(corpus, detector.recipe.validation), detector.recipe, auc)
    except (StorageError, OSError) as error:  # what is trained is kept, whatever a file system says
        reason = f"{database.shown(database.parse_url(storage))} could not be written"
        tell(f"this look at the held-out test clips is not counted: {error}")
        return Looks.uncounted(reason)
