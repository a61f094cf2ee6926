from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.scoring.pooling import pool
from models.settings import Pooling

#: Scores as a float32 model gives them, negative ones too (log-odds are).
SCORES = st.floats(-1e4, 1e4, width=32)
CLIPS = st.lists(st.lists(SCORES, min_size=1, max_size=8), min_size=1, max_size=6)


def pooled(
    clips: list[list[float]], *, pooling: Pooling, order: list[int] | None = None, **settings: float
) -> list[float]:
    """Clip scores of these window scores, handed over in order or in another."""
    scores = torch.tensor([score for windows in clips for score in windows], dtype=torch.float32)
    owners = torch.tensor([clip for clip, windows in enumerate(clips) for _ in windows])
    if order is not None:
        scores, owners = scores[order], owners[order]
    result = pool(scores, owners, clip_count=len(clips), pooling=pooling, **settings)
    assert result.dtype == torch.float64
    return result.tolist()


@settings(max_examples=30, deadline=None, database=None)
@given(CLIPS)
def test_a_clips_score_is_the_mean_or_maximum_over_its_windows(clips: list[list[float]]) -> None:
    np.testing.assert_allclose(pooled(clips, pooling="mean"), [np.mean(w) for w in clips], rtol=1e-12, atol=1e-9)
    assert pooled(clips, pooling="max") == [max(windows) for windows in clips]


@settings(max_examples=30, deadline=None, database=None)
@given(CLIPS, st.floats(0, 1))
def test_gwrp_weights_each_window_by_its_rank(clips: list[list[float]], decay: float) -> None:
    expected = []
    for windows in clips:
        weights = [decay**rank for rank in range(len(windows))]
        expected.append(np.average(sorted(windows, reverse=True), weights=weights))
    np.testing.assert_allclose(pooled(clips, pooling="gwrp", decay=decay), expected, rtol=1e-9, atol=1e-6)


@given(CLIPS)
@settings(max_examples=30, deadline=None, database=None)
def test_gwrp_reaches_from_the_maximum_to_the_mean(clips: list[list[float]]) -> None:
    assert pooled(clips, pooling="gwrp", decay=0) == pooled(clips, pooling="max")
    assert pooled(clips, pooling="gwrp", decay=1) == pooled(clips, pooling="mean")


@pytest.mark.parametrize(
    ("top_share", "windows", "counted"), [(0.07, 100, 7), (0.15, 200, 30), (0.3, 50, 15), (1e-9, 5, 1)]
)
def test_a_share_that_is_a_whole_number_of_windows_is_that_many(top_share: float, windows: int, counted: int) -> None:
    scores = [float(score) for score in range(windows)]
    assert pooled([scores], pooling="top", top_share=top_share) == [np.mean(scores[-counted:])]


@pytest.mark.parametrize(("top_share", "expected"), [(0.01, 9), (0.25, 9), (0.26, 8), (0.5, 8), (0.75, 7), (1, 5.25)])
def test_top_is_the_mean_of_the_most_anomalous_share_rounded_up(top_share: float, expected: float) -> None:
    assert pooled([[7, 0, 9, 5], [1]], pooling="top", top_share=top_share) == [expected, 1]


@pytest.mark.parametrize("pooling", ["mean", "max", "top", "gwrp"])
@settings(max_examples=30, deadline=None, database=None)
@given(clips=CLIPS, data=st.data())
def test_the_order_in_which_windows_come_changes_nothing(
    clips: list[list[float]], data: st.DataObject, pooling: Pooling
) -> None:
    order = data.draw(st.permutations(range(sum(map(len, clips)))))
    some: dict[str, Any] = {"decay": 0.7, "top_share": 0.4}
    assert pooled(clips, pooling=pooling, order=order, **some) == pooled(clips, pooling=pooling, **some)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [2.0, -3.0, 0.5]), ("max", [3.0, -2.0, 0.5])],
)
def test_clips_keep_their_places(pooling: Pooling, expected: list[float]) -> None:
    assert pooled([[1, 3], [-2, -4], [0.5]], pooling=pooling) == expected


def test_a_mean_over_many_windows_keeps_the_precision_that_float32_sums_lose() -> None:
    # 2²⁴ is where float32 stops counting: adding 1 to it changes nothing.
    assert pooled([[float(2**24)] + [1.0] * 1023], pooling="mean") == [(2**24 + 1023) / 1024]
