"""A model's inputs: stretches of frames of equal length, gathered in whole batches by index.

    frames of a clip     f0 f1 f2 f3 f4 f5 …           each (bins,)
    window 0            [f0 f1 f2 f3 f4]               (context · bins,)
    window 1               [f1 f2 f3 f4 f5]            …

In the store the frames of a clip lie one after another, so that a stretch is one run of memory: a strided view
of the frames holds all stretches at no cost, and a batch is one gather of its rows. Where the frames lie changes
no value:

    CPU                            mapped from the store
    GPU, and its memory suffices   the clips' frames copied there once
    GPU, and it does not           mapped; each batch gathered ahead into pinned memory, and copied from there

Context windows (features.windows.context_windows) are all stretches of a few frames, as vectors. Crops
(features.windows.crops) are some long ones, as pictures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.errors import ClipTooShortError
from features.frames.framing import Frames
from features.windows.stored_clips import StoredClips

#: Frames may take this share of a GPU's free memory: models need room, and so do other clips and other workers.
GPU_SHARE = 0.25

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Some windows or crops, on the device."""

    inputs: Tensor  # float32, as stored: (batch, context · bins) for windows, (batch, 1, bins, frames) for crops
    clips: Tensor  # (batch,) int64: position of each one's clip among the clips
    ids: Tensor | None = None  # (batch,) int64: each one's machine ID, as an index; -1 for an unknown one
    attributes: Tensor | None = None  # (batch,) int64: its clip's ID and attributes together, likewise

    @property
    def known_ids(self) -> Tensor:
        """The machine IDs of a batch, for a conditional model. Raises ValueError if the batch has none."""
        if self.ids is None:
            raise ValueError("a conditional model got a batch without machine IDs")
        return self.ids


class Excerpts(ABC):
    """Stretches of `length` frames of some clips of a store, in batches on a device.

    All stretches of the clips are numbered, clip after clip. A kind of excerpts chooses among them and gives
    them a shape.
    """

    def __init__(self, clips: StoredClips, *, length: int, setting: str, device: torch.device) -> None:
        """`setting`: what a study file calls the length. Raises ClipTooShortError for a clip shorter than a stretch."""
        store, chosen = clips.store, np.asarray(clips.positions)
        first_frames, ends = store.offsets[chosen], store.offsets[chosen + 1]
        lengths = ends - first_frames
        for frames_of_clip, path in zip(lengths, clips.paths, strict=True):
            require_length(int(frames_of_clip), length, path, setting=setting, is_framed=clips.is_framed)
        self.clip_count = len(clips)
        self.device = device
        self._bins = store.frames.shape[1]
        size = int(lengths.sum()) * self._bins * store.frames.itemsize
        if device.type == "cpu" or (device.type == "cuda" and size > GPU_SHARE * _free_memory(device)):
            self._home = _CPU  # where frames and indices lie
            frames = torch.from_numpy(store.frames)
        else:
            self._home = device
            frames = _copied(store.frames, first_frames, ends, device)
            first_frames = np.cumsum(lengths) - lengths
        self._counts = torch.from_numpy(lengths - length + 1)  # (clips,) int64: stretches of each clip
        self._firsts = torch.cumsum(self._counts, 0) - self._counts  # (clips,) int64: each clip's first one
        self._lasts = (self._firsts + self._counts - 1).to(self._home)
        # (clips,): from a stretch's number to its first frame
        self._shifts = (torch.from_numpy(first_frames) - self._firsts).to(self._home)
        self._ids, self._attributes = (
            None if values is None else torch.tensor(values, dtype=torch.int64, device=device)
            for values in (clips.ids, clips.attributes)
        )
        self._stretches = frames.as_strided((len(frames) - length + 1, length * self._bins), (self._bins, 1))

    @abstractmethod
    def __len__(self) -> int:
        """The number of excerpts in order."""

    @property
    def epoch_length(self) -> int:
        """The number of excerpts in an epoch of training."""
        return len(self)

    @abstractmethod
    def batch(self, rows: Tensor) -> Batch:
        """The excerpts at these positions in the order, (n,) int64, gathered at once."""

    @abstractmethod
    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch of training, in random order. The generator is the CPU's: one order for every device."""

    @abstractmethod
    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Each excerpt once, clip after clip."""

    def _shaped(self, stretches: Tensor) -> Tensor:
        """The inputs of the model, from stretches (batch, length · bins)."""
        return stretches

    def _batch(self, numbers: Tensor) -> Batch:
        stretches, clips = self._gathered(numbers.to(self._home))
        return self._batch_of(stretches.to(self.device), clips.to(self.device))

    def _batches(self, numbers: Tensor, batch_size: int) -> Iterator[Batch]:
        # Copied whole: a copy for each batch would wait for the GPU.
        numbers = numbers.to(self._home)
        # One window alone has no variance, by which batches are normalised: it joins the batch before.
        sizes = [batch_size] * (len(numbers) // batch_size)
        rest = len(numbers) - sum(sizes)
        if rest == 1 and sizes:
            sizes[-1] += 1
        elif rest:
            sizes.append(rest)
        parts = torch.split(numbers, sizes)
        if self._home == self.device:
            return (self._batch_of(*self._gathered(part)) for part in parts)
        return self._streamed(parts)

    def _gathered(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        clips = torch.searchsorted(self._lasts, numbers)
        return self._stretches.index_select(0, numbers + self._shifts[clips]), clips

    def _pinned(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        stretches, clips = self._gathered(numbers)
        return stretches.pin_memory(), clips.pin_memory()

    def _streamed(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Batches on the device, the next one prepared by a thread meanwhile.

        Each is in pinned memory of its own, which torch's allocator gives to nobody before the copy has ended.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
            prepared = thread.submit(self._pinned, parts[0])
            for following in parts[1:]:
                batch, prepared = prepared.result(), thread.submit(self._pinned, following)
                yield self._sent(*batch)
            yield self._sent(*prepared.result())

    def _sent(self, stretches: Tensor, clips: Tensor) -> Batch:
        return self._batch_of(stretches.to(self.device, non_blocking=True), clips.to(self.device, non_blocking=True))

    def _batch_of(self, stretches: Tensor, clips: Tensor) -> Batch:
        return Batch(
            inputs=self._shaped(stretches),
            clips=clips,
            ids=None if self._ids is None else self._ids[clips],
            attributes=None if self._attributes is None else self._attributes[clips],
        )


def require_length(frames: int, length: int, path: Path, *, setting: str, is_framed: bool) -> None:
    """Raises ClipTooShortError, naming the clip, if its frames do not fill one window or crop.

    `is_framed`: whether clips have a frame each hop, and not one for the whole clip.
    """
    if frames >= length:
        return
    if is_framed:
        raise ClipTooShortError(
            f"{setting} is {length} frames, but {path} has only {frames}. "
            f"Lower {setting} or features.hop_length, or remove the clip."
        )
    if frames == 0:
        raise ClipTooShortError(
            f"{path} is too short: its spectrum has fewer bins than there are bands. "
            "Lower features.n_bands, or remove the clip."
        )
    raise ClipTooShortError(
        f"{setting} is {length} frames, but {path} has only {frames}: features.kind clip_spectrum has one frame for "
        "each clip, however long it is. Use another features.kind, or a model of one frame: model.family stat, or one "
        "with model.context: 1."
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
