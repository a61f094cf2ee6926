"""Transformations of crops that a classifier learns to tell apart, after Golan and El-Yaniv, "Deep Anomaly Detection
Using Geometric Transformations" (2018): a classifier that knows a machine's healthy sound recognises which was applied.

They rotate and mirror photographs. The axes of a spectrogram differ, which leaves these transformations:

    0  as it is
    1  reversed in time
    2  upside down in frequency
    3  shifted up by an eighth of the bins; what leaves at the top comes back at the bottom
    4  shifted down likewise

crops : (batch, 1, bins, frames), before and after a transformation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_TIME, _FREQUENCY = 3, 2


def _shift(crops: Tensor) -> int:
    return max(crops.shape[_FREQUENCY] // 8, 1)


#: The first one leaves crops as they are.
TRANSFORMATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda crops: crops,
    lambda crops: crops.flip(_TIME),
    lambda crops: crops.flip(_FREQUENCY),
    lambda crops: crops.roll(_shift(crops), _FREQUENCY),
    lambda crops: crops.roll(-_shift(crops), _FREQUENCY),
)


def transformed(crops: Tensor, which: Tensor) -> Tensor:
    """Each crop after its own transformation; `which`: (batch,) int64, its index."""
    versions = torch.stack([transform(crops) for transform in TRANSFORMATIONS])
    return versions[which, torch.arange(len(crops), device=crops.device)]
