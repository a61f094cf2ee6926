"""A mixture of Gaussians as scikit-learn has it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture

from tests.support.points import fitted, points_of


@pytest.mark.parametrize(("components", "count", "kind"), [(1, 50, "full"), (3, 50, "full"), (3, 14, "diag")])
def test_gmm_is_scikit_learns_mixture(components: int, count: int, kind: str) -> None:
    points, others = points_of(count, 5), points_of(7, 5, seed=1)
    scale = points.var(axis=0).mean()
    mixture = GaussianMixture(components, covariance_type=kind, reg_covar=0.001 * scale, random_state=0).fit(points)
    scores = fitted(points, score="gmm", components=components).scores_of(others)
    np.testing.assert_allclose(scores, -mixture.score_samples(others), rtol=1e-9)


def test_gmm_finds_two_ways_of_running_where_one_gaussian_sees_none() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(-10, 1, (30, 4)), rng.normal(10, 1, (30, 4))])
    between, usual = np.zeros((1, 4)), np.full((1, 4), 10.0)
    one, two = (fitted(points, score="gmm", components=components) for components in (1, 2))
    assert two.scores_of(between) > two.scores_of(usual) + 100
    assert one.scores_of(between) < one.scores_of(usual)


@pytest.mark.parametrize("copies", [1, 3])
def test_from_one_place_the_gaussian_has_unit_variance(copies: int) -> None:
    density = fitted(np.array([[0.1, 2.0]] * copies), score="gmm")
    expected = [np.log(2 * np.pi), np.log(2 * np.pi) + 25 / 2]
    np.testing.assert_allclose(density.scores_of(np.array([[0.1, 2.0], [3.1, 6.0]])), expected, rtol=1e-12)


def test_gmm_of_three_clips_has_one_gaussian() -> None:
    density = fitted(points_of(3, 2), score="gmm", components=4)
    assert density.state_dict()["weights"].shape == (1,)


def test_gmm_weighs_its_gaussians() -> None:
    points = np.array([[-10.0], [-9.0], [-11.0], [-10.5], [-9.5], [-10.0], [10.0], [10.5]])
    density = fitted(points, score="gmm", components=2)
    state = {name: array.numpy() for name, array in density.state_dict().items()}
    deviations = 1 / state["precisions"].reshape(2, 1)
    z = (0.0 - state["means"]) / deviations
    expected = -logsumexp(-0.5 * z**2 - np.log(deviations * np.sqrt(2 * np.pi)), b=state["weights"][:, None])
    assert sorted(state["weights"]) == pytest.approx([0.25, 0.75])
    np.testing.assert_allclose(density.scores_of(np.array([[0.0]])), expected, rtol=1e-9)
