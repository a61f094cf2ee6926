"""Per-clip scores from per-window scores: a mean over each clip's windows, weighted by their rank.

scores : (windows,) float32, higher is more anomalous.
clips  : (windows,) int64, position of the clip that each window came from.
rank   : of a window among its clip's, 0 for the most anomalous one.

    mean   every window counts alike
    max    the most anomalous one alone
    top    the most anomalous `top_share` of them alike, at least one
    gwrp   decay to the power of the rank: global weighted ranking pooling (Kolesnikov and Lampert, "Seed, Expand and
           Constrain", 2016); decay 1 is the mean, decay 0 the maximum
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.settings import Pooling


def pool(
    scores: Tensor, clips: Tensor, *, clip_count: int, pooling: Pooling, decay: float = 1.0, top_share: float = 1.0
) -> Tensor:
    """One score for each clip, (clip_count,) float64.

    Sums run in float64 over windows sorted by rank: how they were divided into batches, and their order, change
    nothing.
    """
    order = torch.argsort(scores, descending=True)
    order = order[torch.argsort(clips[order], stable=True)]
    scores, clips = scores[order].double(), clips[order]
    counts = torch.bincount(clips, minlength=clip_count)
    ranks = torch.arange(len(clips), device=clips.device) - (counts.cumsum(0) - counts)[clips]
    if pooling == "gwrp":
        weights = torch.pow(decay, ranks.double())
    else:
        last = {"mean": counts, "max": torch.ones_like(counts), "top": _rounded_up(top_share, counts)}[pooling]
        weights = (ranks < last[clips]).double()
    total, weight = (torch.zeros(clip_count, dtype=torch.float64, device=scores.device) for _ in range(2))
    return total.scatter_add_(0, clips, weights * scores) / weight.scatter_add_(0, clips, weights)


def quietest(levels: Tensor, clips: Tensor, *, share: float) -> Tensor:
    """Which windows are among the share of their clip's that has the lowest levels, (windows,) bool; at least one.

    Of equally loud ones, the earlier ones are.
    """
    order = torch.argsort(levels, stable=True)
    order = order[torch.argsort(clips[order], stable=True)]
    counts = torch.bincount(clips)
    ranks = torch.arange(len(clips)) - (counts.cumsum(0) - counts)[clips[order]]
    chosen = torch.zeros(len(clips), dtype=torch.bool)
    chosen[order[ranks < _rounded_up(share, counts)[clips[order]]]] = True
    return chosen


def _rounded_up(share: float, counts: Tensor) -> Tensor:
    """A share of each count, at least one: 0.07 · 100 is 7, though not in binary."""
    return torch.ceil(share * counts.double() - 1e-9).clamp(min=1)
