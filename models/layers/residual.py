"""How badly a model reconstructs each bin of its inputs."""

from __future__ import annotations

from torch import Tensor

#: The least squared error that counts, of inputs scaled to the unit interval: log-mel levels to a hundredth of a dB.
_LEAST = 1e-8


def log_error_of_bins(error: Tensor) -> Tensor:
    """The log mean squared error of each bin, (batch, bins), from the error of each value, (batch, frames, bins)."""
    return error.square().mean(dim=1).clamp_min(_LEAST).log()
