"""The training loop that trials and final training share.

Random generators restart at each epoch from (seed, epoch). So a training that continues from a checkpoint draws the
same numbers as one that was never interrupted, and no generator's state has to be saved.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import torch

from features.cleaning import Outlier, clean
from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.errors import UnservedError
from features.frames.framing import Frames
from features.signs_of_life import slow_step
from features.windows.normalization import bin_limits
from models.labels import Labels
from models.member import Member
from models.precision import native_precision
from models.recordings import Recordings
from models.scoring.calibration import Calibration
from models.scoring.combination import Scales
from models.scoring.network_pass import NetworkPass
from models.scoring.reconstruction import reconstruction_of
from models.scoring.scorer import Calibrated, Scorer, Single
from models.scoring.scorer_of_recipe import scorer_of, sharing
from models.scoring.scores import Scores
from search.errors import TrialFailure
from search.study.precision import with_precision
from search.study.recipe import Recipe
from search.training.memory import free_gpu, memory_failures
from search.training.protocols import VariantScores
from search.training.stores import faulty_copies_of, stores_of
from search.validation.split import TrainingClips, labelled_test_clips, training_clips

_log = logging.getLogger(__name__)


#: How many clips are scored to measure the latency.
_TIMED_CLIPS = 9


def no_interruption() -> None:
    """Do nothing before a batch: for trainings that nobody can stop."""


class _Run:
    """The training of one network over its epochs."""

    def __init__(self, single: Single, recordings: Recordings, seed: int) -> None:
        settings = single.member.training
        self.single = single
        self.seed = seed if settings.seed is None else settings.seed
        self.epochs = settings.epochs if single.member.model.is_trained else 0
        self._batch_size = settings.batch_size
        self._device = recordings.device
        self._excerpts = recordings.excerpts(single.member.features, single.member.model, single.labels)
        fewest = single.member.model.fewest_in_batch
        if self.epochs and min(settings.batch_size, self._excerpts.epoch_length) < fewest:
            raise UnservedError(
                f"model.family {single.member.model.family} normalises over each batch: it learns from at least "
                f"{fewest} windows or crops at a time, but training.batch_size is {settings.batch_size}, and an epoch "
                f"has {self._excerpts.epoch_length} of {', '.join(single.labels.ids)}. Raise training.batch_size, "
                f"lower {single.member.model.excerpt_setting}, or train on more clips"
            )
        parameters = list(single.model.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate) if parameters else None

    def run_epoch(self, epoch: int, before_batch: Callable[[], None]) -> bool:
        """Train for one epoch; return whether the loss stayed finite."""
        assert self.optimizer is not None
        torch.manual_seed(_seed_of(self.seed, f"noise {epoch}"))
        order = torch.Generator().manual_seed(_seed_of(self.seed, f"order {epoch}"))
        self.single.model.train()
        total = torch.zeros((), device=self._device)  # read once, after the last batch: reading waits for the device
        for batch in self._excerpts.shuffled(self._batch_size, order):
            before_batch()
            with self.single.arithmetic(self._device):
                loss = self.single.model.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()
        return bool(torch.isfinite(total))


class Training:
    """The training of a recipe on a corpus, epoch by epoch; it can score any clips of the corpus."""

    def __init__(self, recipe: Recipe, corpus: Corpus, device: torch.device) -> None:
        """Prepare a training, in the precision that the device computes natively where the recipe leaves it open.

        Raises CorpusError, StoreError or StudyError if the clips cannot serve the recipe.
        """
        free_gpu(device)
        recipe = with_precision(recipe, None, native=lambda: native_precision(device))
        if recipe.training.seed is None or recipe.training.threads is None:
            raise ValueError("a recipe that is trained has a seed and a number of threads")
        torch.set_num_threads(recipe.training.threads)
        self.recipe = recipe
        self.device = device
        self.seed = recipe.training.seed
        self.epoch = 0
        self._positions = {clip.name: position for position, clip in enumerate(corpus.clips)}
        self._store = stores_of(corpus)
        self.clips, self.dropped = _cleaned(training_clips(corpus, recipe), corpus, recipe)
        self.validation_clips = labelled_test_clips(corpus)
        self.labels = self.clips.labels
        recipe.member.require(self.labels, {clip.id_name for clip in self.validation_clips})
        copies = faulty_copies_of(corpus, recipe)
        self._train = replace(self.recordings_of(self.clips.train), faulty_copies=copies)
        self._withheld = self.recordings_of(self.clips.withheld)
        self._validation = self.recordings_of(self.validation_clips)
        with memory_failures():
            self.scorer = scorer_of(recipe.member, self.labels, self._fresh).to(device)
            self._runs = [
                _Run(single, self._train.of_ids(single.labels.ids), self.seed) for single in self.scorer.singles()
            ]
        self._fitted_epoch = -1
        self._passes: list[NetworkPass] = []  # of the variants that were last scored, one for each network

    @property
    def steps(self) -> int:
        """The steps so far: trials are compared after each epoch."""
        return self.epoch

    @property
    def step(self) -> int | None:
        return self.steps or None

    @property
    def parameters(self) -> int:
        """The number of learnt numbers of all networks."""
        return sum(weights.numel() for weights in self.scorer.parameters())

    def run_epoch(self, before_batch: Callable[[], None] = no_interruption) -> None:
        """Train on all training clips once. Raises TrialFailure if the loss diverges or memory runs out."""
        self._passes = []  # they hold for the weights before this epoch
        for run in self._runs:
            if self.epoch < run.epochs:
                with memory_failures():
                    is_finite = run.run_epoch(self.epoch, before_batch)
                if not is_finite:
                    raise TrialFailure(f"the loss diverged in epoch {self.epoch + 1}")
        self.epoch += 1

    def validation_scores(self) -> Scores:
        """Return the scores of the validation clips, (clips,). Raises TrialFailure if one is not finite."""
        scores = self._scores_of(self._validation)
        if not np.isfinite(scores).all():
            raise TrialFailure(f"scores are not finite after epoch {self.epoch}")
        return scores

    def scores_of_variants(self, recipes: Sequence[Recipe]) -> list[VariantScores]:
        """Return the scores of the validation clips by recipes that differ in settings of scoring alone, (clips,) each.

        Each network reads the recordings once for all of them. A recipe that gives no detector has its reason instead.
        """
        scorers = [self._sharing(recipe) for recipe in recipes]
        self._passes = []
        for network, singles in enumerate(zip(*(list(scorer.singles()) for scorer in scorers), strict=True)):
            first = list(self.scorer.singles())[network]
            shared = NetworkPass(first.member, first.labels, {single.reading: single.model for single in singles})
            for single in singles:
                single.shared_pass = shared
            self._passes.append(shared)
        return [self._scores_or_reason(scorer) for scorer in scorers]

    def scales_of(self, recipe: Recipe) -> Scales | None:
        """Return the scale to which an ensemble would bring the scores of the validation clips by this recipe.

        None if there are too few normal clips, or if empirical calibration has bent the scale of the scores. It is that
        of `models.scoring.scorer.Calibrated` as a member of the ensemble.
        """
        if any(each.scoring.calibration == "empirical" for each in recipe.member.scored_by):
            return None
        try:
            with memory_failures():
                member = Calibrated(self._fitted(recipe), self.labels, Calibration("z"), is_member=True)
                member.calibrate(self._train, self._withheld)
        except (FloatingPointError, UnservedError, TrialFailure) as reason:
            _log.info("no scale for ensembles: %s", reason)
            return None
        scale_of = member.calibration.scale_of
        return {name: scale_of(self.labels.id_index(name)) for name in sorted(set(self._validation.ids))}

    def _fitted(self, recipe: Recipe) -> Scorer:
        """Return the scorer of a recipe; it reads recordings again only if no variant has read them in this epoch."""
        if recipe == self.recipe and self._fitted_epoch == self.epoch:
            return self.scorer
        scorer = self._sharing(recipe)
        scorer.read_in(self._passes)
        with slow_step():
            scorer.fit(self._train, self._withheld)
        return scorer

    def _sharing(self, recipe: Recipe) -> Scorer:
        """Create the scorer of a recipe around the networks of this training."""
        return sharing(self.scorer, recipe.member, self.labels)

    def _scores_or_reason(self, scorer: Scorer) -> VariantScores:
        try:
            with memory_failures():
                with slow_step():
                    scorer.fit(self._train, self._withheld)
                scores = scorer.scores_of(self._validation)
        except (FloatingPointError, UnservedError, TrialFailure) as reason:
            return reason
        return scores if np.isfinite(scores).all() else FloatingPointError("scores are not finite")

    def scores_of(self, clips: Sequence[Clip]) -> Scores:
        """Return the scores of these clips of the corpus, (clips,)."""
        return self._scores_of(self.recordings_of(clips))

    def _scores_of(self, recordings: Recordings) -> Scores:
        try:
            with memory_failures():
                if self._fitted_epoch != self.epoch:
                    with slow_step():
                        self.scorer.fit(self._train, self._withheld)
                    self._fitted_epoch = self.epoch
                return self.scorer.scores_of(recordings)
        except FloatingPointError as error:
            raise TrialFailure(f"{error} after epoch {self.epoch}") from error

    def latency_ms(self) -> float:
        """Measure the milliseconds from a wav file to its score, one clip at a time: the median of up to 9 clips."""
        milliseconds = []
        for clip in (self.validation_clips[0], *self.validation_clips[:_TIMED_CLIPS]):
            start = time.perf_counter()
            file = Recordings.of_file(clip.path, name=clip.id_name, attributes=clip.attributes, device=self.device)
            self._scores_of(file)
            milliseconds.append((time.perf_counter() - start) * 1000)
        return float(np.median(milliseconds[1:]))  # the first run only warms up

    def recordings_of(self, clips: Sequence[Clip]) -> Recordings:
        """Return these clips of the corpus as models see them."""
        return Recordings(
            store=self._store,
            positions=tuple(self._positions[clip.name] for clip in clips),
            paths=tuple(clip.path for clip in clips),
            ids=tuple(clip.id_name for clip in clips),
            attributes=tuple(clip.attributes for clip in clips),
            device=self.device,
        )

    def _fresh(self, member: Member, labels: Labels) -> Single:
        """Create a model with random weights that depend on its seed alone, not on what was created before."""
        seed = self.seed if member.training.seed is None else member.training.seed
        torch.manual_seed(_seed_of(seed, "weights"))
        features = member.features
        train = self._train.of_ids(labels.ids)
        for recordings in (train, self._validation.of_ids(labels.ids)):  # refused here, before any training
            if len(recordings):
                recordings.excerpts(features, member.model, labels)
        limits = bin_limits(self._store(features), train.positions) if features.normalize == "bin" else features.limits
        return Single.fresh(member, labels, limits)

    @property
    def frame_seconds(self) -> float:
        """The seconds from one frame to the next, for the first model."""
        features = self.recipe.members[0].features
        return features.hop_length / features.sample_rate

    @property
    def unit(self) -> str:
        """The unit of a frame's values."""
        return self.recipe.members[0].features.unit

    def frames_of(self, clip: Clip) -> Frames:
        """Return a clip's frames, (frames, bins)."""
        return self._store(self.recipe.members[0].features).of_clip(self._positions[clip.name])

    def reconstruction_of(self, clip: Clip) -> Frames | None:
        """Return the first model's reconstruction of a clip, (frames, bins); None if its family has none."""
        return reconstruction_of(self.scorer.single_of(clip.id_name), self.recordings_of([clip]))

    def save(self, file: BinaryIO) -> None:
        """Write a checkpoint: epoch, weights, and the optimizers' states."""
        optimizers = [None if run.optimizer is None else run.optimizer.state_dict() for run in self._runs]
        torch.save({"epoch": self.epoch, "scorer": self.scorer.state_dict(), "optimizers": optimizers}, file)

    def resume(self, file: BinaryIO) -> None:
        """Continue from a checkpoint that `save` wrote, on this or another device."""
        # Loaded to the CPU, so that Adam's counters stay there: Adam reads them at each step, and would have to wait
        # for a GPU. Everything else is copied to the model's device.
        state = torch.load(file, map_location="cpu", weights_only=True)
        with memory_failures():
            self.scorer.load_state_dict(state["scorer"])
            for run, optimizer in zip(self._runs, state["optimizers"], strict=True):
                if run.optimizer is not None:
                    run.optimizer.load_state_dict(optimizer)
        self.epoch = state["epoch"]


def _cleaned(clips: TrainingClips, corpus: Corpus, recipe: Recipe) -> tuple[TrainingClips, tuple[Outlier, ...]]:
    """Return the training clips that the recipe's cleaning keeps, and those that it leaves out."""
    kept, dropped = clean(clips.train, corpus, recipe.cleaning, recipe.features)
    if recipe.cleaning.method != "none" and not dropped:
        _log.warning("cleaning left out no training clip: %g of them is less than one of any ID", recipe.cleaning.drop)
    for outlier in dropped:
        _log.info("left out of the training: %s (%s)", outlier.clip.name, outlier.reason)
    return replace(clips, train=kept), dropped


def _seed_of(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8]) >> 1
