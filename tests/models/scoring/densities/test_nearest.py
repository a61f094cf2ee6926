"""Nearest neighbours and the local outlier factor as scikit-learn has them, with few and with equal points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from features.errors import UnservedError
from tests.support.points import fitted, points_of


@pytest.mark.parametrize("neighbours", [1, 3, 30, 99])
def test_knn_without_local_distances_is_the_mean_distance_to_the_nearest(neighbours: int) -> None:
    points, others = points_of(30, 5), points_of(7, 5, seed=1)
    distances, _ = NearestNeighbors(n_neighbors=min(neighbours, 30)).fit(points).kneighbors(others)
    scores = fitted(points, score="knn", neighbours=neighbours, local_neighbours=0).scores_of(others)
    np.testing.assert_allclose(scores, distances.mean(axis=1), rtol=1e-9)


@pytest.mark.parametrize("local_neighbours", [1, 4, 29, 99])
def test_knn_divides_each_distance_by_the_points_own(local_neighbours: int) -> None:
    points, others = points_of(30, 5), points_of(7, 5, seed=1)
    count = min(local_neighbours, 29)
    local, _ = NearestNeighbors(n_neighbors=count).fit(points).kneighbors()  # without the points themselves
    distances = np.linalg.norm(others[:, None] - points, axis=2)
    expected = np.sort(distances / local.mean(axis=1), axis=1)[:, :2].mean(axis=1)
    scores = fitted(points, score="knn", neighbours=2, local_neighbours=local_neighbours).scores_of(others)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_knn_forgives_beside_points_that_lie_far_apart_what_it_does_not_beside_close_ones() -> None:
    close, sparse = np.linspace(0, 1, 11), np.linspace(100, 200, 11)
    points = np.concatenate([close, sparse])[:, None]
    beside = np.array([[-2.0], [202.0]])
    by_local_distance = fitted(points, score="knn", local_neighbours=4).scores_of(beside)
    by_distance = fitted(points, score="knn", local_neighbours=0).scores_of(beside)
    assert by_local_distance[0] > 10 * by_local_distance[1]
    assert by_distance[0] < by_distance[1]


def test_knn_holds_few_distances_at_a_time_and_scores_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    points, others = points_of(30, 5), points_of(17, 5, seed=1)
    whole = fitted(points, score="knn").scores_of(others)
    monkeypatch.setattr("models.scoring.densities.parts._MOST_DISTANCES", 100)
    np.testing.assert_array_equal(fitted(points, score="knn").scores_of(others), whole)


@pytest.mark.parametrize("neighbours", [1, 5, 99])
def test_lof_is_scikit_learns(neighbours: int) -> None:
    points, others = points_of(30, 5), points_of(7, 5, seed=1)
    factor = LocalOutlierFactor(n_neighbors=min(neighbours, 29), novelty=True).fit(points)
    scores = fitted(points, score="lof", neighbours=neighbours).scores_of(others)
    np.testing.assert_allclose(scores, -factor.score_samples(others), rtol=1e-9)


def test_lof_of_an_even_grid_is_one() -> None:
    # Breunig et al. 2000, lemma 1: deep inside of a cluster it is about 1.
    grid = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0)), axis=-1).reshape(-1, 2)
    scores = fitted(grid, score="lof", neighbours=4).scores_of(np.array([[4.0, 4.1], [30.0, 4.0]]))
    assert scores[0] == pytest.approx(1, abs=0.15)
    assert scores[1] > 10


def test_lof_counts_clips_that_are_alike_once() -> None:
    points, others = points_of(10, 3), points_of(5, 3, seed=1)
    repeated = np.concatenate([points, np.repeat(points[:2], 20, axis=0)])
    expected = fitted(points, score="lof", neighbours=3).scores_of(others)
    np.testing.assert_array_equal(fitted(repeated, score="lof", neighbours=3).scores_of(others), expected)


@pytest.mark.parametrize("neighbours", [1, 3, 99])
def test_cosine_distances_are_scikit_learns(neighbours: int) -> None:
    points, others = points_of(30, 5), points_of(7, 5, seed=1)
    distances, _ = NearestNeighbors(n_neighbors=min(neighbours, 30), metric="cosine").fit(points).kneighbors(others)
    scores = fitted(points, score="knn", distance="cosine", neighbours=neighbours, local_neighbours=0).scores_of(others)
    np.testing.assert_allclose(scores, distances.mean(axis=1), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("local_neighbours", [1, 4, 99])
def test_cosine_distances_are_divided_by_the_points_own_cosine_distances(local_neighbours: int) -> None:
    points, others = points_of(30, 5), points_of(7, 5, seed=1)
    count = min(local_neighbours, 29)
    local, _ = NearestNeighbors(n_neighbors=count, metric="cosine").fit(points).kneighbors()
    distances = NearestNeighbors(n_neighbors=30, metric="cosine").fit(points).kneighbors(others)
    relative = np.sort(distances[0] / local.mean(axis=1)[distances[1]], axis=1)[:, :2].mean(axis=1)
    scores = fitted(points, score="knn", distance="cosine", local_neighbours=local_neighbours).scores_of(others)
    np.testing.assert_allclose(scores, relative, rtol=1e-6)


@pytest.mark.parametrize("local_neighbours", [0, 4])
def test_a_cosine_distance_sees_directions_and_no_lengths(local_neighbours: int) -> None:
    points, others = points_of(12, 4), points_of(5, 4, seed=1)
    lengths = np.random.default_rng(2).uniform(0.01, 100, (12, 1))
    chosen: dict[str, Any] = {"score": "knn", "distance": "cosine", "local_neighbours": local_neighbours}
    usual = fitted(points, **chosen).scores_of(others)
    np.testing.assert_allclose(fitted(points * lengths, **chosen).scores_of(others * 7), usual, rtol=1e-6)


@pytest.mark.parametrize(
    ("points", "standardize"),
    [
        ([[1.0, 2.0]], False),
        ([[1.0, 2.0], [2.0, 4.0], [0.3, 0.6]], False),  # of one direction
        ([[0.0, 0.0], [1.0, 2.0]], False),
        ([[1.0, 2.0], [2.0, 3.0]], True),
        ([[1.0, 2.0], [2.0, 3.0], [3.0, 1.0], [2.0, 2.0]], True),  # one of them is the mean
    ],
)
def test_of_few_directions_a_clip_that_points_elsewhere_scores_higher(
    points: list[list[float]], standardize: bool
) -> None:
    normal = np.array(points)
    density = fitted(normal, score="knn", distance="cosine", standardize=standardize, neighbours=1)
    mean = normal.mean(axis=0) if standardize else np.zeros(2)
    elsewhere = mean + np.array([[2.0, 1.7]])
    scores = density.scores_of(np.concatenate([normal[-1:], elsewhere, mean[None]]))
    assert np.isfinite(scores).all()
    assert scores[0] < scores[1]


@pytest.mark.parametrize(("points", "standardize"), [([[1.0, 2.0]] * 3, True), ([[0.0, 0.0]] * 2, False)])
def test_training_clips_without_a_direction_are_refused(points: list[list[float]], standardize: bool) -> None:
    with pytest.raises(UnservedError, match=r"no training clip has one: .* set model\.distance: euclidean"):
        fitted(np.array(points), score="knn", distance="cosine", standardize=standardize)
