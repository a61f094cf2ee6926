from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.corpus import read_corpus
from features.errors import CorpusError
from features.logmel import LogMelSettings
from features.store import FrameStore, open_store
from features.windows import Batch, ContextWindows

CPU = torch.device("cpu")


def numbered_store(lengths: Sequence[int], *, bins: int = 3) -> FrameStore:
    """A store of clips so many frames long; every value in it is another number."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    frames = np.arange(offsets[-1] * bins, dtype=np.float32).reshape(-1, bins)
    return FrameStore(frames=frames, offsets=offsets)


def windows_of(store: FrameStore, *, context: int, positions: Sequence[int] | None = None) -> ContextWindows:
    positions = range(len(store.offsets) - 1) if positions is None else positions
    return ContextWindows(
        store, positions, [Path(f"{position}.wav") for position in positions], context=context, device=CPU
    )


def joined(batches: Iterator[Batch]) -> tuple[list[list[float]], list[int]]:
    inputs: list[list[float]] = []
    clips: list[int] = []
    for batch in batches:
        assert batch.inputs.dtype == torch.float32
        assert batch.clips.dtype == torch.int64
        inputs += batch.inputs.tolist()
        clips += batch.clips.tolist()
    return inputs, clips


def one_by_one(store: FrameStore, positions: Sequence[int], *, context: int) -> tuple[list[list[float]], list[int]]:
    """The same by a naive loop over clips and frames."""
    inputs, clips = [], []
    for owner, position in enumerate(positions):
        frames = store.of_clip(position)
        for start in range(len(frames) - context + 1):
            inputs.append(frames[start : start + context].reshape(-1).tolist())
            clips.append(owner)
    return inputs, clips


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("context", [1, 2, 5])
@pytest.mark.parametrize(
    "positions", [[0, 1, 2, 3], [2], [3, 1], [1, 1]], ids=["all", "one", "some, in another order", "one twice"]
)
def test_windows_are_those_of_a_naive_loop(positions: list[int], context: int) -> None:
    store = numbered_store([5, 9, 6, 17])
    windows = windows_of(store, context=context, positions=positions)
    expected = one_by_one(store, positions, context=context)
    assert joined(windows.in_order(batch_size=4)) == expected
    assert len(windows) == len(expected[0])
    assert windows.clip_count == len(positions)


def test_windows_of_a_mapped_store_are_those_of_its_clips(tmp_path: Path, make_clips: Callable[..., Path]) -> None:
    clips = read_corpus(make_clips(tmp_path / "sounds", count=3)).clips
    store = open_store(clips, LogMelSettings(n_mels=8, n_fft=128, hop_length=64))
    windows = windows_of(store, context=4, positions=[2, 0])
    assert joined(windows.in_order(batch_size=7)) == one_by_one(store, [2, 0], context=4)


@settings(max_examples=30, deadline=None, database=None)
@given(data=st.data(), context=st.integers(1, 6), bins=st.integers(1, 4))
def test_a_window_never_spans_two_clips(data: st.DataObject, context: int, bins: int) -> None:
    lengths = data.draw(st.lists(st.integers(context, 15), min_size=1, max_size=6))
    store = numbered_store(lengths, bins=bins)
    store.frames[:] = np.repeat(np.arange(len(lengths)), lengths)[:, np.newaxis]  # every frame is its clip's number
    inputs, clips = joined(windows_of(store, context=context).in_order(batch_size=8))
    assert inputs == [[clip] * context * bins for clip in clips]
    assert np.bincount(clips).tolist() == [length - context + 1 for length in lengths]


@settings(max_examples=30, deadline=None, database=None)
@given(
    lengths=st.lists(st.integers(3, 12), min_size=1, max_size=5), batch_size=st.integers(1, 40), seed=st.integers(0, 9)
)
def test_an_epoch_in_random_order_holds_each_window_once(lengths: list[int], batch_size: int, seed: int) -> None:
    windows = windows_of(numbered_store(lengths), context=3)
    in_order, shuffled = windows.in_order(batch_size), windows.shuffled(batch_size, generator(seed))
    assert sorted(zip(*joined(shuffled), strict=True)) == list(zip(*joined(in_order), strict=True))


class TestRandomOrder:
    windows = windows_of(numbered_store([20, 20]), context=3)

    def test_is_the_same_for_equal_seeds_and_another_for_others(self) -> None:
        first, again, other = (joined(self.windows.shuffled(5, generator(seed))) for seed in (0, 0, 1))
        assert first == again
        assert first != other
        assert first != joined(self.windows.in_order(5))

    def test_is_another_in_the_next_epoch(self) -> None:
        ongoing = generator(0)
        assert joined(self.windows.shuffled(5, ongoing)) != joined(self.windows.shuffled(5, ongoing))


@pytest.mark.parametrize("batch_size", [1, 7, 36, 1000])
def test_the_batch_size_divides_windows_and_changes_none(batch_size: int) -> None:
    windows = windows_of(numbered_store([20, 20]), context=3)  # 36 windows
    sizes = [len(batch.clips) for batch in windows.in_order(batch_size)]
    assert sizes == [batch_size] * (36 // batch_size) + [36 % batch_size] * (36 % batch_size > 0)
    assert joined(windows.in_order(batch_size)) == joined(windows.in_order(36))
    assert joined(windows.shuffled(batch_size, generator(0))) == joined(windows.shuffled(36, generator(0)))


def test_windows_are_picked_by_their_positions() -> None:
    windows = windows_of(numbered_store([4, 4]), context=3)
    batch = windows.batch(torch.tensor([3, 0, 3]))
    assert batch.clips.tolist() == [1, 0, 1]
    assert batch.inputs[:, 0].tolist() == [5 * 3, 0, 5 * 3]  # the first value of frames 5, 0 and 5


def test_a_batch_is_a_copy_that_may_be_written_to() -> None:
    store = numbered_store([6])
    next(windows_of(store, context=3).in_order(batch_size=10)).inputs.zero_()
    np.testing.assert_array_equal(store.frames, numbered_store([6]).frames)


def test_a_clip_shorter_than_a_window_is_named_with_both_lengths() -> None:
    store = numbered_store([9, 4, 9])
    with pytest.raises(CorpusError, match=r"model.context is 5 frames, but 1.wav has only 4. Lower model.context"):
        windows_of(store, context=5)
    assert len(windows_of(store, context=5, positions=[0, 2])) == 10


def test_a_clip_as_long_as_a_window_is_one_window() -> None:
    assert len(windows_of(numbered_store([5]), context=5)) == 1
