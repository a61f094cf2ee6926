"""A one-class support vector machine as scikit-learn has it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from tests.support.points import fitted, points_of


@pytest.mark.parametrize("nu", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(("count", "dim"), [(40, 5), (10, 30), (2, 3), (1, 3)])
def test_its_score_is_minus_scikit_learns_decision_function(nu: float, count: int, dim: int) -> None:
    points, others = points_of(count, dim), points_of(7, dim, seed=1)
    mean = points.mean(axis=0)  # `scale` takes the variance of all numbers at once, with that between dimensions
    gamma: float | str = "scale" if count > 1 else 1 / dim
    machine = OneClassSVM(nu=nu, gamma=gamma, tol=1e-6).fit(points - mean)
    scores = fitted(points, score="ocsvm", nu=nu).scores_of(others)
    np.testing.assert_allclose(scores, -machine.decision_function(others - mean), rtol=1e-6, atol=1e-9)


def test_standardised_it_is_scikit_learns_with_its_own_defaults() -> None:
    points, others = points_of(40, 5), points_of(7, 5, seed=1)
    scaler = StandardScaler().fit(points)
    machine = OneClassSVM(nu=0.1).fit(scaler.transform(points))
    scores = fitted(points, score="ocsvm", standardize=True).scores_of(others)
    np.testing.assert_allclose(scores, -machine.decision_function(scaler.transform(others)), atol=1e-3)


@pytest.mark.parametrize("nu", [0.05, 0.3])
def test_about_that_share_of_normal_clips_lies_outside(nu: float) -> None:
    points = points_of(400, 3)
    assert (fitted(points, score="ocsvm", nu=nu).scores_of(points) > 1e-5).mean() == pytest.approx(nu, abs=0.03)


def test_it_keeps_the_clips_at_the_edge_alone() -> None:
    state = fitted(points_of(400, 3), score="ocsvm", nu=0.1).state_dict()
    assert 40 <= len(state["support"]) < 60
    assert state["coefficients"].sum().item() == pytest.approx(40)


def test_it_encloses_two_ways_of_running_and_not_what_lies_between() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(-10, 1, (30, 4)), rng.normal(10, 1, (30, 4))])
    between, usual = np.zeros((1, 4)), np.full((1, 4), 10.0)
    density = fitted(points, score="ocsvm")
    assert density.scores_of(between) > 0 > density.scores_of(usual)


def test_far_from_all_clips_every_score_is_alike() -> None:
    density = fitted(points_of(40, 3), score="ocsvm")
    near, far, farther = density.scores_of(np.array([[5.0, 5, 5], [1e3, 5, 5], [1e4, 5, 5]]))
    assert near < far == farther == -density.state_dict()["intercept"].item()


def test_few_distances_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    points, others = points_of(30, 5), points_of(17, 5, seed=1)
    whole = fitted(points, score="ocsvm").scores_of(others)
    monkeypatch.setattr("models.scoring.densities.parts._MOST_DISTANCES", 10)
    np.testing.assert_allclose(fitted(points, score="ocsvm").scores_of(others), whole, rtol=1e-12, atol=1e-15)
