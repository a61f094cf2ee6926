"""What a trial needs of a training, with or without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.errors import UnservedError
from features.frames.framing import Frames
from models.scoring.combination import Scales
from models.scoring.scores import Scores
from search.artifacts.checkpoints import Resumable
from search.errors import TrialFailure
from search.study.recipe import Recipe

#: The scores of validation clips under one variant, (clips,), or the reason why it gives no detector.
VariantScores = Scores | UnservedError | TrialFailure | FloatingPointError


class Evidence(Protocol):
    """What a study knows of the variants of a trial's family."""

    def of_machine(self, machine: str) -> Evidence:
        """Return what the study knows of them for one machine type, where each type takes a variant of its own."""

    def judges(self, step: int, *, has_choice: bool) -> bool:
        """Whether validation clips are scored after this step of a training; they always are after the last one.

        With a choice among variants, each of them is scored.
        """

    def others(self, variants: str) -> Sequence[Sequence[float | None]]:
        """Return the last table of each other complete training of the family that has the same variants."""

    def own(self) -> Mapping[int, Sequence[float | None]]:
        """Return the tables that an earlier worker kept of this trial, by step."""

    def keep(self, step: int, values: Sequence[float | None], variants: str) -> None:
        """Keep a table of this trial, the value of each variant; `variants` is a digest of the variants."""

    def take(self, values: Mapping[str, Any], curve: Mapping[int, float]) -> None:
        """Note which variant the trial takes: its parameters, and its value at each judged step."""


class TrialTraining(Resumable, Protocol):
    """The training of a trial: one `search.training.loop.Training`, a stand-in without torch, or a cross-validation."""

    @property
    def parameters(self) -> int: ...

    @property
    def step(self) -> int | None:
        """The step that the last epoch has reached; None between two steps."""

    def validation_scores(self) -> Scores:
        """At a step, return the scores of the validation clips of all folds so far, (clips,), in the truth's order."""

    def scores_of_variants(self, recipes: Sequence[Recipe]) -> list[VariantScores]:
        """At a step, return the scores as `validation_scores`, by recipes that differ in settings of scoring alone."""

    def run_epoch(self, before_batch: Callable[[], None]) -> None: ...

    def scales_of(self, recipe: Recipe) -> Scales | None:
        """Return the scale to which an ensemble would bring the scores of the validation clips by this recipe.

        None if they have no such scale. `recipe` differs from that of the training in settings of scoring alone.
        """

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
