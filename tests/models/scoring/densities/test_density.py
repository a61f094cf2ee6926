"""Every back-end: kept as arrays, standardised or not; every density of normal clips: of sense with few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.preprocessing import StandardScaler

from models import vae
from models.scoring.densities.each_id import density_of
from models.settings import BACKENDS
from models.stat import Settings
from tests.support.points import fitted, points_of


def test_a_family_that_scores_by_itself_has_no_density() -> None:
    with pytest.raises(ValueError, match="the score is the network's own"):
        density_of(vae.Settings())


#: Each back-end, as it is and of standardised points; and angles, which are not for every point.
SETTINGS: list[dict[str, Any]] = [
    {"score": score, **standardize} for standardize in ({}, {"standardize": True}) for score in BACKENDS
]
#: The back-ends that are densities: they know of normal clips alone.
DENSITIES: list[dict[str, Any]] = [chosen for chosen in SETTINGS if chosen["score"] != "exposure"]
ANGLES: dict[str, Any] = {"score": "knn", "distance": "cosine", "standardize": True}


@pytest.mark.parametrize("chosen", [*SETTINGS, ANGLES], ids=str)
class TestEveryBackend:
    def test_scores_bit_for_bit_alike_when_loaded_from_a_file(self, chosen: dict[str, Any], tmp_path: Path) -> None:
        before, others = fitted(points_of(40, 6), **chosen), points_of(9, 6, seed=1)
        after = fitted(points_of(5, 3, seed=2), **chosen)  # of other shapes
        save_file(before.state_dict(), tmp_path / "density.safetensors")

        after.load_state_dict(load_file(tmp_path / "density.safetensors"))

        assert (after.scores_of(others) == before.scores_of(others)).all()

    def test_a_fresh_one_loads_what_another_learnt(self, chosen: dict[str, Any]) -> None:
        before, fresh = fitted(points_of(12, 20), **chosen), density_of(Settings(**chosen))

        fresh.load_state_dict(before.state_dict())

        others = points_of(9, 20, seed=1)
        assert (fresh.scores_of(others) == before.scores_of(others)).all()

    def test_stays_in_float64_wherever_its_model_goes(self, chosen: dict[str, Any]) -> None:
        parent = torch.nn.ModuleList([fitted(points_of(12, 4), **chosen)])
        before = {name: array.clone() for name, array in parent.state_dict().items()}

        parent.half()

        for name, array in parent.state_dict().items():
            assert array.dtype == torch.float64
            assert torch.equal(array, before[name])

    def test_two_fits_are_one(self, chosen: dict[str, Any]) -> None:
        one, other = (fitted(points_of(300, 8), **chosen).state_dict() for _ in range(2))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_leaves_the_points_as_they_are(self, chosen: dict[str, Any]) -> None:
        points, others = points_of(12, 4), points_of(5, 4, seed=1)
        fitted(points, **chosen).scores_of(others)
        np.testing.assert_array_equal(points, points_of(12, 4))
        np.testing.assert_array_equal(others, points_of(5, 4, seed=1))

    def test_a_clips_score_does_not_depend_on_the_clips_beside_it(self, chosen: dict[str, Any]) -> None:
        density, others = fitted(points_of(40, 6), **chosen), points_of(9, 6, seed=1)
        alone = [density.scores_of(other[None])[0] for other in others]
        np.testing.assert_allclose(density.scores_of(others), alone, rtol=1e-9)

    @pytest.mark.parametrize("factor", [1e-6, 1e-2, 1e3])
    def test_ranks_clips_alike_in_every_unit(self, chosen: dict[str, Any], factor: float) -> None:
        # Log-mel levels span 100 dB, a network's embeddings perhaps a thousandth.
        points, others = points_of(30, 4), points_of(20, 4, seed=1)
        usual = fitted(points, **chosen).scores_of(others)
        scaled = fitted(points * factor, **chosen).scores_of(others * factor)
        np.testing.assert_array_equal(np.argsort(scaled), np.argsort(usual))

    def test_ranks_clips_alike_wherever_the_origin_is(self, chosen: dict[str, Any]) -> None:
        points, others = points_of(30, 4), points_of(20, 4, seed=1)
        usual = fitted(points, **chosen).scores_of(others)
        moved = fitted(points + 1e5, **chosen).scores_of(others + 1e5)
        np.testing.assert_allclose(moved, usual, rtol=1e-5)


@pytest.mark.parametrize("chosen", DENSITIES, ids=str)
class TestEveryDensityOfFewPoints:
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
        self, chosen: dict[str, Any], points: list[list[float]], recwarn: pytest.WarningsRecorder
    ) -> None:
        normal = np.array(points)
        # Away from the points, across every direction in which they vary.
        spread = float(np.ptp(normal, axis=0).max()) or 1.0
        away = np.array([[1.0, -1.0, 0.3]]) * spread
        others = normal.mean(axis=0) + np.array([[2.0], [3.0], [10.0], [1000.0]]) * away

        scores = fitted(normal, **chosen).scores_of(np.concatenate([normal, others]))

        assert np.isfinite(scores).all()
        steps = np.diff(scores[len(normal) :])
        # A support vector machine scores all clips alike that are far enough.
        assert ((steps >= 0) if chosen["score"] == "ocsvm" else (steps > 0)).all()
        assert scores[: len(normal)].max() < scores[len(normal)]
        assert [str(warning.message) for warning in recwarn] == []

    @settings(max_examples=15, deadline=None, database=None)
    @given(data=st.data(), count=st.integers(1, 6), dim=st.integers(1, 4))
    def test_of_whatever_points_scores_are_finite(
        self, chosen: dict[str, Any], data: st.DataObject, count: int, dim: int
    ) -> None:
        value = st.sampled_from([0.0, 0.1, 1.0, -1.0, 1e-9, 50.0])
        rows = st.lists(st.lists(value, min_size=dim, max_size=dim), min_size=count, max_size=count)
        points, others = np.array(data.draw(rows)), np.array(data.draw(rows))
        assert np.isfinite(fitted(points, **chosen).scores_of(others)).all()


@pytest.mark.parametrize("score", ["mahalanobis", "knn", "lof"])
@pytest.mark.parametrize("copies", [1, 3])
def test_from_one_place_the_score_is_the_euclidean_distance(score: str, copies: int) -> None:
    density = fitted(np.array([[0.1, 2.0]] * copies), score=score)
    np.testing.assert_allclose(density.scores_of(np.array([[0.1, 2.0], [3.1, 6.0]])), [0, 5], atol=1e-12)


@pytest.mark.parametrize("score", [chosen["score"] for chosen in DENSITIES if "standardize" not in chosen])
def test_a_standardised_density_is_one_of_standardised_points(score: str) -> None:
    points, others = points_of(30, 5), points_of(7, 5, seed=1)
    scaler = StandardScaler().fit(points)
    expected = fitted(scaler.transform(points), score=score).scores_of(scaler.transform(others))
    scores = fitted(points, score=score, standardize=True).scores_of(others)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("score", ["mahalanobis", "knn", "lof", "ocsvm"])
def test_a_standardised_density_does_not_depend_on_the_unit_of_a_dimension(score: str) -> None:
    points, others, units = points_of(30, 4), points_of(7, 4, seed=1), np.array([1.0, 30.0, 0.1, 7.0])
    expected = fitted(points, score=score, standardize=True).scores_of(others)
    scores = fitted(points * units, score=score, standardize=True).scores_of(others * units)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_what_another_version_learnt_without_standardising_has_no_array_for_it() -> None:
    assert fitted(points_of(9, 3), score="knn").state_dict().keys() == {"reference", "local"}
