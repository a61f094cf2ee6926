"""Context windows: several frames side by side as one input vector, gathered in whole batches by index.

    frames of a clip     f0 f1 f2 f3 f4 f5 …           each (bins,)
    window 0            [f0 f1 f2 f3 f4]               (context · bins,)
    window 1               [f1 f2 f3 f4 f5]            …

In the store the frames of a clip lie one after another, so that a window is one run of memory: a strided view
of the store holds all windows at no cost, and a batch is one gather of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from features.errors import ClipTooShortError
from features.store import FrameStore


@dataclass(frozen=True)
class Batch:
    """Some windows, on the device."""

    inputs: Tensor  # (batch, context · bins) float32, as stored (dB)
    clips: Tensor  # (batch,) int64: position of each window's clip among the windows' clips


class ContextWindows:
    """All windows of `context` frames of some clips of a store.

    Frames stay mapped on the CPU; on another device they are copied there once.
    """

    def __init__(
        self, store: FrameStore, positions: Sequence[int], paths: Sequence[Path], *, context: int, device: torch.device
    ) -> None:
        """`positions`: where the clips lie in the store; `paths`: their files.

        Raises ClipTooShortError for a clip shorter than a window.
        """
        chosen = np.asarray(positions)
        first_frames, ends = store.offsets[chosen], store.offsets[chosen + 1]
        counts = ends - first_frames - context + 1
        for frames_of_clip, path in zip(ends - first_frames, paths, strict=True):
            require_length(int(frames_of_clip), context, path)
        self.clip_count = len(paths)
        first_windows = np.cumsum(counts) - counts
        self._count = int(counts.sum())
        self._last_windows = torch.from_numpy(first_windows + counts - 1)  # (clips,) int64
        self._shifts = torch.from_numpy(first_frames - first_windows)  # (clips,): from a window to its first frame
        self._device = device
        frames, bins = store.frames.shape
        on_device = torch.from_numpy(store.frames).to(device)
        self._windows = on_device.as_strided((frames - context + 1, context * bins), (bins, 1))

    def __len__(self) -> int:
        return self._count

    def batch(self, rows: Tensor) -> Batch:
        """The windows at these positions (n,) int64, gathered at once."""
        clips = torch.searchsorted(self._last_windows, rows)
        inputs = self._windows.index_select(0, (rows + self._shifts[clips]).to(self._device))
        return Batch(inputs=inputs, clips=clips.to(self._device))

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch: every window once, in random order."""
        yield from self._batches(torch.randperm(len(self), generator=generator), batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every window once, clip after clip."""
        yield from self._batches(torch.arange(len(self)), batch_size)

    def _batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(order), batch_size):
            yield self.batch(order[start : start + batch_size])


def require_length(frames: int, context: int, path: Path) -> None:
    """Raises ClipTooShortError, naming the clip, if its frames do not fill one window."""
    if frames < context:
        raise ClipTooShortError(
            f"model.context is {context} frames, but {path} has only {frames}. "
            "Lower model.context or features.hop_length, or remove the clip."
        )
