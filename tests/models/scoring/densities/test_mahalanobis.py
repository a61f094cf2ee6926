"""The distance from the mean by scikit-learn's covariance; one for each machine ID, or one of all."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler

from models.scoring.covariance import ShrunkCovariance
from models.scoring.densities.each_id import DensityOfEachId
from models.scoring.scores import Array
from models.stat import Settings
from tests.support.points import fitted, points_of


@pytest.mark.parametrize(("count", "dim"), [(200, 3), (40, 10), (10, 40), (3, 5), (6, 200), (20, 1)])
def test_mahalanobis_is_scikit_learns_distance_by_ledoit_and_wolfs_covariance(count: int, dim: int) -> None:
    points, others = points_of(count, dim), points_of(7, dim, seed=1)
    expected = LedoitWolf().fit(points).mahalanobis(others)  # squared
    np.testing.assert_allclose(fitted(points, score="mahalanobis").scores_of(others), np.sqrt(expected), rtol=1e-6)


def test_mahalanobis_of_more_dimensions_than_clips_keeps_no_square_of_them() -> None:
    state = fitted(points_of(6, 500), score="mahalanobis").state_dict()
    assert max(array.numel() for array in state.values()) == 6 * 500


def test_from_two_places_mahalanobis_takes_all_directions_for_alike() -> None:
    density = fitted(np.array([[-3.0, 0.0], [3.0, 0.0]]), score="mahalanobis")
    # The mean variance of both dimensions: (9 + 0) / 2.
    np.testing.assert_allclose(density.scores_of(np.array([[6.0, 0.0], [0.0, 6.0]])), [6 / 4.5**0.5] * 2)


def grouped(*counts: int, dim: int = 4) -> list[Array]:
    """Points of machine IDs that vary alike around means of their own."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(dim, dim))
    return [rng.normal(size=(count, dim)) @ mixing + 10 * rng.normal(size=dim) for count in counts]


def tied(groups: list[Array], **chosen: object) -> DensityOfEachId:
    settings = Settings.model_validate({"score": "mahalanobis", "covariance": "tied", **chosen})
    densities = DensityOfEachId(settings, [f"fan/{index:02}" for index in range(len(groups))])
    densities.fit(np.concatenate(groups), np.repeat(np.arange(len(groups)), [len(group) for group in groups]))
    return densities


@pytest.mark.parametrize(("counts", "dim"), [((30, 30), 4), ((40, 5, 1), 4), ((6, 8), 40)])
def test_a_tied_covariance_is_scikit_learns_of_all_ids_points_around_their_own_means(
    counts: tuple[int, ...], dim: int
) -> None:
    groups, others = grouped(*counts, dim=dim), points_of(6, dim, seed=1)
    covariance = LedoitWolf(assume_centered=True).fit(np.concatenate([group - group.mean(axis=0) for group in groups]))
    ids = np.arange(6) % len(counts)
    expected = [
        covariance.mahalanobis(other - groups[index].mean(axis=0))
        for other, index in zip(others[:, None], ids, strict=True)
    ]
    scores = tied(groups).scores_of(others, ids)
    np.testing.assert_allclose(scores, np.sqrt(np.concatenate(expected)), rtol=1e-6)


def test_points_are_standardised_by_their_own_id_before_their_covariance_is_tied() -> None:
    groups, others = grouped(30, 12), points_of(6, 4, seed=1)
    groups[1] = 1 + 50 * groups[1]
    scalers = [StandardScaler().fit(group) for group in groups]
    covariance = LedoitWolf(assume_centered=True).fit(
        np.concatenate([scaler.transform(group) for scaler, group in zip(scalers, groups, strict=True)])
    )
    scores = tied(groups, standardize=True).scores_of(others, np.ones(6, dtype=int))
    np.testing.assert_allclose(scores, np.sqrt(covariance.mahalanobis(scalers[1].transform(others))), rtol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
def test_a_covariance_tied_to_nothing_is_its_own(standardize: bool) -> None:
    points, others = points_of(20, 4), points_of(6, 4, seed=1)
    own = fitted(points, score="mahalanobis", standardize=standardize).scores_of(others)
    scores = tied([points], standardize=standardize).scores_of(others, np.zeros(6, dtype=int))
    np.testing.assert_array_equal(scores, own)


def test_clips_of_unknown_ids_are_judged_by_the_spread_of_all_points() -> None:
    groups, others = grouped(30, 12), points_of(6, 4, seed=1)
    own = fitted(np.concatenate(groups), score="mahalanobis").scores_of(others)
    scores = tied(groups, unknown_id="shared").scores_of(others, np.full(6, -1))
    np.testing.assert_array_equal(scores, own)


def test_an_id_with_one_clip_takes_its_spread_from_the_others() -> None:
    groups, other = grouped(40, 1), points_of(1, 4, seed=1)
    known, single = np.array([0]), np.array([1])
    offset = groups[0].mean(axis=0) - groups[1][0]
    scores = tied(groups).scores_of(other, single)
    np.testing.assert_allclose(scores, tied(groups).scores_of(other + offset, known), rtol=1e-9)


@pytest.mark.parametrize(("counts", "rank"), [((1, 1, 1), 0), ((2, 1), 0), ((2, 2), 4), ((3, 1), 4)])
def test_ids_say_as_much_of_a_tied_covariance_as_they_have_places_beside_their_means(
    counts: tuple[int, ...], rank: int
) -> None:
    groups = grouped(*counts)
    assert len(ShrunkCovariance.tied(groups).directions) == min(rank, sum(counts))
    assert np.isfinite(tied(groups).scores_of(points_of(6, 4), np.arange(6) % len(counts))).all()


def test_where_every_id_has_one_clip_a_tied_score_is_the_euclidean_distance() -> None:
    densities = tied([np.array([[0.0, 0.0]]), np.array([[9.0, 9.0]])])
    scores = densities.scores_of(np.array([[3.0, 4.0], [12.0, 13.0]]), np.array([0, 1]))
    np.testing.assert_allclose(scores, [5, 5])
