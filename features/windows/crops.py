"""Crops: stretches of a clip's frames as pictures, for models of time and frequency at once.

    a clip            ├──────────────────────────────────────┤   frames
    scoring           [────── 0 ──────]                          (1, bins, frames of a crop)
                              [────── 1 ──────]                  one begins each `hop` frames …
                                      [────── 2 ──────]
                                            [────── 3 ──────]    … and the last ends with the clip
    training               [──────────────]   [──────…           anywhere, elsewhere in each epoch

So every frame is scored, unless `hop` is longer than a crop. Where the last hop is shorter than `hop`, the last two
crops overlap more. An epoch of training takes the same number of crops from each clip, however long the clips are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from features.windows.excerpts import Batch, Excerpts
from features.windows.stored_clips import StoredClips

#: Random numbers from which positions are drawn: many enough that no position is likelier than another.
_DRAWN_FROM = 2**62


class Crops(Excerpts):
    """Crops of `frames` frames, all bins high, of some clips of a store: (batch, 1, bins, frames)."""

    def __init__(
        self,
        clips: StoredClips,
        *,
        frames: int,
        hop: int,
        crops_per_clip: int,
        setting: str,
        device: torch.device,
    ) -> None:
        """`hop`: frames from one crop to the next in scoring; `crops_per_clip`: crops of each clip in an epoch;
        `setting`: what a study file calls `frames`.

        Raises ClipTooShortError for a clip shorter than a crop.
        """
        for name, value in (("frames", frames), ("hop", hop), ("crops_per_clip", crops_per_clip)):
            if value < 1:
                raise ValueError(f"{name} ≥ 1 must hold, but got {value}")
        super().__init__(clips, length=frames, setting=setting, device=device)
        self._frames = frames
        self._crops_per_clip = crops_per_clip
        lasts = self._counts - 1  # (clips,): where the last crop of each clip begins, in frames from the clip's begin
        numbers = (lasts + hop - 1) // hop + 1  # (clips,): crops of each
        owners = torch.repeat_interleave(numbers)  # (crops,): the clip of each
        starts = hop * (torch.arange(len(owners)) - (torch.cumsum(numbers, 0) - numbers)[owners])
        self._in_order = self._firsts[owners] + torch.minimum(starts, lasts[owners])

    def __len__(self) -> int:
        """The number of crops in order."""
        return len(self._in_order)

    @property
    def epoch_length(self) -> int:
        return self._crops_per_clip * self.clip_count

    def batch(self, rows: Tensor) -> Batch:
        """The crops at these positions of the order (n,) int64, gathered at once."""
        return self._batch(self._in_order[rows.to(self._in_order.device)])

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch: `crops_per_clip` of each clip at random positions, in random order.

        The generator is the CPU's: the same crops on every device.
        """
        clips = torch.randperm(self.clip_count * self._crops_per_clip, generator=generator) // self._crops_per_clip
        starts = torch.randint(_DRAWN_FROM, clips.shape, generator=generator) % self._counts[clips]
        return self._batches(self._firsts[clips] + starts, batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Crops at even distances, clip after clip: the first begins with the clip, the last ends with it."""
        return self._batches(self._in_order, batch_size)

    def _shaped(self, stretches: Tensor) -> Tensor:
        pictures = stretches.view(len(stretches), self._frames, self._bins).transpose(1, 2)
        return pictures.contiguous().unsqueeze(1)
