"""Scores of all machine IDs on one scale: that of each one's normal clips."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.stats import norm

from features.errors import UnservedError
from models.labels import UNKNOWN, Labels
from models.scoring.calibration import Calibration, require_normals, require_withheld

Array = npt.NDArray[np.float64]
Kind = Literal["z", "empirical"]

LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])

#: Levels, errors or log-odds; far enough apart for float64 to tell them after a division.
SCORES = st.integers(-(10**6), 10**6).map(lambda number: number / 100)


def calibration_of(kind: Kind, normals: list[float], ids: list[int] | None = None) -> Calibration:
    calibration = Calibration(kind)
    calibration.fit(np.array(normals), np.array(ids or [0] * len(normals), dtype=np.int64))
    return calibration


def calibrated(kind: Kind, normals: list[float], scores: list[float]) -> list[float]:
    """Scores of one machine ID with these normal clips."""
    of_the_id = np.zeros(len(scores), dtype=np.int64)
    result: list[float] = calibration_of(kind, normals).calibrated(np.array(scores), of_the_id).tolist()
    return result


def auc(normal: list[float], anomalous: list[float]) -> float:
    """The share of pairs in the right order; one that ties counts half."""
    differences = np.sign(np.subtract.outer(anomalous, normal))
    return float((differences + 1).mean() / 2)


def test_z_is_the_distance_from_the_mean_in_standard_deviations() -> None:
    # Mean 4, deviation 2 (of a sample: the sum of squares is 8, over 2)
    assert calibrated("z", [2, 4, 6], [2, 4, 5, 10, -96]) == [-1, 0, 0.5, 3, -50]


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_empirical_puts_the_ith_of_n_normal_clips_at_its_normal_score(count: int) -> None:
    normals = np.random.default_rng(0).exponential(size=count)
    expected = [norm.ppf(rank / (count + 1)) for rank in range(1, count + 1)]
    assert calibrated("empirical", normals.tolist(), sorted(normals)) == pytest.approx(expected, abs=1e-12)


def test_empirical_is_straight_between_normal_clips() -> None:
    low, middle, high = calibrated("empirical", [0, 10, 50], [10, 20, 50])
    assert (low, middle) == pytest.approx((0, high / 4))


def test_empirical_goes_on_beyond_them_at_the_slope_of_z() -> None:
    normals = [2.0, 4.0, 6.0]  # deviation 2
    lowest, highest, below, above, far = calibrated("empirical", normals, [2, 6, -2, 7, 2e6 + 6])
    assert below == pytest.approx(lowest - 2)
    assert above == pytest.approx(highest + 0.5)
    assert far == pytest.approx(highest + 1e6)


def test_empirical_gives_normal_clips_that_score_alike_their_mean_rank() -> None:
    # Ranks 1, 2 to 4, and 5 of 5
    expected = [norm.ppf(1 / 6), norm.ppf(3 / 6), norm.ppf(5 / 6)]
    assert calibrated("empirical", [1, 7, 7, 7, 9], [1, 7, 9]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["z", "empirical"])
@pytest.mark.parametrize("score", [0.1, -3.0, 1e-12, 12345.678])
def test_beside_normal_clips_that_all_score_alike_a_score_keeps_its_unit(kind: Kind, score: float) -> None:
    # Three times 0.1 has a mean that is not quite 0.1.
    result = calibrated(kind, [score] * 3, [score - 2, score, score + 5])
    assert result == pytest.approx([-2, 0, 5], abs=1e-9)


@pytest.mark.parametrize("kind", ["z", "empirical"])
@settings(max_examples=20, deadline=None, database=None)
@given(normals=st.lists(SCORES, min_size=2, max_size=12), scores=st.lists(SCORES, min_size=2, max_size=12, unique=True))
def test_a_higher_score_stays_higher(kind: Kind, normals: list[float], scores: list[float]) -> None:
    assert (np.diff(calibrated(kind, normals, sorted(scores))) > 0).all()


@pytest.mark.parametrize("kind", ["z", "empirical"])
@settings(max_examples=20, deadline=None, database=None)
@given(
    normals=st.lists(SCORES, min_size=2, max_size=12),
    normal=st.lists(SCORES, min_size=1, max_size=8),
    anomalous=st.lists(SCORES, min_size=1, max_size=8),
)
def test_the_auc_of_one_machine_id_does_not_change(
    kind: Kind, normals: list[float], normal: list[float], anomalous: list[float]
) -> None:
    both = calibrated(kind, normals, normal + anomalous)
    assert auc(both[: len(normal)], both[len(normal) :]) == auc(normal, anomalous)


@pytest.mark.parametrize("kind", ["z", "empirical"])
@settings(max_examples=20, deadline=None, database=None)
@given(normals=st.lists(SCORES, min_size=2, max_size=12, unique=True), scores=st.lists(SCORES, min_size=1, max_size=8))
def test_the_unit_and_origin_of_scores_do_not_matter(kind: Kind, normals: list[float], scores: list[float]) -> None:
    other = calibrated(kind, [3 * s - 7 for s in normals], [3 * s - 7 for s in scores])
    assert other == pytest.approx(calibrated(kind, normals, scores), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kind", ["z", "empirical"])
def test_each_machine_id_is_judged_by_its_own_normal_clips(kind: Kind) -> None:
    quiet, loud = [1.0, 2.0, 3.0], [100.0, 200.0, 400.0]
    mixed = calibration_of(kind, [1.0, 100.0, 2.0, 200.0, 3.0, 400.0], [0, 1, 0, 1, 0, 1])

    result = mixed.calibrated(np.array([2.5, 250.0, 9.0]), np.array([0, 1, 0]))

    assert result.tolist() == [
        calibrated(kind, quiet, [2.5])[0],
        calibrated(kind, loud, [250.0])[0],
        calibrated(kind, quiet, [9.0])[0],
    ]


@pytest.mark.parametrize("kind", ["z", "empirical"])
def test_a_machine_id_never_trained_on_is_judged_by_all_normal_clips_together(kind: Kind) -> None:
    normals = [1.0, 100.0, 2.0, 200.0]
    mixed = calibration_of(kind, normals, [0, 1, 0, 1])

    result = mixed.calibrated(np.array([50.0, 50.0]), np.array([UNKNOWN, 1]))

    assert result[0] == calibrated(kind, normals, [50.0])[0]
    assert result[1] == calibrated(kind, [100.0, 200.0], [50.0])[0]


@pytest.mark.parametrize("kind", ["z", "empirical"])
def test_calibrating_leaves_the_scores_as_they_are(kind: Kind) -> None:
    normals, scores = np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0])
    calibration = Calibration(kind)
    calibration.fit(normals, np.zeros(3, dtype=np.int64))
    before = calibration.calibrated(scores, np.zeros(2, dtype=np.int64))
    normals[:] = 0  # what it learnt is its own

    assert scores.tolist() == [3.0, 5.0]
    assert (calibration.calibrated(scores, np.zeros(2, dtype=np.int64)) == before).all()


@pytest.mark.parametrize("kind", ["z", "empirical"])
def test_what_it_learnt_is_in_its_state(kind: Kind, tmp_path: Path) -> None:
    calibration = calibration_of(kind, [0.1, 0.7, 5.0, 9.0, 2.0], [0, 0, 1, 1, 0])
    scores, ids = np.array([0.3, 7.0, 1.0]), np.array([0, 1, UNKNOWN])
    save_file(calibration.state_dict(), tmp_path / "calibration.safetensors")
    other = calibration_of(kind, [1.0, 2.0])  # of another number of clips

    other.load_state_dict(load_file(tmp_path / "calibration.safetensors"))
    torch.nn.ModuleList([other]).half()  # no device and no type of the network's is its own

    assert (other.calibrated(scores, ids) == calibration.calibrated(scores, ids)).all()


@pytest.mark.parametrize(
    ("ids", "missing"),
    [(["fan/00", "fan/02"] * 2, None), (["fan/00", "fan/00", "fan/02"], "fan/02 has 1"), (["fan/02"] * 5, "00 has 0")],
)
def test_each_machine_id_needs_two_normal_clips(ids: list[str], missing: str | None) -> None:
    if missing is None:
        require_normals(ids, LABELS)
        require_withheld(ids, [], LABELS)
        return
    with pytest.raises(UnservedError, match=rf"an ensemble takes at least 2 normal clips.*{missing}: train on more"):
        require_normals(ids, LABELS)
    with pytest.raises(UnservedError, match=rf"takes at least 2 withheld normal clips.*{missing} of "):
        require_withheld(ids, ["fan/00", "fan/02"], LABELS)


@pytest.mark.parametrize(
    ("clips", "remedy"),
    [
        (20, "set training.calibration_share to 0.1,"),
        (7, "set training.calibration_share to 0.29,"),
        (3, "train on more clips of it,"),
    ],
)
def test_where_too_few_clips_are_withheld_the_share_that_is_enough_is_named(clips: int, remedy: str) -> None:
    ids = ["fan/00", "fan/02"]

    with pytest.raises(UnservedError, match=rf"fan/00 has 1 of {clips}: {remedy} or scoring.calibration to none"):
        require_withheld(ids, ids * (clips - 1), LABELS)


def test_unknown_ids_are_on_the_scale_of_clips_that_were_scored_as_unknown_where_there_are_some() -> None:
    calibration = Calibration("z")
    calibration.fit(np.array([0.0, 2.0, 10.0, 14.0]), np.array([0, 0, UNKNOWN, UNKNOWN]))
    scores = calibration.calibrated(np.array([1.0, 12.0]), np.array([0, UNKNOWN]))
    np.testing.assert_allclose(scores, [0.0, 0.0])
