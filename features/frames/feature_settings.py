"""The `features:` block of a study file: how a waveform becomes the frames that a model gets.

One kind of feature, or a stack of several side by side. Most kinds have a frame each hop, and can be stacked;
clip_spectrum has one frame for each clip. A setting that none of the kinds uses has no effect.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.clips.wav import Waveform, resampled_length, waveform_of
from features.errors import CorpusError
from features.frames import centroid, chroma, clip_spectrum, logmel, logspectrum, mfcc, rms, zero_crossings
from features.frames.framing import FRAMING, Frames, ends, frame_count
from features.frames.parameters import Parameters
from features.stacks import joined, require_stack


class FeatureKind(Protocol):
    """The functions that the module of a kind of feature has."""

    UNIT: str  # of the values, empty for none
    SETTINGS: Any  # names of the settings that it uses, beside those that all kinds use; FRAMING where it has frames

    def bins(self, settings: Parameters) -> int: ...

    def limits(self, settings: Parameters) -> tuple[Frames, Frames]: ...

    def frames(self, waveform: Waveform, settings: Parameters) -> Frames: ...


#: Name in a study file → module. Adding a kind is its module and a line here.
KINDS: dict[str, FeatureKind] = {
    "logmel": logmel,
    "mfcc": mfcc,
    "chroma": chroma,
    "logspectrum": logspectrum,
    "rms": rms,
    "zero_crossings": zero_crossings,
    "centroid": centroid,
    "clip_spectrum": clip_spectrum,
}

#: The settings that every kind uses.
SHARED = ("sample_rate", "channel", "resample")

#: A normalised value lies within this many standard deviations, unless it is an outlier.
DEVIATIONS = 4.0


class FeatureSettings(Parameters):
    """How waveforms become frames (librosa's parameters and names; its defaults are for another sample rate)."""

    kind: Annotated[str, BeforeValidator(joined)] = Field(
        "logmel", description=f"one of {', '.join(KINDS)}, or several: [logmel, chroma] or logmel+chroma"
    )

    @field_validator("kind")
    @classmethod
    def _kinds_exist(cls, kind: str) -> str:
        require_stack(kind, KINDS, what="kind")
        kinds = kind.split("+")
        alone = [part for part in kinds if not is_framed(part)]
        if alone and len(kinds) > 1:
            raise ValueError(
                f"{alone[0]} has one frame for each clip and cannot be stacked with kinds that have a frame each hop, "
                f"but got {kind}: give it alone; model.family fusion combines it with other kinds"
            )
        return kind

    @model_validator(mode="after")
    def _bands_are_filled(self) -> FeatureSettings:
        used = settings_of(self.kind)
        if "n_mels" in used and self.n_mels > self.n_fft // 2:
            raise ValueError(f"n_mels ≤ n_fft / 2 must hold, but got n_mels = {self.n_mels}, n_fft = {self.n_fft}")
        if "n_mfcc" in used and self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc ≤ n_mels must hold, but got n_mfcc = {self.n_mfcc}, n_mels = {self.n_mels}")
        if "fmax" in used and not self.fmin < self.highest_frequency <= self.sample_rate / 2:
            raise ValueError(
                f"fmin < fmax ≤ sample_rate / 2 must hold, but got fmin = {self.fmin:g}, "
                f"fmax = {self.highest_frequency:g}, sample_rate = {self.sample_rate}"
            )
        return self

    @model_serializer(mode="wrap")
    def _what_is_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        used = {"kind", "normalize", *settings_of(self.kind)}
        return {name: value for name, value in handler(self).items() if name in used}

    @cached_property
    def parts(self) -> tuple[FeatureSettings, ...]:
        """The settings of each kind of the stack by itself, before any normalisation."""
        return tuple(
            FeatureSettings.model_validate({"kind": kind, **{name: getattr(self, name) for name in settings_of(kind)}})
            for kind in self.kind.split("+")
        )

    @property
    def is_derived(self) -> bool:
        """Whether frames are computed from those of the parts."""
        return len(self.parts) > 1 or self.normalize == "clip"

    @property
    def key(self) -> str:
        """All settings that stored frames depend on, as JSON: the same text for settings that give the same frames.

        Two are left out: `resample`, which only decides which clips are refused, and `normalize: bin`, whose statistics
        normalise windows, not stored frames.
        """
        depends = self.model_dump(mode="json", exclude={"resample"}, exclude_none=True)
        if self.normalize != "clip":
            del depends["normalize"]
        return json.dumps(depends, sort_keys=True)

    @property
    def bins(self) -> int:
        """Values of a frame."""
        return sum(KINDS[part.kind].bins(part) for part in self.parts)

    @property
    def unit(self) -> str:
        """The unit of a frame's values; empty if they have none, or not all the same."""
        units = {KINDS[part.kind].UNIT for part in self.parts}
        return units.pop() if len(units) == 1 and self.normalize != "clip" else ""

    @property
    def limits(self) -> tuple[Frames, Frames]:
        """The range in which the values of each bin lie in ordinary recordings, (bins,) twice."""
        if self.normalize == "clip":
            return ends(-DEVIATIONS, DEVIATIONS, self.bins)
        lowest, highest = zip(*(KINDS[part.kind].limits(part) for part in self.parts), strict=True)
        return np.concatenate(lowest), np.concatenate(highest)

    def frame_count(self, samples: int) -> int:
        """The number of frames of a waveform: one each hop, the first centred on the first sample.

        A kind with one frame for each clip has none for a waveform that is too short.
        """
        if not is_framed(self.kind):
            return clip_spectrum.frame_count(samples, self)
        return frame_count(samples, n_fft=self.n_fft, hop_length=self.hop_length)

    def frames_of(self, clip: Clip) -> int:
        """The number of frames of a clip at any sample rate."""
        return self.frame_count(resampled_length(clip.samples, from_rate=clip.sample_rate, to_rate=self.sample_rate))

    def require(self, corpus: Corpus) -> None:
        """Raises CorpusError, naming a clip, unless each clip has the sample rate and the channel of these settings."""
        if not self.resample:
            corpus.require_sample_rate(self.sample_rate)
        for clip in corpus.clips:
            if self.channel is None and clip.channels > 1:
                raise CorpusError(
                    f"{clip.name} has {clip.channels} channels: set features.channel to one of 0 to "
                    f"{clip.channels - 1}, or to mean."
                )
            if isinstance(self.channel, int) and self.channel >= clip.channels:
                raise CorpusError(
                    f"features.channel is {self.channel}, counted from 0, but {clip.name} has {clip.channels} channels."
                )

    def waveform(self, contents: bytes) -> Waveform:
        """The samples of the chosen channel of a wav file's bytes. Raises UnreadableWav for a missing channel."""
        return waveform_of(contents, channel=self.channel, sample_rate=self.sample_rate)

    def frames(self, waveform: Waveform) -> Frames:
        """Frames of one waveform, (frames, bins)."""
        if self.is_derived:
            return self.combined([part.frames(waveform) for part in self.parts])
        return KINDS[self.kind].frames(waveform, self.parts[0])

    def combined(self, parts: Sequence[Frames]) -> Frames:
        """Frames of a clip from the frames of the parts, each (frames, bins of the part)."""
        if self.normalize == "clip":
            parts = [_standardised(part) for part in parts]
        return np.ascontiguousarray(np.concatenate(parts, axis=1))


def settings_of(kind: str) -> set[str]:
    """The settings that have an effect for a kind, or a stack of kinds that exist."""
    return {*SHARED, *(name for part in kind.split("+") for name in KINDS[part].SETTINGS)}


def is_framed(kind: str) -> bool:
    """Whether a kind, or a stack of kinds that exist, has a frame each hop, and not one for each clip."""
    return settings_of(kind).issuperset(FRAMING)


def _standardised(frames: Frames) -> Frames:
    """Zero mean and unit variance over all frames and bins; zeros where all values are the same."""
    if not len(frames):
        return frames
    mean, deviation = frames.mean(dtype=np.float64), frames.std(dtype=np.float64)
    if math.isclose(deviation, 0, abs_tol=1e-12):
        return np.zeros_like(frames)
    return np.asarray((frames - mean) / deviation, dtype=np.float32)
