"""A boundary between normal clips and clips with synthetic faults, as scikit-learn has it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from features.errors import UnservedError
from models.scoring.densities.each_id import DensityOfEachId
from models.stat import Settings
from tests.support.points import far_off, fitted, points_of


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("count", "fault_count", "dim"), [(40, 20, 5), (6, 30, 40), (1, 5, 3)])
def test_its_score_is_scikit_learns_decision_function(
    count: int, fault_count: int, dim: int, *, standardize: bool
) -> None:
    points, others = points_of(count, dim), points_of(7, dim, seed=1)
    faults = np.resize(points, (fault_count, dim)) + 3 * points_of(fault_count, dim, seed=2)
    scores = fitted(points, score="exposure", faults=faults, standardize=standardize).scores_of(others)

    scaler = StandardScaler(with_std=standardize).fit(points)  # normal clips alone
    normal, faulty, asked = (scaler.transform(each) for each in (points, faults, others))
    machine = SVC(gamma=1 / (dim * (normal.var() or 1)), class_weight="balanced", tol=1e-6)
    machine.fit(np.concatenate([normal, faulty]), [0] * count + [1] * fault_count)
    np.testing.assert_allclose(scores, machine.decision_function(asked), rtol=1e-6, atol=1e-6)


def test_it_learns_which_dimension_tells_where_a_density_sees_all_alike() -> None:
    points = np.random.default_rng(0).normal(size=(40, 6))
    faults = points + np.array([3, 0, 0, 0, 0, 0])
    like_a_fault, harmless = np.array([[2.0, 0, 0, 0, 0, 0]]), np.array([[0.0, 2, 0, 0, 0, 0]])
    exposed, density = fitted(points, score="exposure", faults=faults), fitted(points, score="mahalanobis")
    assert exposed.scores_of(like_a_fault) > 0 > exposed.scores_of(harmless)
    assert density.scores_of(like_a_fault) == pytest.approx(density.scores_of(harmless), rel=0.3)


def test_each_id_learns_from_faults_of_its_own_clips_and_the_shared_one_from_all() -> None:
    points, others = points_of(24, 3), points_of(3, 3, seed=1)
    ids, faults = np.arange(24) % 2, far_off(points)
    settings = Settings.model_validate({"score": "exposure", "unknown_id": "shared"})
    densities = DensityOfEachId(settings, ("fan/00", "fan/02"))

    densities.fit(points, ids, faults=(faults, ids))

    parts = [(points[ids == index], faults[ids == index]) for index in (0, 1)] + [(points, faults)]
    expected = [fitted(normal, score="exposure", faults=faulty).scores_of(others) for normal, faulty in parts]
    for index, scores in zip((0, 1, -1), expected, strict=True):
        np.testing.assert_array_equal(densities.scores_of(others, np.full(3, index)), scores)


@pytest.mark.parametrize("faults", [np.ones((0, 3)), np.ones((4, 3))], ids=["none", "silent clips"])
def test_without_a_fault_that_differs_it_says_so(faults: np.ndarray) -> None:
    densities = DensityOfEachId(Settings(score="exposure"), ("fan/00",))
    with pytest.raises(UnservedError, match=r"^fan/00: model\.score: exposure learns how clips with synthetic faults"):
        densities.fit(np.ones((4, 3)), np.zeros(4, dtype=int), faults=(faults, np.zeros(len(faults), dtype=int)))
