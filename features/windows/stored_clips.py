"""Some clips and the store that holds their frames: what excerpts of any kind are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.store.files import FrameStore


@dataclass(frozen=True, eq=False)
class StoredClips:
    """Some clips of a store. Each sequence has one value for each clip, all in the same order.

    Raises ValueError if a sequence is longer or shorter, or the store has no clip at a position.
    """

    store: FrameStore
    positions: Sequence[int]  # of the clips in the store, which counts from 0
    paths: Sequence[Path]  # their files
    ids: Sequence[int] | None = None  # their machine IDs as indices, -1 for an unknown one; None if no model reads them
    attributes: Sequence[int] | None = None  # ID and attributes together as one index, likewise
    is_framed: bool = True  # whether clips have a frame each hop, and not one for the whole clip

    def __post_init__(self) -> None:
        for name in ("paths", "ids", "attributes"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self):
                raise ValueError(f"{name} must have a value for each of {len(self)} clips, but got {len(values)}")
        stored, places = len(self.store.offsets) - 1, np.asarray(self.positions)
        beyond = places[(places < 0) | (places >= stored)]
        if len(beyond):
            raise ValueError(f"0 ≤ position < {stored}, the store's clips, must hold, but got {beyond[0]}")

    def __len__(self) -> int:
        return len(self.positions)
