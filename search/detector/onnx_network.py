"""A whole detector as one network, from waveforms to scores: `search.detector.onnx_export` writes it to a file.

waveforms   : (batch, samples) float32, full scale is [-1, 1); one channel, at the detector's sample rate, all of one
              length
machine_ids : (batch,) int64, which of the detector's machine IDs each clip is of; -1 for one never trained on
scores      : (batch,) float64, higher is more anomalous; not a number for a machine ID that the detector was not
              trained on and cannot score, and for clips that do not fill one of its windows or crops

It repeats what `models.scoring.scorer` does with numpy around the networks, in operations that ONNX has; statistics
over time are in search.detector.onnx_statistics. It does not support:

    ensembles; features other than log-mel; bfloat16; the densities gmm and lof; empirical calibration
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from features.clips.machine_id import MachineId
from features.errors import OffkeyError
from features.frames.waveform_network import WaveformNetwork
from features.windows.excerpts import Batch
from models.labels import UNKNOWN
from models.member import Member
from models.scoring.densities.density import PointScorer
from models.scoring.densities.exposure import Exposure
from models.scoring.densities.kernel_machine import KernelMachine
from models.scoring.densities.mahalanobis import Mahalanobis
from models.scoring.densities.nearest import Knn
from models.scoring.densities.ocsvm import OneClassSvm
from models.scoring.per_machine_type import PerMachineType
from models.scoring.scorer import Calibrated, PerId, Scorer, Single
from models.scoring.statistics import input_levels
from models.settings import CropSettings, ScoringSettings
from search.detector.bundle import Bundle
from search.detector.onnx_statistics import mean_by_rank, statistics_of


class OnnxError(OffkeyError):
    """A detector cannot be written as an ONNX file."""


class DetectorNetwork(nn.Module):
    """From waveforms, and machine IDs if they matter (`takes_ids`), to scores."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises OnnxError, which names the setting, for a detector with a part that is not supported."""
        super().__init__()
        _require_supported(bundle)
        scorer = bundle.scorer
        self.front_end = WaveformNetwork(bundle.recipe.features)
        self.scorer = _network_of(scorer)
        self.least_frames = bundle.recipe.model.excerpt_frames(bundle.recipe.features.bins)
        self.id_count = len(bundle.labels.ids)
        self.least_id = UNKNOWN if scorer.scores_unknown_ids else 0
        is_single = isinstance(scorer, Single) and scorer.densities is None
        self.takes_ids = not is_single or bundle.recipe.model.knows_ids

    def forward(self, waveforms: Tensor, machine_ids: Tensor | None = None) -> Tensor:
        frames = self.front_end(waveforms)
        suffices = torch.ones_like(frames[:, :, 0]).sum(dim=1) >= self.least_frames
        if machine_ids is None:
            scores = self.scorer(frames, torch.zeros_like(waveforms[:, 0], dtype=torch.int64))
            return torch.where(suffices, scores, torch.nan)
        known = machine_ids.clamp(self.least_id, self.id_count - 1)
        return torch.where(suffices & (known == machine_ids), self.scorer(frames, known), torch.nan)


class _SingleNetwork(nn.Module):
    """One model: frames (batch, frames, bins), machine IDs (batch,) → scores (batch,)."""

    def __init__(self, single: Single) -> None:
        super().__init__()
        member = single.member
        self.single = single
        self.scoring = member.scoring
        self.statistics = single.reading.statistics
        self.length = member.model.excerpt_frames(member.features.bins)
        self.hop = member.model.hop(member.features.bins) if isinstance(member.model, CropSettings) else None

    def forward(self, frames: Tensor, ids: Tensor) -> Tensor:
        clips, bins = frames.shape[0], frames.shape[2]
        firsts = self._firsts(frames.shape[1])
        count = firsts.shape[0]
        stretches = frames[:, firsts[:, None] + torch.arange(self.length)]  # (clips, count, length, bins)
        owners = torch.arange(clips)[:, None].expand(clips, count).reshape(clips * count)
        if self.hop is None:
            inputs = stretches.reshape(clips * count, self.length * bins)
        else:
            inputs = stretches.transpose(2, 3).reshape(clips * count, 1, bins, self.length)
        batch = Batch(inputs=inputs, clips=owners, ids=ids[owners])
        if self.single.densities is None:
            return _pooled(self.single.model.score(batch).reshape(clips, count).double(), self.scoring)
        assert self.statistics is not None
        vectors = self.single.reading.vectors(self.single.model, batch)
        vectors = vectors.reshape(clips, count, vectors.shape[1]).double()
        points = statistics_of(vectors, input_levels(inputs).reshape(clips, count), self.statistics)
        return _chosen([_scores(density, points) for density in self.single.densities], ids)

    def _firsts(self, frames: int) -> Tensor:
        """The first frames of a clip's windows or crops, (count,), as in features.windows.excerpts and .crops."""
        last = frames - self.length
        if self.hop is None:
            return torch.arange(last + 1)
        firsts = self.hop * torch.arange((last + self.hop - 1) // self.hop + 1)
        # A clip shorter than a crop has a negative last one, which would begin at the clip's end.
        return firsts.clamp(max=last).clamp(min=0)


class _PerIdNetwork(nn.Module):
    """One model for each machine ID, and perhaps one for all: each scores every clip, and the clip's own is chosen."""

    def __init__(self, scorer: PerId) -> None:
        super().__init__()
        self.models = nn.ModuleList(_SingleNetwork(single) for single in scorer.singles())
        self.id_count = len(scorer.labels.ids)

    def forward(self, frames: Tensor, ids: Tensor) -> Tensor:
        own = torch.zeros_like(ids)  # a model of one ID knows it as number 0
        return _chosen(
            [model(frames, own if index < self.id_count else ids) for index, model in enumerate(self.models)], ids
        )


class _CalibratedNetwork(nn.Module):
    """Scores in standard deviations from the mean of their machine ID's normal clips."""

    slopes: Tensor  # (ids + 1,) float64, of the unknown last
    offsets: Tensor  # (ids + 1,) float64

    def __init__(self, scorer: Calibrated) -> None:
        super().__init__()
        self.scorer = _network_of(scorer.scorer)
        ids = np.array([*range(len(scorer.labels.ids)), UNKNOWN])
        # Calibration is linear: two points determine it.
        offsets = scorer.calibration.calibrated(np.zeros(len(ids)), ids)
        self.register_buffer("offsets", torch.from_numpy(offsets))
        slopes = scorer.calibration.calibrated(np.ones(len(ids)), ids) - offsets
        self.register_buffer("slopes", torch.from_numpy(slopes))

    def forward(self, frames: Tensor, ids: Tensor) -> Tensor:
        scores: Tensor = self.scorer(frames, ids)
        return scores * self.slopes[ids] + self.offsets[ids]


class _PerMachineTypeNetwork(nn.Module):
    """One detector for each machine type: each scores every clip, and that of the clip's machine ID is chosen."""

    which: Tensor  # (ids,) int64, the position of each machine ID's detector

    def __init__(self, scorer: PerMachineType) -> None:
        super().__init__()
        self.scorers = nn.ModuleList(map(_network_of, scorer.each))
        machines = [MachineId.parse(name).machine for name in scorer.labels.ids]
        self.register_buffer("which", torch.tensor([scorer.which[machine] for machine in machines]))

    def forward(self, frames: Tensor, ids: Tensor) -> Tensor:
        return _chosen([network(frames, ids) for network in self.scorers], self.which[ids])


def _network_of(scorer: Scorer) -> nn.Module:
    if isinstance(scorer, Calibrated):
        return _CalibratedNetwork(scorer)
    if isinstance(scorer, PerMachineType):
        return _PerMachineTypeNetwork(scorer)
    if isinstance(scorer, PerId):
        return _PerIdNetwork(scorer)
    assert isinstance(scorer, Single)
    return _SingleNetwork(scorer)


def _require_supported(bundle: Bundle) -> None:
    recipe = bundle.recipe
    if recipe.ensemble:
        raise OnnxError(
            "an ensemble cannot be written as an ONNX file, but each of its members can: `offkey train` a recipe of one"
        )
    if recipe.features.kind != "logmel":
        raise OnnxError(f"features.kind: logmel can be written as an ONNX file, but this is {recipe.features.kind}")
    for member in recipe.member.scored_by:
        _require_scoring_supported(member)


def _require_scoring_supported(member: Member) -> None:
    if member.model.backend is not None and member.model.backend not in ("mahalanobis", "knn", "ocsvm", "exposure"):
        raise OnnxError(
            "mahalanobis, knn, ocsvm and exposure can be written as an ONNX file, but model.score is "
            f"{member.model.backend}"
        )
    if member.scoring.windows != "all":
        raise OnnxError(f"scoring.windows: all can be written as an ONNX file, but this is {member.scoring.windows}")
    if member.scoring.calibration == "empirical":
        raise OnnxError("scoring.calibration: none and z can be written as an ONNX file, but this is empirical")


def _chosen(of_all: list[Tensor], ids: Tensor) -> Tensor:
    """Each clip's own score, from scores (batch,) by the model or density of each ID; ID -1 takes the last one's."""
    scores = torch.stack(of_all, dim=1)  # (batch, models)
    at = torch.where(ids < 0, len(of_all) - 1, ids)
    return scores.gather(1, at[:, None])[:, 0]


def _pooled(scores: Tensor, scoring: ScoringSettings) -> Tensor:
    """One score for each clip from its windows' scores, (batch, windows) float64, as in models.scoring.pooling."""
    if scoring.pooling == "max":
        return scores.amax(dim=1)
    if scoring.pooling == "top":
        ranked = scores.sort(dim=1, descending=True).values
        ranks = torch.arange(scores.shape[1]).double()
        weights = (ranks < torch.ceil(scoring.top_share * (ranks[-1] + 1) - 1e-9).clamp(min=1)).double()
        return (ranked * weights).sum(dim=1) / weights.sum()
    return mean_by_rank(scores, scoring.decay if scoring.pooling == "gwrp" else 1.0)


def _scores(density: nn.Module, points: Tensor) -> Tensor:
    """The score of each point, (clips,)."""
    assert isinstance(density, PointScorer)
    if density.standardizes:
        points = (points - density.point_mean) / density.point_deviations
    return _FORMULAS[type(density)](density, points)


def _mahalanobis(density: Mahalanobis, points: Tensor) -> Tensor:
    centred = points - density.mean
    along = centred @ density.directions.T  # (clips, rank)
    squared = (along.square() / density.variances).sum(dim=1)
    if len(density.directions) < density.mean.shape[0]:
        squared = squared + (centred - along @ density.directions).square().sum(dim=1) / density.rest
    return squared.sqrt()


def _nearest(density: Knn, points: Tensor) -> Tensor:
    count = min(density.neighbours, len(density.reference))
    if density.is_cosine:
        lengths = points.square().sum(dim=1, keepdim=True).sqrt()
        distances = _squares(points / torch.where(lengths > 0, lengths, 1.0), density.reference) / 2
    else:
        distances = _squares(points, density.reference).sqrt()
    nearest: Tensor = (distances / density.local).topk(count, dim=1, largest=False).values
    return nearest.mean(dim=1)


def _kernels(density: KernelMachine, points: Tensor) -> Tensor:
    return -(torch.exp(-density.gamma * _squares(points, density.support)) @ density.coefficients) - density.intercept


def _squares(points: Tensor, others: Tensor) -> Tensor:
    """The squares of all distances, (points, others); torch.cdist would take a shortcut that loses digits."""
    return (points[:, None] - others).square().sum(dim=2)


_FORMULAS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    Mahalanobis: _mahalanobis,
    Knn: _nearest,
    OneClassSvm: _kernels,
    Exposure: _kernels,
}
