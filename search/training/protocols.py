"""What a trial needs of a training, with or without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.frames.framing import Frames
from models.scoring.scores import Scores
from search.artifacts.checkpoints import Resumable
from search.study.recipe import Recipe


class TrialTraining(Resumable, Protocol):
    """The training of a trial: one `search.training.loop.Training`, a stand-in without torch, or a cross-validation."""

    @property
    def step(self) -> int | None:
        """The step that the last epoch has reached; None between two steps."""

    @property
    def parameters(self) -> int: ...

    def run_epoch(self, before_batch: Callable[[], None]) -> None: ...

    def validation_scores(self) -> Scores:
        """At a step, return the scores of the validation clips of all folds so far, (clips,), in the truth's order."""

    def latency_ms(self) -> float: ...


class Showable(Protocol):
    """A model whose validation clips can be shown: their frames, and its reconstruction of them."""

    @property
    def validation_clips(self) -> Sequence[Clip]: ...

    @property
    def frame_seconds(self) -> float: ...

    @property
    def unit(self) -> str: ...

    def frames_of(self, clip: Clip) -> Frames: ...

    def reconstruction_of(self, clip: Clip) -> Frames | None: ...


class ModelTraining(TrialTraining, Showable, Protocol):
    """The training of a single model, not of several folds."""


#: Starts the training of a recipe on a corpus and a device.
Train = Callable[[Recipe, Corpus, str], ModelTraining]
