"""What the objective asks of a recipe in training, whatever it is trained by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.frames.framing import Frames
from models.scoring.scores import Scores
from search.artifacts.checkpoints import Resumable
from search.study.recipe import Recipe


class Trained(Resumable, Protocol):
    """A recipe in training: `search.training.loop.Training`, a stand-in that needs no torch, or several of these."""

    @property
    def step(self) -> int | None:
        """The step that was just reached; None in between."""

    @property
    def parameters(self) -> int: ...

    def run_epoch(self, before_batch: Callable[[], None]) -> None: ...

    def validation_scores(self) -> Scores:
        """At a step: of all clips that have been scored so far, in the order of the truth's."""

    def latency_ms(self) -> float: ...


class Shown(Protocol):
    """A model whose validation clips can be looked at."""

    @property
    def validation_clips(self) -> Sequence[Clip]: ...

    @property
    def frame_seconds(self) -> float: ...

    @property
    def unit(self) -> str: ...

    def frames_of(self, clip: Clip) -> Frames: ...

    def reconstruction_of(self, clip: Clip) -> Frames | None: ...


class TrainedModel(Trained, Shown, Protocol):
    """One model: not several folds' together."""


Train = Callable[[Recipe, Corpus, str], TrainedModel]
