from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from features.clips.corpus import read_corpus
from features.errors import CorpusError
from features.frames.feature_settings import FeatureSettings
from features.store.building import open_store
from features.store.files import FrameStore
from features.windows.context_windows import ContextWindows
from features.windows.excerpts import GPU_SHARE, Batch
from features.windows.stored_clips import StoredClips

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def numbered_store(lengths: Sequence[int], *, bins: int = 3) -> FrameStore:
    """A store of clips so many frames long; every value in it is another number."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    frames = np.arange(offsets[-1] * bins, dtype=np.float32).reshape(-1, bins)
    return FrameStore(frames=frames, offsets=offsets)


def stored_clips(store: FrameStore, positions: Sequence[int]) -> StoredClips:
    return StoredClips(store, positions, [Path(f"{position}.wav") for position in positions])


def windows_of(
    store: FrameStore, *, context: int, positions: Sequence[int] | None = None, device: torch.device = CPU
) -> ContextWindows:
    positions = range(len(store.offsets) - 1) if positions is None else positions
    return ContextWindows(stored_clips(store, positions), context=context, setting="model.context", device=device)


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
    store = open_store(clips, FeatureSettings(n_mels=8, n_fft=128, hop_length=64))
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


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [
        (1, [1] * 36),
        (7, [7, 7, 7, 7, 8]),  # one alone has no variance: it joins the batch before
        (8, [8, 8, 8, 8, 4]),
        (36, [36]),
        (1000, [36]),
    ],
)
def test_the_batch_size_divides_windows_and_changes_none(batch_size: int, expected: list[int]) -> None:
    windows = windows_of(numbered_store([20, 20]), context=3)  # 36 windows
    sizes = [len(batch.clips) for batch in windows.in_order(batch_size)]
    assert sizes == expected
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


class StandInGpu(TorchFunctionMode):
    """A GPU of so many free bytes where there is none: its arrays lie on the CPU, and what is sent there is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.free, self.reserved, self.allocated = 0, 0, 0
        self.made: list[tuple[int, ...]] = []  # shapes of arrays made there
        self.sent: list[tuple[torch.dtype, tuple[int, ...], bool, bool]] = []  # (type, shape, pinned, non-blocking)
        self._pinned: list[torch.Tensor] = []
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.free, 80_000))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.allocated)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda array: self.pin(array))

    def pin(self, array: torch.Tensor) -> torch.Tensor:
        pinned = array.clone()
        self._pinned.append(pinned)
        return pinned

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to and args[1] == GPU:
            array = args[0]
            pinned = any(array is one for one in self._pinned)
            self.sent.append((array.dtype, tuple(array.shape), pinned, kwargs.get("non_blocking", False)))
            return array.clone()
        if kwargs.get("device") == GPU:
            self.made.append(args[0])
            return func(*args, **{**kwargs, "device": CPU})
        return func(*args, **kwargs)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInGpu]:
    with StandInGpu(monkeypatch) as stand_in:
        yield stand_in


class TestOnAGpu:
    store = numbered_store([5, 9, 6, 17])  # clips of 3 bins: 12 bytes a frame
    used = (3, 1, 1)  # 17 + 9 + 9 frames
    size = 35 * 12

    @pytest.mark.parametrize(
        ("free", "reserved", "allocated", "kept"),
        [
            (size / GPU_SHARE, 0, 0, True),
            (size / GPU_SHARE - 1, 0, 0, False),
            (size / GPU_SHARE - 1, 101, 100, True),  # what torch holds in reserve is free for its own process
            (0, 0, 0, False),
        ],
    )
    def test_frames_are_kept_where_they_fit_into_a_share_of_its_free_memory(
        self, gpu: StandInGpu, free: int, reserved: int, allocated: int, kept: bool
    ) -> None:
        gpu.free, gpu.reserved, gpu.allocated = free, reserved, allocated
        windows_of(self.store, context=3, positions=self.used, device=GPU)
        assert gpu.made == ([(35, 3)] if kept else [])  # of the clips that are used, no others

    @pytest.mark.parametrize("free", [0, 80_000], ids=["streamed", "kept"])
    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    @pytest.mark.parametrize("positions", [[0, 1, 2, 3], [3, 1, 1]], ids=["all", "some, one twice"])
    def test_windows_are_those_of_the_cpu(
        self, gpu: StandInGpu, free: int, batch_size: int, positions: list[int]
    ) -> None:
        gpu.free = free
        there, here = (windows_of(self.store, context=3, positions=positions, device=d) for d in (GPU, CPU))
        assert joined(there.in_order(batch_size)) == joined(here.in_order(batch_size))
        for _ in range(2):
            assert joined(there.shuffled(batch_size, generator(1))) == joined(here.shuffled(batch_size, generator(1)))
        some = torch.tensor([3, 0, 3])
        assert joined(iter([there.batch(some)])) == joined(iter([here.batch(some)]))

    def test_an_epoch_of_kept_frames_sends_its_order_and_nothing_else(self, gpu: StandInGpu) -> None:
        gpu.free = 80_000
        windows = windows_of(self.store, context=3, device=GPU)
        gpu.sent.clear()
        joined(windows.shuffled(4, generator(0)))
        assert gpu.sent == [(torch.int64, (len(windows),), False, False)]

    def test_streamed_batches_are_sent_from_pinned_memory_without_waiting(self, gpu: StandInGpu) -> None:
        windows = windows_of(self.store, context=3, positions=[0, 1], device=GPU)  # 3 + 7 windows
        joined(windows.shuffled(8, generator(0)))
        assert gpu.sent == [
            (dtype, shape, True, True)
            for count in (8, 2)
            for dtype, shape in [(torch.float32, (count, 9)), (torch.int64, (count,))]
        ]

    def test_the_next_batch_is_prepared_while_one_is_worked_on(
        self, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepared: queue.Queue[int] = queue.Queue()
        pin = gpu.pin

        def noted(batch: torch.Tensor) -> torch.Tensor:
            prepared.put(threading.get_ident())
            return pin(batch)

        monkeypatch.setattr(torch.Tensor, "pin_memory", noted)
        batches = windows_of(self.store, context=3, device=GPU).in_order(10)
        next(batches)
        pinned = [prepared.get(timeout=30) for _ in range(4)]  # inputs and clips of the first batch, and of the second
        assert threading.get_ident() not in pinned
        assert prepared.empty()  # of the third nothing, before the second is taken

    def test_an_epoch_that_is_broken_off_leaves_no_thread(self, gpu: StandInGpu) -> None:
        batches = windows_of(self.store, context=3, device=GPU).in_order(4)
        next(batches)
        assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())
        del batches
        assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())

    def test_memory_that_runs_out_in_the_thread_is_an_error_of_the_epoch(
        self, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_memory(batch: torch.Tensor) -> torch.Tensor:
            raise MemoryError

        monkeypatch.setattr(torch.Tensor, "pin_memory", no_memory)
        with pytest.raises(MemoryError):
            next(windows_of(self.store, context=3, device=GPU).in_order(4))
