from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.layers.scale import Scale

LIMITS = (np.array([-90, 0, -2], np.float32), np.array([10, 1, 2], np.float32))

#: Bins' values, and where they lie between the limits; what lies outside is clipped.
CASES = [
    ([-90, 0, -2], [0, 0, 0]),
    ([10, 1, 2], [1, 1, 1]),
    ([-40, 0.25, 0], [0.5, 0.25, 0.5]),
    ([-200, 7, 2.5], [0, 1, 1]),
]


def windows(values: list[float]) -> Tensor:
    """A window of two frames, the second of which is the first one's, (1, context · bins)."""
    return torch.tensor([[*values, *values]])


def crops(values: list[float]) -> Tensor:
    """A crop of two frames alike, (1, 1, bins, frames)."""
    return torch.tensor(values).view(1, 1, 3, 1).expand(1, 1, 3, 2)


@pytest.mark.parametrize("of", [windows, crops])
@pytest.mark.parametrize(("values", "scaled"), CASES)
def test_each_bin_is_mapped_from_its_own_limits(of: object, values: list[float], scaled: list[float]) -> None:
    assert callable(of)
    torch.testing.assert_close(Scale(LIMITS)(of(values)), of(scaled).float())


@pytest.mark.parametrize("of", [windows, crops])
@pytest.mark.parametrize("values", [values for values, _ in CASES[:3]])
def test_what_lies_within_comes_back(of: object, values: list[float]) -> None:
    assert callable(of)
    scale = Scale(LIMITS)
    torch.testing.assert_close(scale.inverse(scale(of(values))), of(values).float())


def test_inputs_are_left_as_they_are() -> None:
    inputs = windows([0.0, 0.5, 0.0])
    before = inputs.clone()
    Scale(LIMITS)(inputs)
    assert torch.equal(inputs, before)


def test_the_limits_travel_with_the_weights() -> None:
    other = Scale((np.zeros(3, np.float32), np.ones(3, np.float32)))
    other.load_state_dict(Scale(LIMITS).state_dict())
    assert torch.equal(other(windows([-40, 0.25, 0])), windows([0.5, 0.25, 0.5]))
