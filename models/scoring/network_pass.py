"""What a network says of recordings, read in one pass for one detector or for several that share the network.

    window scores     (windows,) float32 on the CPU, with (windows,) int64, the position of each window's clip
    clip embeddings   (clips, dim) float64, statistics of those of its windows (models.scoring.statistics), or of the
                      errors of their reconstruction; computed while the network is at work: memory does not grow with
                      the windows

A pass gives the same numbers to the last bit, whichever other readings it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from features.signs_of_life import sign_of_life
from features.windows.excerpts import Batch, Excerpts
from models.anomaly_model import AnomalyModel, ReconstructingModel
from models.labels import Labels
from models.member import Member
from models.recordings import Recordings
from models.scoring.scores import Array
from models.scoring.statistics import Statistics, clip_statistics, input_levels
from models.settings import DensitySettings, ReconstructionSettings

#: Windows or crops scored at a time, at most, and numbers that they may hold together.
_MOST_EXCERPTS, _MOST_NUMBERS = 1024, 4_000_000


class WindowScores(NamedTuple):
    """The network's own score of each window or crop."""

    scores: Tensor  # (windows,) float32, on the CPU
    levels: Tensor  # (windows,) float32, of the window's inputs
    clips: Tensor  # (windows,) int64


@dataclass(frozen=True)
class Reading:
    """What one detector needs of a network: its own window scores, or the embeddings or residuals of clips."""

    score: str | None  # the kind of window score; None for embeddings and residuals
    statistics: Statistics | None = None  # of the embeddings or residuals
    points: str = "embedding"

    @classmethod
    def of(cls, member: Member) -> Reading:
        """The reading that a member's settings ask for."""
        if member.model.backend is None:
            return cls(score=str(getattr(member.model, "score", "score")))
        assert isinstance(member.model, DensitySettings)
        points = member.model.points if isinstance(member.model, ReconstructionSettings) else "embedding"
        return cls(score=None, statistics=Statistics.of(member.model), points=points)

    def vectors(self, model: AnomalyModel, batch: Batch) -> Tensor:
        """What a density judges of each window, (batch, dim) float32."""
        if self.points == "embedding":
            return model.embed(batch).float()
        assert isinstance(model, ReconstructingModel)
        return model.residual(batch).float()


class NetworkPass:
    """The readings of detectors that share a network, kept while its weights stay as they are."""

    def __init__(self, member: Member, labels: Labels, models: Mapping[Reading, AnomalyModel]) -> None:
        """`models` are one network under the settings of each reading; `member` gives its features and excerpts."""
        self._member, self._labels, self._models = member, labels, models
        self._window_scores: dict[tuple[Recordings, Reading], WindowScores] = {}
        self._embeddings: dict[tuple[Recordings, Reading], Array] = {}

    def window_scores(self, recordings: Recordings, reading: Reading) -> WindowScores:
        """The score of each window of these clips."""
        if (recordings, reading) not in self._window_scores:
            self._score(recordings)
        return self._window_scores[recordings, reading]

    def embeddings(self, recordings: Recordings, reading: Reading) -> Array:
        """The embedding of each clip, (clips, dim). Raises FloatingPointError where the network has diverged."""
        if (recordings, reading) not in self._embeddings:
            self._embed(recordings, reading.points)
        embeddings = self._embeddings[recordings, reading]
        if not np.isfinite(embeddings).all():
            raise FloatingPointError("embeddings are not finite")
        return embeddings

    @torch.inference_mode()
    def _score(self, recordings: Recordings) -> None:
        """Every reading of window scores."""
        for reading, model in self._models.items():
            if reading.score is not None:
                model.eval()
                self._window_scores[recordings, reading] = self._scored(recordings, model.score)

    def _scored(self, recordings: Recordings, score: Callable[[Batch], Tensor]) -> WindowScores:
        count = len(self._excerpts(recordings))
        # Filled in place: results kept between large passing arrays would leave holes that grow with the corpus.
        scores = torch.empty(count, device=recordings.device)
        levels = torch.empty(count, device=recordings.device)
        clips = torch.empty(count, dtype=torch.int64, device=recordings.device)
        done = 0
        for batch in self._in_order(recordings):
            part = slice(done, done := done + len(batch.clips))
            scores[part] = score(batch)
            levels[part] = input_levels(batch.inputs)
            clips[part] = batch.clips
        # Pooled on the CPU: a GPU adds in whatever order, and a trial's value would not be the same twice.
        return WindowScores(scores.cpu(), levels.cpu(), clips.cpu())

    @torch.inference_mode()
    def _embed(self, recordings: Recordings, points: str) -> None:
        """Every reading of embeddings, or of residuals, at once: no setting of scoring changes either."""
        readings = [reading for reading in self._models if reading.statistics is not None and reading.points == points]
        first, each = readings[0], [reading.statistics for reading in readings if reading.statistics is not None]
        model = self._models[first].eval()

        def embedded() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for batch in self._in_order(recordings):
                yield first.vectors(model, batch).cpu(), input_levels(batch.inputs).cpu(), batch.clips.cpu()

        found = clip_statistics(embedded(), clip_count=len(recordings), each=each)
        for reading, embeddings in zip(readings, found, strict=True):
            self._embeddings[recordings, reading] = embeddings

    def _in_order(self, recordings: Recordings) -> Iterator[Batch]:
        features = self._member.features
        size = self._member.model.excerpt_frames(features.bins) * features.bins
        for batch in self._excerpts(recordings).in_order(max(min(_MOST_EXCERPTS, _MOST_NUMBERS // size), 1)):
            yield batch
            sign_of_life()

    def _excerpts(self, recordings: Recordings) -> Excerpts:
        return recordings.excerpts(self._member.features, self._member.model, self._labels)
