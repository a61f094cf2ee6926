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

from collections.abc import Iterable

import numpy as np
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


def _rounded_up(share: float, counts: Tensor) -> Tensor:
    """A share of each count, at least one: 0.07 · 100 is 7, though not in binary."""
    return torch.ceil(share * counts.double() - 1e-9).clamp(min=1)


def pooled_embeddings(batches: Iterable[tuple[Tensor, Tensor]], *, clip_count: int, decay: float) -> Tensor:
    """One embedding for each clip, (clip_count, dim) float64: in each dimension the mean weighted by rank, as `gwrp`.

    `batches` are (windows, dim) float32 with (windows,) clips, clip after clip; a clip may lie in several of them.
    Memory does not grow with the number of windows.
    """
    pooled: Tensor | None = None
    held: list[Tensor] = []  # embeddings of the clip that the last batch ended in
    last = -1
    for embeddings, clips in batches:
        if pooled is None:
            pooled = torch.zeros(clip_count, embeddings.shape[1], dtype=torch.float64)
        runs, counts = torch.unique_consecutive(clips, return_counts=True)
        for clip, count in zip(runs.tolist(), counts.tolist(), strict=True):
            own, embeddings = embeddings[:count], embeddings[count:]
            if clip != last and held:
                pooled[last] = _mean_by_rank(torch.cat(held), decay)
                held = []
            held.append(own)
            last = clip
    if pooled is None:
        raise ValueError("there is nothing to pool")
    pooled[last] = _mean_by_rank(torch.cat(held), decay)
    return pooled


def _mean_by_rank(embeddings: Tensor, decay: float) -> Tensor:
    """(dim,) of one clip's (windows, dim)."""
    if decay == 1:
        return embeddings.double().mean(dim=0)
    # NumPy sorts float32 several times as fast as torch does: this is most of the work.
    values = np.sort(embeddings.numpy(), axis=0)  # rank 0 comes last
    weights = np.power(decay, np.arange(len(values), dtype=np.float64))[::-1]
    return torch.from_numpy(weights @ values.astype(np.float64) / weights.sum())
