"""Points in their own standard deviations: as scikit-learn has them where dimensions vary, and of sense elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from models.scoring.standardization import Standardization, standardised
from tests.support.points import points_of


@pytest.mark.parametrize(("count", "dim"), [(30, 5), (3, 40), (2, 4)])
def test_dimensions_that_vary_are_scikit_learns(count: int, dim: int) -> None:
    points, others = points_of(count, dim), points_of(7, dim, seed=1)
    scaler = StandardScaler().fit(points)
    learnt = Standardization.of(points)
    np.testing.assert_allclose(learnt.applied_to(others), scaler.transform(others), rtol=1e-9)
    np.testing.assert_allclose(standardised(points), scaler.transform(points), atol=1e-12)


@pytest.mark.parametrize("wobble", [0.0, 1e-12, 1e-6])
def test_a_dimension_that_does_not_vary_counts_by_the_usual_deviation(wobble: float) -> None:
    points = np.array([[0.1, 0.0, 0.0], [0.1 + wobble, 2.0, 4.0]])
    deviations = Standardization.of(points).deviations
    # The deviations of the others are 1 and 2, and the mean variance is 5 / 3.
    np.testing.assert_allclose(deviations, [(5 / 3) ** 0.5, 1, 2], rtol=1e-6)


@pytest.mark.parametrize("copies", [1, 3])
def test_points_that_are_alike_keep_their_unit(copies: int) -> None:
    learnt = Standardization.of(np.array([[0.1, 0.2, 0.3]] * copies))
    np.testing.assert_allclose(learnt.applied_to(np.array([[3.1, 0.2, 4.3]])), [[3, 0, 4]], atol=1e-12)
