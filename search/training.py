"""The one training that trials and final training share.

Randomness restarts at each epoch from (seed, epoch): a training that goes on from a checkpoint draws the same
numbers as one that was never interrupted, and no generator's state has to be kept.
"""

from __future__ import annotations

import gc
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from features.cleaning import Outlier, clean
from features.clip import Clip
from features.corpus import Corpus, Progress
from features.frames import Frames
from features.normalization import bin_limits
from features.store import open_store
from features.store_files import FrameStore
from features.windows import ContextWindows
from models.families import build
from models.pooling import pool
from search.errors import TrialFailure
from search.evaluation import Scores
from search.recipe import Recipe
from search.split import TrainingClips, labelled_test_clips, training_clips

if TYPE_CHECKING:
    from search.exhibits import Exhibit

_log = logging.getLogger("offkey.training")

#: Windows scored at a time.
_SCORING_BATCH = 1024


def no_interruption() -> None:
    """Called before each batch where nobody can ask a training to stop."""


class Training:
    """One recipe's model on one corpus: trained epoch by epoch, scored on whatever clips it is asked for."""

    def __init__(self, recipe: Recipe, corpus: Corpus, device: torch.device) -> None:
        """Raises CorpusError, StoreError or StudyError where the recordings do not serve the recipe."""
        if recipe.training.seed is None or recipe.training.threads is None:
            raise ValueError("a recipe that is trained has a seed and a number of threads")
        free_gpu(device)
        torch.set_num_threads(recipe.training.threads)
        self.recipe = recipe
        self.device = device
        self.seed = recipe.training.seed
        self.epoch = 0
        self._corpus = corpus
        self._store = open_corpus_store(corpus, recipe)
        self.clips, self.dropped = _cleaned(training_clips(corpus, recipe), corpus, recipe)
        self.validation_clips = labelled_test_clips(corpus)
        torch.manual_seed(_seed_of(self.seed, "weights"))
        with _memory_failures():
            self._windows = self.windows_of(self.clips.train)
            self._validation_windows = self.windows_of(self.validation_clips) if self.validation_clips else None
            self.model = build(recipe.model, self._limits()).to(device)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.training.learning_rate)

    def run_epoch(self, before_batch: Callable[[], None] = no_interruption) -> None:
        """One pass over the training windows. Raises TrialFailure if the loss diverges or memory runs out."""
        torch.manual_seed(_seed_of(self.seed, f"noise {self.epoch}"))
        order = torch.Generator().manual_seed(_seed_of(self.seed, f"order {self.epoch}"))
        self.model.train()
        total = torch.zeros((), device=self.device)  # read once, after the last batch: reading waits for the device
        with _memory_failures():
            for batch in self._windows.shuffled(self.recipe.training.batch_size, order):
                before_batch()
                with _arithmetic(self.recipe, self.device):
                    loss = self.model.loss(batch)
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                total += loss.detach()
        if not torch.isfinite(total):
            raise TrialFailure(f"the loss diverged in epoch {self.epoch + 1}")
        self.epoch += 1

    def validation_scores(self) -> Scores:
        """Scores of the clips that steer the search, (clips,). Raises TrialFailure if one is not a number."""
        assert self._validation_windows is not None
        with _memory_failures():
            scores = score_windows(self.model, self._validation_windows, self.recipe)
        if not np.isfinite(scores).all():
            raise TrialFailure(f"scores are not finite after epoch {self.epoch}")
        return scores

    def _limits(self) -> tuple[Frames, Frames]:
        """What the model maps to the unit interval of each bin, (bins,) twice."""
        features = self.recipe.features
        return (
            bin_limits(self._store, self._positions(self.clips.train))
            if features.normalize == "bin"
            else features.limits
        )

    def _positions(self, clips: Sequence[Clip]) -> list[int]:
        """Where clips lie in the corpus, and in its store."""
        positions = {clip.name: position for position, clip in enumerate(self._corpus.clips)}
        return [positions[clip.name] for clip in clips]

    def windows_of(self, clips: Sequence[Clip]) -> ContextWindows:
        """Windows of some clips of the corpus."""
        return ContextWindows(
            self._store,
            self._positions(clips),
            [clip.path for clip in clips],
            context=self.recipe.model.context,
            device=self.device,
        )

    def scores_of(self, clips: Sequence[Clip]) -> Scores:
        """Scores of some clips of the corpus, (clips,)."""
        return score_windows(self.model, self.windows_of(clips), self.recipe)

    @property
    def frame_seconds(self) -> float:
        """From one frame to the next."""
        return self.recipe.features.hop_length / self.recipe.features.sample_rate

    @property
    def unit(self) -> str:
        """Of a frame's values."""
        return self.recipe.features.unit

    def frames_of(self, clip: Clip) -> Frames:
        """A clip's frames, (frames, bins)."""
        return self._store.of_clip(self._corpus.clips.index(clip))

    @torch.inference_mode()
    def reconstruction_of(self, clip: Clip) -> Frames | None:
        """What the model takes a clip for, (frames, bins): each frame from the window that it is the middle of.

        None for a family that reconstructs nothing.
        """
        self.model.eval()
        context, bins = self.recipe.model.context, self.recipe.features.bins
        middle = context // 2
        parts: list[torch.Tensor] = []
        for batch in self.windows_of([clip]).in_order(_SCORING_BATCH):
            with _arithmetic(self.recipe, self.device):
                reconstruction = self.model.reconstruct(batch)
            if reconstruction is None:
                return None
            windows = reconstruction.cpu().view(-1, context, bins)
            # The first and last frames are the middle of none.
            parts += [windows[:, middle]] if parts else [windows[0, :middle], windows[:, middle]]
            end = windows[-1, middle + 1 :]
        return np.asarray(torch.cat([*parts, end]).numpy())

    def exhibits(self, scores: Scores) -> Iterable[Exhibit]:
        """What the dashboard shows of this training with these scores of its validation clips."""
        from search.exhibits import exhibits_of  # here: what draws pictures takes a while to load

        return exhibits_of(self, scores)

    def save(self, file: BinaryIO) -> None:
        """Writes what it takes to go on from here."""
        state = {"epoch": self.epoch, "model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        torch.save(state, file)

    def resume(self, file: BinaryIO) -> None:
        """Goes on where `save` left off, on whatever device that was."""
        # Loaded to the CPU, for Adam's counters to stay there: it reads them at each step, and a device would be
        # waited for. All else is copied to where the model is.
        state = torch.load(file, map_location="cpu", weights_only=True)
        with _memory_failures():
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]


def free_gpu(device: torch.device) -> None:
    """Gives back what ended trainings held on a GPU; without effect on the CPU.

    Not at the failure itself: as long as an error is being handled, its traceback keeps the model alive.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _arithmetic(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """For forward passes and losses; gradients follow their types, and weights stay float32."""
    if recipe.training.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


#: What is said by those who have no exception of their own: torch's CPU allocator, cuBLAS, the CUDA driver.
_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


@contextmanager
def _memory_failures() -> Iterator[None]:
    """Memory that does not suffice for a model is that trial's own failure; a GPU's other errors are the machine's."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrialFailure("out of memory") from error
    except RuntimeError as error:
        if not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        raise TrialFailure("out of memory") from error


def open_corpus_store(corpus: Corpus, recipe: Recipe, *, progress: Progress | None = None) -> FrameStore:
    """The corpus's frames under a recipe's features."""
    recipe.features.require(corpus)
    return open_store(corpus.clips, recipe.features, progress=progress)


def _cleaned(clips: TrainingClips, corpus: Corpus, recipe: Recipe) -> tuple[TrainingClips, tuple[Outlier, ...]]:
    """Without the training clips that the recipe's cleaning leaves out, and these."""
    kept, dropped = clean(clips.train, corpus, recipe.cleaning, recipe.features)
    if recipe.cleaning.method != "none" and not dropped:
        _log.warning("cleaning left out no training clip: %g of them is less than one of any ID", recipe.cleaning.drop)
    for outlier in dropped:
        _log.info("left out of the training: %s (%s)", outlier.clip.name, outlier.reason)
    return replace(clips, train=kept), dropped


@torch.inference_mode()
def score_windows(model: torch.nn.Module, windows: ContextWindows, recipe: Recipe) -> Scores:
    """One score for each of the windows' clips, (clips,) float64."""
    model.eval()
    # Filled in place: results kept between large passing arrays would leave holes that grow with the corpus.
    scores = torch.empty(len(windows), device=windows.device)
    clips = torch.empty(len(windows), dtype=torch.int64, device=windows.device)
    done = 0
    with _arithmetic(recipe, windows.device):
        for batch in windows.in_order(_SCORING_BATCH):
            part = slice(done, done := done + len(batch.clips))
            scores[part] = model.score(batch)  # type: ignore[operator]
            clips[part] = batch.clips
    # Pooled on the CPU: a GPU adds in whatever order, and a trial's value would not be the same twice.
    scoring = recipe.scoring
    pooled = pool(
        scores.cpu(),
        clips.cpu(),
        clip_count=windows.clip_count,
        pooling=scoring.pooling,
        decay=scoring.decay,
        top_share=scoring.top_share,
    )
    return np.asarray(pooled.numpy(), dtype=np.float64)


def _seed_of(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8]) >> 1
