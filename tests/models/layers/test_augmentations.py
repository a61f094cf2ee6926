from __future__ import annotations

import torch

from models.layers.augmentations import TRANSFORMATIONS, transformed

# Two crops of 8 bins and 3 frames.
CROPS = torch.arange(48.0).view(2, 1, 8, 3)


def test_what_is_done_to_a_crop() -> None:
    same, backwards, upside_down, up, down = (transform(CROPS)[0, 0] for transform in TRANSFORMATIONS)
    assert torch.equal(same, CROPS[0, 0])
    assert backwards[0].tolist() == [2, 1, 0]
    assert upside_down[:, 0].tolist() == [21, 18, 15, 12, 9, 6, 3, 0]
    assert up[:, 0].tolist() == [21, 0, 3, 6, 9, 12, 15, 18]
    assert down[:, 0].tolist() == [3, 6, 9, 12, 15, 18, 21, 0]


def test_no_two_transformations_are_alike() -> None:
    versions = [transform(CROPS) for transform in TRANSFORMATIONS]
    assert all(not torch.equal(a, b) for i, a in enumerate(versions) for b in versions[:i])


def test_each_crop_has_its_own_transformation() -> None:
    for first in range(len(TRANSFORMATIONS)):
        for second in range(len(TRANSFORMATIONS)):
            mixed = transformed(CROPS, torch.tensor([first, second]))
            assert torch.equal(mixed[0], TRANSFORMATIONS[first](CROPS)[0])
            assert torch.equal(mixed[1], TRANSFORMATIONS[second](CROPS)[1])
