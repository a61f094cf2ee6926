from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.scoring.pooling import pool, pooled_embeddings
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


def embeddings_of(lengths: list[int], dim: int = 3) -> list[npt.NDArray[np.float32]]:
    """Windows of clips, (windows, dim) each; some values are alike."""
    rng = np.random.default_rng(lengths)
    return [np.round(rng.normal(size=(length, dim)), 1).astype(np.float32) for length in lengths]


def by_rank(windows: npt.NDArray[np.float32], decay: float) -> npt.NDArray[np.float64]:
    """From the definition, each dimension on its own."""
    weights = np.array([decay**rank for rank in range(len(windows))])
    columns = windows.astype(np.float64).T
    return np.array([np.average(sorted(column, reverse=True), weights=weights) for column in columns])


def pooled_in(clips: list[npt.NDArray[np.float32]], sizes: list[int], decay: float) -> npt.NDArray[np.float64]:
    """Clips' embeddings by way of batches of these sizes."""
    windows = torch.from_numpy(np.concatenate(clips))
    owners = torch.tensor([clip for clip, own in enumerate(clips) for _ in own])
    batches = zip(torch.split(windows, sizes), torch.split(owners, sizes), strict=True)
    pooled = pooled_embeddings(batches, clip_count=len(clips), decay=decay)
    assert pooled.dtype == torch.float64
    return np.asarray(pooled.numpy())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.97, 1.0])
@settings(max_examples=30, deadline=None, database=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), data=st.data())
def test_each_dimension_of_an_embedding_is_pooled_by_rank_however_batches_cut_the_clips(
    lengths: list[int], data: st.DataObject, decay: float
) -> None:
    clips, total = embeddings_of(lengths), sum(lengths)
    cuts = sorted(data.draw(st.sets(st.integers(1, total - 1)))) if total > 1 else []
    sizes = np.diff([0, *cuts, total]).tolist()

    result = pooled_in(clips, sizes, decay)

    np.testing.assert_allclose(result, [by_rank(own, decay) for own in clips], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(result, pooled_in(clips, [total], decay))


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "sizes",
    [[1] * 12, [12], [4, 8], [3, 9], [5, 7], [4, 1, 7], [2, 6, 4], [4, 1, 5, 2], [11, 1]],
    ids=lambda sizes: "-".join(map(str, sizes)),
)
def test_clips_end_with_a_batch_within_one_and_reach_over_several(sizes: list[int], decay: float) -> None:
    clips = embeddings_of([4, 1, 5, 2])
    np.testing.assert_array_equal(pooled_in(clips, sizes, decay), pooled_in(clips, [4, 1, 5, 2], decay))


def test_embeddings_pool_to_their_mean_or_their_maximum_at_the_ends_of_decay() -> None:
    clips = embeddings_of([50, 1, 313], dim=8)
    sizes = [100, 100, 164]
    np.testing.assert_array_equal(pooled_in(clips, sizes, 0), [own.max(axis=0) for own in clips])
    means = [own.astype(np.float64).mean(axis=0) for own in clips]
    np.testing.assert_allclose(pooled_in(clips, sizes, 1), means, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_an_embedding_that_is_not_a_number_stays_one(decay: float) -> None:
    (windows,) = embeddings_of([9])
    windows[3, 1] = np.nan
    assert np.isnan(pooled_in([windows], [4, 5], decay)[0]).tolist() == [False, True, False]


def test_there_must_be_something_to_pool() -> None:
    with pytest.raises(ValueError, match="nothing to pool"):
        pooled_embeddings([], clip_count=2, decay=1)
