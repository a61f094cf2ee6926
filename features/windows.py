"""Context windows: several frames side by side as one input vector, gathered in whole batches by index.

    frames of a clip     f0 f1 f2 f3 f4 f5 …           each (bins,)
    window 0            [f0 f1 f2 f3 f4]               (context · bins,)
    window 1               [f1 f2 f3 f4 f5]            …

In the store the frames of a clip lie one after another, so that a window is one run of memory: a strided view
of the frames holds all windows at no cost, and a batch is one gather of its rows. Where the frames lie changes
no value:

    CPU                            mapped from the store
    GPU, and its memory suffices   the clips' frames copied there once
    GPU, and it does not           mapped; each batch gathered ahead into pinned memory, and copied from there
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.errors import ClipTooShortError
from features.logmel import Frames
from features.store import FrameStore

#: Frames may take this share of a GPU's free memory: models need room, and so do other clips and other workers.
GPU_SHARE = 0.25

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Some windows, on the device."""

    inputs: Tensor  # (batch, context · bins) float32, as stored (dB)
    clips: Tensor  # (batch,) int64: position of each window's clip among the windows' clips


class ContextWindows:
    """All windows of `context` frames of some clips of a store."""

    def __init__(
        self, store: FrameStore, positions: Sequence[int], paths: Sequence[Path], *, context: int, device: torch.device
    ) -> None:
        """`positions`: where the clips lie in the store; `paths`: their files.

        Raises ClipTooShortError for a clip shorter than a window.
        """
        chosen = np.asarray(positions)
        first_frames, ends = store.offsets[chosen], store.offsets[chosen + 1]
        lengths = ends - first_frames
        for frames_of_clip, path in zip(lengths, paths, strict=True):
            require_length(int(frames_of_clip), context, path)
        self.clip_count = len(paths)
        self.device = device
        bins = store.frames.shape[1]
        size = int(lengths.sum()) * bins * store.frames.itemsize
        if device.type == "cpu" or (device.type == "cuda" and size > GPU_SHARE * _free_memory(device)):
            self._home = _CPU  # where frames and indices lie
            frames = torch.from_numpy(store.frames)
        else:
            self._home = device
            frames = _copied(store.frames, first_frames, ends, device)
            first_frames = np.cumsum(lengths) - lengths
        counts = lengths - context + 1
        first_windows = np.cumsum(counts) - counts
        self._count = int(counts.sum())
        self._last_windows = torch.from_numpy(first_windows + counts - 1).to(self._home)  # (clips,) int64
        # (clips,): from a window to its first frame
        self._shifts = torch.from_numpy(first_frames - first_windows).to(self._home)
        self._windows = frames.as_strided((len(frames) - context + 1, context * bins), (bins, 1))

    def __len__(self) -> int:
        return self._count

    def batch(self, rows: Tensor) -> Batch:
        """The windows at these positions (n,) int64, gathered at once."""
        batch = self._gathered(rows.to(self._home))
        return Batch(inputs=batch.inputs.to(self.device), clips=batch.clips.to(self.device))

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch: every window once, in random order. The generator is the CPU's: one order for every device."""
        return self._batches(torch.randperm(len(self), generator=generator), batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every window once, clip after clip."""
        return self._batches(torch.arange(len(self)), batch_size)

    def _batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        # Copied whole: a copy for each batch would wait for the GPU.
        parts = torch.split(order.to(self._home), batch_size)
        return map(self._gathered, parts) if self._home == self.device else self._streamed(parts)

    def _gathered(self, rows: Tensor) -> Batch:
        clips = torch.searchsorted(self._last_windows, rows)
        return Batch(inputs=self._windows.index_select(0, rows + self._shifts[clips]), clips=clips)

    def _pinned(self, rows: Tensor) -> Batch:
        batch = self._gathered(rows)
        return Batch(inputs=batch.inputs.pin_memory(), clips=batch.clips.pin_memory())

    def _streamed(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Batches on the device, the next one prepared by a thread meanwhile.

        Each is in pinned memory of its own, which torch's allocator gives to nobody before the copy has ended.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
            prepared = thread.submit(self._pinned, parts[0])
            for following in parts[1:]:
                batch, prepared = prepared.result(), thread.submit(self._pinned, following)
                yield self._sent(batch)
            yield self._sent(prepared.result())

    def _sent(self, batch: Batch) -> Batch:
        return Batch(
            inputs=batch.inputs.to(self.device, non_blocking=True), clips=batch.clips.to(self.device, non_blocking=True)
        )


def require_length(frames: int, context: int, path: Path) -> None:
    """Raises ClipTooShortError, naming the clip, if its frames do not fill one window."""
    if frames < context:
        raise ClipTooShortError(
            f"model.context is {context} frames, but {path} has only {frames}. "
            "Lower model.context or features.hop_length, or remove the clip."
        )


def _free_memory(device: torch.device) -> int:
    """Bytes of a GPU that this process may still use: free ones, and those that torch holds in reserve."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _copied(frames: Frames, firsts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """The clips' frames one after another on the device, (frames of the clips, bins).

    Copied clip by clip: all of them at once would be gathered in the host's memory first.
    """
    lengths = (ends - firsts).tolist()
    copied = torch.empty((sum(lengths), frames.shape[1]), device=device)
    for target, first, end in zip(torch.split(copied, lengths), firsts, ends, strict=True):
        target.copy_(torch.from_numpy(frames[first:end]))
    return copied
