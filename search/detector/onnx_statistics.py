"""Statistics over time in operations that ONNX has: models.scoring.statistics, for a batch of clips at once.

vectors : (clips, windows, dim) float64
levels  : (clips, windows) float32
result  : (clips, k · dim) float64
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.scoring.statistics import Statistics
from models.settings import Statistic


def statistics_of(vectors: Tensor, levels: Tensor, statistics: Statistics) -> Tensor:
    """The statistics of each clip, one after another, whitened if that is asked for."""
    found = [_statistic(name, vectors, levels, statistics) for name in statistics.names]
    if statistics.bands:
        found = [part - _running_median(part, statistics.bands) for part in found]
    return torch.cat(found, dim=1)


def mean_by_rank(values: Tensor, decay: float) -> Tensor:
    """The mean over dimension 1, weights falling by `decay` from the largest value to the next."""
    if decay == 1:
        return values.mean(dim=1)
    weights = torch.pow(decay, torch.arange(values.shape[1]).double())
    total: Tensor = torch.tensordot(values.sort(dim=1, descending=True).values, weights, dims=([1], [0]))
    return total / weights.sum()


def _statistic(name: Statistic, vectors: Tensor, levels: Tensor, statistics: Statistics) -> Tensor:
    if name == "mean":
        return mean_by_rank(vectors, statistics.decay)
    if name in ("median", "quantile"):
        return _quantile(vectors, 0.5 if name == "median" else statistics.share)
    if name == "minimum":
        return vectors.amin(dim=1)
    if name == "maximum":
        return vectors.amax(dim=1)
    if name in ("quiet", "loud"):
        return _mean_of_share(vectors, levels if name == "quiet" else -levels, statistics.share)
    if name == "deviation":
        return (vectors - vectors.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
    return _change(vectors)


def _quantile(vectors: Tensor, share: float) -> Tensor:
    ranks = torch.arange(vectors.shape[1]).double()
    # Ranks less than one away from the quantile's place weigh what is missing to one: a linear interpolation.
    weights = (1 - (ranks - share * ranks[-1]).abs()).clamp(min=0)
    quantile: Tensor = torch.tensordot(vectors.sort(dim=1).values, weights, dims=([1], [0]))
    return quantile


def _mean_of_share(vectors: Tensor, levels: Tensor, share: float) -> Tensor:
    # Not with stable=True, which cannot be exported: ONNX's TopK, which this becomes, gives the first of equal values
    # first anyway.
    order = levels.sort(dim=1).indices
    ordered = vectors.gather(1, order[:, :, None].expand_as(vectors))
    ranks = torch.arange(vectors.shape[1]).double()
    count = torch.ceil(share * (ranks[-1] + 1) - 1e-9).clamp(min=1)
    total: Tensor = torch.tensordot(ordered, (ranks < count).double(), dims=([1], [0]))
    return total / count


def _change(vectors: Tensor) -> Tensor:
    ranks = torch.arange(vectors.shape[1])
    differences = vectors[:, (ranks + 1).clamp(max=ranks[-1])] - vectors
    weights = (ranks < ranks[-1]).double()[:, None]  # the last window has none after it
    count = weights.sum().clamp(min=1)
    mean = differences.sum(dim=1, keepdim=True) / count
    return (((differences - mean) * weights).square().sum(dim=1) / count).sqrt()


def _running_median(values: Tensor, bands: int) -> Tensor:
    """(clips, dim): of each value and its neighbours, `bands` in all; those at the ends are repeated beyond them."""
    dim = values.shape[1]
    neighbours = torch.arange(dim)[:, None] + torch.arange(bands) - bands // 2
    return values[:, neighbours.clamp(0, dim - 1)].sort(dim=2).values[:, :, bands // 2]
