"""Clips as every kind of model sees them: in any feature, as windows or as crops, gathered once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from features.frames.feature_settings import FeatureSettings, is_framed
from features.store.files import FrameStore
from features.windows.context_windows import ContextWindows
from features.windows.crops import Crops
from features.windows.excerpts import Excerpts
from features.windows.stored_clips import StoredClips
from models.labels import UNKNOWN, Labels
from models.settings import CropSettings, FamilySettings


@dataclass(frozen=True)
class FaultyCopies:
    """Copies of some clips of a store with synthetic faults, in a store of their own."""

    store: Callable[[FeatureSettings], FrameStore]
    paths: tuple[Path, ...]
    originals: tuple[int, ...]  # of each copy, the position of its clip in that clip's own store


@dataclass(frozen=True, eq=False)
class Recordings:
    """Clips of a store that can be had under any feature settings."""

    store: Callable[[FeatureSettings], FrameStore]
    positions: tuple[int, ...]  # of the clips in the store
    paths: tuple[Path, ...]
    ids: tuple[str, ...]  # machine/ID of each
    attributes: tuple[str, ...]
    device: torch.device
    faulty_copies: Callable[[], FaultyCopies] | None = None  # of training clips; they are made when they are needed
    _excerpts: dict[object, Excerpts] = field(default_factory=dict, init=False)
    _parts: dict[tuple[int, ...], Recordings] = field(default_factory=dict, init=False)

    @classmethod
    def of_file(cls, path: Path, *, name: str, attributes: str, device: torch.device) -> Recordings:
        """One wav file, of a machine ID of that name (machine/ID). Raises UnreadableWav or OSError."""
        contents = path.read_bytes()

        def store(features: FeatureSettings) -> FrameStore:
            frames = features.frames(features.waveform(contents))
            return FrameStore(frames=frames, offsets=np.array([0, len(frames)]))

        return cls(store, (0,), (path,), (name,), (attributes,), device)

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, members: Sequence[int]) -> Recordings:
        """Some of the clips; the same part is kept."""
        key = tuple(members)
        if key == tuple(range(len(self))):
            return self
        if key not in self._parts:
            self._parts[key] = replace(
                self,
                positions=tuple(self.positions[index] for index in members),
                paths=tuple(self.paths[index] for index in members),
                ids=tuple(self.ids[index] for index in members),
                attributes=tuple(self.attributes[index] for index in members),
            )
        return self._parts[key]

    def of_ids(self, names: Sequence[str]) -> Recordings:
        """The clips of some machine IDs."""
        return self.part([index for index, name in enumerate(self.ids) if name in names])

    @cached_property
    def anonymous(self) -> Recordings:
        """The same clips as if of machine IDs that nobody knows."""
        return replace(self, ids=("",) * len(self))

    @cached_property
    def with_faults(self) -> Recordings:
        """The copies of these clips with synthetic faults: none or several of each, as of the same machine IDs.

        Raises StoreError or CorpusError where they cannot be made.
        """
        if self.faulty_copies is None:
            raise ValueError("only training clips have copies with synthetic faults")
        copies = self.faulty_copies()
        places = {position: place for place, position in enumerate(self.positions)}
        chosen = [copy for copy, original in enumerate(copies.originals) if original in places]
        of = [places[copies.originals[copy]] for copy in chosen]
        return Recordings(
            store=copies.store,
            positions=tuple(chosen),
            paths=tuple(copies.paths[copy] for copy in chosen),
            ids=tuple(self.ids[place] for place in of),
            attributes=tuple(self.attributes[place] for place in of),
            device=self.device,
        )

    def id_indices(self, labels: Labels) -> npt.NDArray[np.int64]:
        """The index of each clip's machine ID among a model's, (clips,); UNKNOWN for another."""
        return np.array([labels.id_index(name) for name in self.ids], dtype=np.int64)

    def first_unknown(self, labels: Labels) -> str | None:
        """The first machine ID of a clip that a model does not know; None if it knows them all."""
        return next((name for name in self.ids if labels.id_index(name) == UNKNOWN), None)

    def stored(self, features: FeatureSettings, labels: Labels) -> StoredClips:
        """The clips' frames under some features, and their IDs and attributes as a model numbers them."""
        pairs = zip(self.ids, self.attributes, strict=True)
        return StoredClips(
            self.store(features),
            self.positions,
            self.paths,
            ids=self.id_indices(labels).tolist(),
            attributes=[labels.attribute_index(*pair) for pair in pairs],
            is_framed=is_framed(features.kind),
        )

    def excerpts(self, features: FeatureSettings, model: FamilySettings, labels: Labels) -> Excerpts:
        """The excerpts of a model, kept for the next call. Raises ClipTooShortError for a clip that has none."""
        length = model.excerpt_frames(features.bins)
        crops = (model.hop(features.bins), model.crops_per_clip) if isinstance(model, CropSettings) else None
        key = (features.key, length, crops, labels)
        if key not in self._excerpts:
            setting, clips = model.excerpt_setting, self.stored(features, labels)
            self._excerpts[key] = (
                ContextWindows(clips, context=length, setting=setting, device=self.device)
                if crops is None
                else Crops(
                    clips,
                    frames=length,
                    hop=crops[0],
                    crops_per_clip=crops[1],
                    setting=setting,
                    device=self.device,
                )
            )
        return self._excerpts[key]
