"""Densities of embeddings: as scikit-learn has them, kept as arrays, and of sense with few clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from models import vae
from models.scoring.densities import Density, density_of
from models.settings import BACKENDS
from models.stat import Settings

Array = npt.NDArray[np.float64]


def points_of(count: int, dim: int, *, seed: int = 0) -> Array:
    """Correlated, and off the origin."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + 5)


def fitted(points: Array, **chosen: Any) -> Density:
    density = density_of(Settings(**chosen))
    density.fit(points)
    return density


def test_a_family_that_scores_by_itself_has_no_density() -> None:
    with pytest.raises(ValueError, match="the score is the network's own"):
        density_of(vae.Settings())


@pytest.mark.parametrize(("count", "dim"), [(200, 3), (40, 10), (10, 40), (3, 5), (6, 200), (20, 1)])
def test_mahalanobis_is_scikit_learns_distance_by_ledoit_and_wolfs_covariance(count: int, dim: int) -> None:
    points, others = points_of(count, dim), points_of(7, dim, seed=1)
    expected = LedoitWolf().fit(points).mahalanobis(others)  # squared
    np.testing.assert_allclose(fitted(points, score="mahalanobis").scores_of(others), np.sqrt(expected), rtol=1e-6)


def test_mahalanobis_of_more_dimensions_than_clips_keeps_no_square_of_them() -> None:
    state = fitted(points_of(6, 500), score="mahalanobis").state_dict()
    assert max(array.numel() for array in state.values()) == 6 * 500


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


@pytest.mark.parametrize("score", BACKENDS)
class TestEveryDensity:
    def test_scores_bit_for_bit_alike_when_loaded_from_a_file(self, score: str, tmp_path: Path) -> None:
        before, others = fitted(points_of(40, 6), score=score), points_of(9, 6, seed=1)
        after = fitted(points_of(5, 3, seed=2), score=score)  # of other shapes
        save_file(before.state_dict(), tmp_path / "density.safetensors")

        after.load_state_dict(load_file(tmp_path / "density.safetensors"))

        assert (after.scores_of(others) == before.scores_of(others)).all()

    def test_a_fresh_one_loads_what_another_learnt(self, score: str) -> None:
        before, fresh = fitted(points_of(12, 20), score=score), density_of(Settings.model_validate({"score": score}))

        fresh.load_state_dict(before.state_dict())

        others = points_of(9, 20, seed=1)
        assert (fresh.scores_of(others) == before.scores_of(others)).all()

    def test_stays_in_float64_wherever_its_model_goes(self, score: str) -> None:
        parent = torch.nn.ModuleList([fitted(points_of(12, 4), score=score)])
        before = {name: array.clone() for name, array in parent.state_dict().items()}

        parent.half()

        for name, array in parent.state_dict().items():
            assert array.dtype == torch.float64
            assert torch.equal(array, before[name])

    def test_two_fits_are_one(self, score: str) -> None:
        one, other = (fitted(points_of(300, 8), score=score).state_dict() for _ in range(2))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_leaves_the_points_as_they_are(self, score: str) -> None:
        points, others = points_of(12, 4), points_of(5, 4, seed=1)
        fitted(points, score=score).scores_of(others)
        np.testing.assert_array_equal(points, points_of(12, 4))
        np.testing.assert_array_equal(others, points_of(5, 4, seed=1))

    def test_a_clips_score_does_not_depend_on_the_clips_beside_it(self, score: str) -> None:
        density, others = fitted(points_of(40, 6), score=score), points_of(9, 6, seed=1)
        alone = [density.scores_of(other[None])[0] for other in others]
        np.testing.assert_allclose(density.scores_of(others), alone, rtol=1e-9)

    @pytest.mark.parametrize("factor", [1e-6, 1e-2, 1e3])
    def test_ranks_clips_alike_in_every_unit(self, score: str, factor: float) -> None:
        # Log-mel levels span 100 dB, a network's embeddings perhaps a thousandth.
        points, others = points_of(30, 4), points_of(20, 4, seed=1)
        usual = fitted(points, score=score).scores_of(others)
        scaled = fitted(points * factor, score=score).scores_of(others * factor)
        np.testing.assert_array_equal(np.argsort(scaled), np.argsort(usual))

    def test_ranks_clips_alike_wherever_the_origin_is(self, score: str) -> None:
        points, others = points_of(30, 4), points_of(20, 4, seed=1)
        usual = fitted(points, score=score).scores_of(others)
        moved = fitted(points + 1e5, score=score).scores_of(others + 1e5)
        np.testing.assert_allclose(moved, usual, rtol=1e-5)

    @pytest.mark.parametrize(
        "points",
        [
            [[1.0, 2.0, 3.0]],
            [[0.1, 0.2, 0.3]] * 3,  # whose mean is not quite them
            [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]],
            [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
            [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [-1.0, 0.5, 3.0]],
            [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]],  # on a line
            [[7.0, 7.0, number] for number in range(20)],  # two dimensions that never vary
            [[0.1, 1e4 * number, 1e-4 * number**2] for number in range(20)],
            [[1.0, 2.0, 3.0]] * 19 + [[1.0, 2.0, 4.0]],
        ],
        ids=["one", "alike", "two", "two-places", "three", "line", "constants", "scales", "mostly-alike"],
    )
    def test_with_few_or_degenerate_points_farther_is_higher(
        self, score: str, points: list[list[float]], recwarn: pytest.WarningsRecorder
    ) -> None:
        normal = np.array(points)
        # Away from the points, across every direction in which they vary.
        spread = float(np.ptp(normal, axis=0).max()) or 1.0
        away = np.array([[1.0, -1.0, 0.3]]) * spread
        others = normal.mean(axis=0) + np.array([[2.0], [3.0], [10.0], [1000.0]]) * away

        scores = fitted(normal, score=score).scores_of(np.concatenate([normal, others]))

        assert np.isfinite(scores).all()
        assert (np.diff(scores[len(normal) :]) > 0).all()
        assert scores[: len(normal)].max() < scores[len(normal)]
        assert [str(warning.message) for warning in recwarn] == []

    @settings(max_examples=15, deadline=None, database=None)
    @given(data=st.data(), count=st.integers(1, 6), dim=st.integers(1, 4))
    def test_of_whatever_points_scores_are_finite(self, score: str, data: st.DataObject, count: int, dim: int) -> None:
        value = st.sampled_from([0.0, 0.1, 1.0, -1.0, 1e-9, 50.0])
        rows = st.lists(st.lists(value, min_size=dim, max_size=dim), min_size=count, max_size=count)
        points, others = np.array(data.draw(rows)), np.array(data.draw(rows))
        assert np.isfinite(fitted(points, score=score).scores_of(others)).all()


@pytest.mark.parametrize("score", ["mahalanobis", "knn", "lof"])
@pytest.mark.parametrize("copies", [1, 3])
def test_from_one_place_the_score_is_the_euclidean_distance(score: str, copies: int) -> None:
    density = fitted(np.array([[0.1, 2.0]] * copies), score=score)
    np.testing.assert_allclose(density.scores_of(np.array([[0.1, 2.0], [3.1, 6.0]])), [0, 5], atol=1e-12)


@pytest.mark.parametrize("copies", [1, 3])
def test_from_one_place_the_gaussian_has_unit_variance(copies: int) -> None:
    density = fitted(np.array([[0.1, 2.0]] * copies), score="gmm")
    expected = [np.log(2 * np.pi), np.log(2 * np.pi) + 25 / 2]
    np.testing.assert_allclose(density.scores_of(np.array([[0.1, 2.0], [3.1, 6.0]])), expected, rtol=1e-12)


def test_from_two_places_mahalanobis_takes_all_directions_for_alike() -> None:
    density = fitted(np.array([[-3.0, 0.0], [3.0, 0.0]]), score="mahalanobis")
    # The mean variance of both dimensions: (9 + 0) / 2.
    np.testing.assert_allclose(density.scores_of(np.array([[6.0, 0.0], [0.0, 6.0]])), [6 / 4.5**0.5] * 2)


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


def test_lof_counts_clips_that_are_alike_once() -> None:
    points, others = points_of(10, 3), points_of(5, 3, seed=1)
    repeated = np.concatenate([points, np.repeat(points[:2], 20, axis=0)])
    expected = fitted(points, score="lof", neighbours=3).scores_of(others)
    np.testing.assert_array_equal(fitted(repeated, score="lof", neighbours=3).scores_of(others), expected)


def test_knn_holds_few_distances_at_a_time_and_scores_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    points, others = points_of(30, 5), points_of(17, 5, seed=1)
    whole = fitted(points, score="knn").scores_of(others)
    monkeypatch.setattr("models.scoring.densities._MOST_DISTANCES", 100)
    np.testing.assert_array_equal(fitted(points, score="knn").scores_of(others), whole)
