"""From the units of a feature to the unit interval, and back.

inputs : (batch, context · bins) for windows, (batch, 1, bins, frames) for crops; in the feature's own units.
scaled : the same shape, within [0, 1]; what lies outside the bins' limits is clipped.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from features.frames.framing import Frames


class Scale(nn.Module):
    """Maps each bin's limits to 0 and 1. The limits travel with a model's weights."""

    lowest: Tensor  # (bins,)
    span: Tensor  # (bins,)

    def __init__(self, limits: tuple[Frames, Frames]) -> None:
        """`limits`: the lowest and the highest value of each bin, (bins,) twice."""
        super().__init__()
        lowest, highest = limits
        self.register_buffer("lowest", torch.from_numpy(np.array(lowest, dtype=np.float32)))
        self.register_buffer("span", torch.from_numpy(np.array(highest, dtype=np.float32)) - self.lowest)

    @property
    def bins(self) -> int:
        return len(self.lowest)

    def forward(self, inputs: Tensor) -> Tensor:
        lowest, span = self._of_shape(inputs)
        return ((inputs - lowest) / span).clamp_(0, 1)

    def inverse(self, scaled: Tensor) -> Tensor:
        """In the feature's units, float32."""
        lowest, span = self._of_shape(scaled)
        return scaled.float() * span + lowest

    def _of_shape(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        if inputs.dim() == 4:
            return self.lowest[:, None], self.span[:, None]
        context = inputs.shape[1] // self.bins
        return self.lowest.repeat(context), self.span.repeat(context)
