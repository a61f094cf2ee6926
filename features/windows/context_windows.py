"""Context windows: all stretches of a few frames, as vectors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from features.windows.excerpts import Batch, Excerpts
from features.windows.stored_clips import StoredClips


class ContextWindows(Excerpts):
    """All windows of `context` frames of some clips of a store: (batch, context · bins)."""

    def __init__(self, clips: StoredClips, *, context: int, setting: str, device: torch.device) -> None:
        """`setting`: what a study file calls `context`. Raises ClipTooShortError for a clip shorter than a window."""
        super().__init__(clips, length=context, setting=setting, device=device)
        self._count = int(self._counts.sum())

    def __len__(self) -> int:
        return self._count

    def batch(self, rows: Tensor) -> Batch:
        """The windows at these positions (n,) int64, gathered at once."""
        return self._batch(rows)

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch: every window once, in random order. The generator is the CPU's: one order for every device."""
        return self._batches(torch.randperm(len(self), generator=generator), batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every window once, clip after clip."""
        return self._batches(torch.arange(len(self)), batch_size)
