"""Per-clip scores from per-window scores.

scores : (windows,) float32, higher is more anomalous.
clips  : (windows,) int64, position of the clip that each window came from.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.settings import Pooling


def pool(scores: Tensor, clips: Tensor, *, clip_count: int, pooling: Pooling) -> Tensor:
    """One score for each clip, (clip_count,) float64: the mean or the maximum over its windows.

    Sums run in float64, so that how windows were divided into batches changes nothing.
    """
    pooled = torch.zeros(clip_count, dtype=torch.float64, device=scores.device)
    reduce: Literal["mean", "amax"] = "mean" if pooling == "mean" else "amax"
    return pooled.scatter_reduce_(0, clips, scores.double(), reduce=reduce, include_self=False)
