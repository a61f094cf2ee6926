"""One density for each machine ID, and one for clips of all others."""

from __future__ import annotations

import numpy as np
import pytest

from features.errors import UnservedError
from models.scoring.densities.each_id import DensityOfEachId
from models.stat import Settings
from tests.support.points import fitted, points_of

IDS = ("fan/00", "fan/02")


@pytest.mark.parametrize("score", ["mahalanobis", "ocsvm"])
def test_each_id_is_judged_by_its_own_clips_and_others_by_all(score: str) -> None:
    points, others = points_of(24, 3), points_of(5, 3, seed=1)
    ids, asked = np.arange(24) % 2, np.array([1, -1, 0, 0, -1])
    densities = DensityOfEachId(Settings.model_validate({"score": score, "unknown_id": "shared"}), IDS)

    densities.fit(points, ids)

    parts = [points[ids == 0], points[ids == 1], points]
    expected = [fitted(parts[index], score=score).scores_of(others)[row] for row, index in enumerate(asked)]
    np.testing.assert_allclose(densities.scores_of(others, asked), expected, rtol=1e-12)


def test_without_a_shared_one_there_is_a_density_for_each_id_alone() -> None:
    assert len(DensityOfEachId(Settings(), IDS)) == 2


def test_an_id_whose_clips_do_not_suffice_is_named() -> None:
    points, ids = np.concatenate([points_of(5, 3), np.ones((2, 3))]), np.repeat([0, 1], [5, 2])
    densities = DensityOfEachId(Settings(score="knn", distance="cosine", standardize=True), IDS)
    with pytest.raises(UnservedError, match=r"^fan/02: model\.distance: cosine compares directions"):
        densities.fit(points, ids)
