from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import ClipTooShortError
from features.store.files import FrameStore
from features.windows.crops import Crops
from features.windows.excerpts import GPU_SHARE, Batch
from tests.features.windows.test_windows import CPU, GPU, StandInGpu, generator, numbered_store, stored_clips


def crops_of(
    store: FrameStore,
    *,
    frames: int = 4,
    hop: int = 3,
    crops_per_clip: int = 5,
    positions: Sequence[int] | None = None,
    device: torch.device = CPU,
) -> Crops:
    positions = range(len(store.offsets) - 1) if positions is None else positions
    clips = stored_clips(store, positions)
    return Crops(clips, frames=frames, hop=hop, crops_per_clip=crops_per_clip, setting="model.frames", device=device)


def joined(batches: Iterator[Batch]) -> tuple[list[list[list[float]]], list[int]]:
    """Pictures (bins, frames) and clips of all batches, one after another."""
    pictures: list[list[list[float]]] = []
    clips: list[int] = []
    for batch in batches:
        assert batch.inputs.dtype == torch.float32
        assert batch.clips.dtype == torch.int64
        assert batch.inputs.is_contiguous()
        assert batch.inputs.shape[:2] == (len(batch.clips), 1)
        pictures += batch.inputs[:, 0].tolist()
        clips += batch.clips.tolist()
    return pictures, clips


def starts_of(store: FrameStore, positions: Sequence[int], batches: Iterator[Batch]) -> list[tuple[int, int]]:
    """(clip, first frame within the clip) of each crop of a numbered store, after a look at all of its values."""
    found = []
    for picture, clip in zip(*joined(batches), strict=True):
        frames = store.of_clip(positions[clip])
        start = int(picture[0][0] - frames[0, 0]) // frames.shape[1]
        assert 0 <= start <= len(frames) - len(picture[0])
        np.testing.assert_array_equal(picture, frames[start : start + len(picture[0])].T)
        found.append((clip, start))
    return found


@pytest.mark.parametrize(
    ("length", "frames", "hop", "starts"),
    [
        (10, 4, 3, [0, 3, 6]),  # the last hop is a whole one
        (11, 4, 3, [0, 3, 6, 7]),  # it is not
        (10, 4, 100, [0, 6]),  # both ends, whatever the hop
        (4, 4, 3, [0]),  # a crop as long as the clip
        (5, 4, 3, [0, 1]),
        (6, 1, 1, [0, 1, 2, 3, 4, 5]),
        (313, 64, 128, [0, 128, 249]),
    ],
)
def test_scoring_takes_crops_at_even_distances_from_the_begin_of_a_clip_to_its_end(
    length: int, frames: int, hop: int, starts: list[int]
) -> None:
    store = numbered_store([length, length])
    crops = crops_of(store, frames=frames, hop=hop)
    expected = [(clip, start) for clip in (0, 1) for start in starts]
    assert starts_of(store, [0, 1], crops.in_order(batch_size=3)) == expected
    assert len(crops) == len(expected)
    assert crops.clip_count == 2


@settings(max_examples=50, deadline=None, database=None)
@given(data=st.data(), frames=st.integers(1, 6), bins=st.integers(1, 3), batch_size=st.integers(1, 30))
def test_crops_never_span_two_clips_and_together_hold_every_frame(
    data: st.DataObject, frames: int, bins: int, batch_size: int
) -> None:
    lengths = data.draw(st.lists(st.integers(frames, 20), min_size=1, max_size=5))
    hop = data.draw(st.integers(1, frames))
    positions = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=5))
    store = numbered_store(lengths, bins=bins)
    crops = crops_of(store, frames=frames, hop=hop, crops_per_clip=2, positions=positions)
    found = starts_of(store, positions, crops.in_order(batch_size))
    assert found == sorted(found)
    held = {(clip, start + frame) for clip, start in found for frame in range(frames)}
    assert held == {(clip, frame) for clip, position in enumerate(positions) for frame in range(lengths[position])}
    of_clips = sorted(clip for clip, _ in starts_of(store, positions, crops.shuffled(batch_size, generator(0))))
    assert of_clips == sorted([*range(len(positions))] * 2)


class TestAnEpochOfTraining:
    store = numbered_store([40, 9, 4])
    crops = crops_of(store, crops_per_clip=200)

    def starts(self, random: torch.Generator, batch_size: int = 64) -> list[tuple[int, int]]:
        return starts_of(self.store, [0, 1, 2], self.crops.shuffled(batch_size, random))

    def test_takes_as_many_crops_of_each_clip_however_long(self) -> None:
        assert np.bincount([clip for clip, _ in self.starts(generator(0))]).tolist() == [200, 200, 200]

    def test_takes_them_anywhere_with_equal_chances(self) -> None:
        drawn = [start for epoch in range(10) for clip, start in self.starts(generator(epoch)) if clip == 0]
        counts = np.bincount(drawn)
        assert len(counts) == 37  # from 0 to 40 - 4
        deviations = (counts - 2000 / 37) / np.sqrt(2000 / 37)
        assert np.abs(deviations).max() < 4.5

    def test_is_the_same_for_equal_seeds_whatever_the_batch_size_and_another_for_others(self) -> None:
        first, again, other = (
            self.starts(generator(0)),
            self.starts(generator(0), batch_size=7),
            self.starts(generator(1)),
        )
        assert first == again
        assert first != other

    def test_takes_others_in_the_next_epoch(self) -> None:
        ongoing = generator(0)
        first, second = self.starts(ongoing), self.starts(ongoing)
        assert sorted(first) != sorted(second)

    def test_mixes_the_clips(self) -> None:
        clips = [clip for clip, _ in self.starts(generator(0))]
        assert clips != sorted(clips)


def test_crops_are_picked_by_their_positions_in_the_order() -> None:
    crops = crops_of(numbered_store([10, 10]))  # three of each
    in_order, _ = joined(crops.in_order(batch_size=10))
    picked, clips = joined(iter([crops.batch(torch.tensor([5, 0, 5]))]))
    assert picked == [in_order[5], in_order[0], in_order[5]]
    assert clips == [1, 0, 1]


def test_a_clip_shorter_than_a_crop_is_named_with_both_lengths_and_the_setting() -> None:
    store = numbered_store([9, 4, 9])
    with pytest.raises(
        ClipTooShortError,
        match=r"^model.frames is 5 frames, but 1.wav has only 4. Lower model.frames or features.hop_length, or remove",
    ):
        crops_of(store, frames=5)
    assert crops_of(store, frames=5, positions=[0, 2]).clip_count == 2


@pytest.mark.parametrize("setting", ["frames", "hop", "crops_per_clip"])
def test_a_number_below_one_is_refused(setting: str) -> None:
    zero: dict[str, Any] = {setting: 0}
    with pytest.raises(ValueError, match=rf"{setting} ≥ 1 must hold, but got 0"):
        crops_of(numbered_store([9]), **zero)


class TestOnAGpu:
    store = numbered_store([5, 9, 6, 17])  # clips of 3 bins: 12 bytes a frame

    @pytest.fixture
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInGpu]:
        with StandInGpu(monkeypatch) as stand_in:
            yield stand_in

    @pytest.mark.parametrize("free", [0, 37 * 12 / GPU_SHARE], ids=["streamed", "kept"])
    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_crops_are_those_of_the_cpu(self, gpu: StandInGpu, free: int, batch_size: int) -> None:
        gpu.free = free
        there, here = (crops_of(self.store, device=device) for device in (GPU, CPU))
        assert gpu.made == ([(37, 3)] if free else [])
        assert joined(there.in_order(batch_size)) == joined(here.in_order(batch_size))
        assert joined(there.shuffled(batch_size, generator(1))) == joined(here.shuffled(batch_size, generator(1)))
        some = torch.tensor([3, 0, 3])
        assert joined(iter([there.batch(some)])) == joined(iter([here.batch(some)]))

    def test_streamed_batches_are_sent_from_pinned_memory_without_waiting(self, gpu: StandInGpu) -> None:
        joined(crops_of(self.store, device=GPU).shuffled(16, generator(0)))  # five of each of four clips
        assert gpu.sent == [
            (dtype, shape, True, True)
            for count in (16, 4)
            for dtype, shape in [(torch.float32, (count, 12)), (torch.int64, (count,))]
        ]
