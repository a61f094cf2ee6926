"""The frames that a training reads: of a corpus, and of its training clips with synthetic faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.clips.synthetic_faults import FaultKind, faulty_clips
from features.frames.feature_settings import FeatureSettings
from features.progress import Progress
from features.signs_of_life import sign_of_life
from features.store.building import open_store
from features.store.files import FrameStore
from models.recordings import FaultyCopies
from search.study.recipe import Recipe
from search.training.exposure import faults_to_learn
from search.training.memory_share import beside_share
from search.validation.split import training_clips


def stores_of(corpus: Corpus) -> Callable[[FeatureSettings], FrameStore]:
    """Return a function from features to the corpus's frames; it opens each store once.

    It is no method of a training: the recordings keep a reference to it. In a reference cycle with the training, they
    would keep all models in memory after the training. The same holds for `faulty_copies_of`.
    """
    stores: dict[str, FrameStore] = {}

    def store(features: FeatureSettings) -> FrameStore:
        if features.key not in stores:
            features.require(corpus)
            with beside_share():
                stores[features.key] = open_store(corpus.clips, features)
        return stores[features.key]

    return store


def faulty_copies_of(corpus: Corpus, recipe: Recipe) -> Callable[[], FaultyCopies]:
    """Return a function that makes the copies of the training clips with synthetic faults, once."""
    made: list[FaultyCopies] = []

    def copies() -> FaultyCopies:
        if not made:
            made.append(_faulty_copies(corpus, recipe))
        return made[0]

    return copies


def open_corpus_stores(corpus: Corpus, recipe: Recipe, *, progress: Progress | None = None) -> None:
    """Compute the frames that a recipe's training reads, unless they are stored."""
    for member in recipe.members:
        member.features.require(corpus)
        open_store(corpus.clips, member.features, progress=progress)
        if any(each.model.backend == "exposure" for each in member.scored_by):
            copies = _corpus_of_copies(corpus, recipe, progress)
            open_store(copies.clips, member.features, progress=progress)


def _faulty_copies(corpus: Corpus, recipe: Recipe) -> FaultyCopies:
    positions = {clip.name: position for position, clip in enumerate(corpus.clips)}
    copies = _corpus_of_copies(corpus, recipe, None)
    return FaultyCopies(
        store=stores_of(copies),
        paths=tuple(clip.path for clip in copies.clips),
        originals=tuple(positions[clip.name] for clip, _, _ in _faults(corpus, recipe)),
    )


def _corpus_of_copies(corpus: Corpus, recipe: Recipe, progress: Progress | None) -> Corpus:
    faults, copies = _faults(corpus, recipe), []
    for clip in faulty_clips(faults):
        copies.append(clip)
        sign_of_life()
        if progress is not None:
            progress(len(copies), len(faults))
    return replace(corpus, clips=tuple(copies))


def _faults(corpus: Corpus, recipe: Recipe) -> tuple[tuple[Clip, FaultKind, float], ...]:
    return faults_to_learn(training_clips(corpus, recipe).train, recipe.validation.seed)
