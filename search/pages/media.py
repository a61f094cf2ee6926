"""Sounds and pictures as bytes of a bounded size, and bytes as data: URIs, which are part of a page."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import soundfile

from features.cache import cache_folder
from features.clips.wav import Waveform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WEBP_DPI, _WEBP_QUALITY = 180, 70


@dataclass(frozen=True)
class Sound:
    """The bytes of a FLAC file."""

    content: bytes
    seconds: float  # how long it plays
    is_cut: bool  # whether the clip is longer

    @property
    def uri(self) -> str:
        return data_uri("audio/flac", self.content)


def flac(waveform: Waveform, sample_rate: int, *, most_bytes: int) -> Sound:
    """The waveform, (samples,), as FLAC: its beginning, as long as `most_bytes` allows."""
    beginning = waveform
    while True:
        file = io.BytesIO()
        soundfile.write(file, beginning, sample_rate, format="FLAC", subtype="PCM_16")
        content = file.getvalue()
        if len(content) <= most_bytes:
            return Sound(content, len(beginning) / sample_rate, is_cut=len(beginning) < len(waveform))
        beginning = beginning[: int(len(beginning) * 0.95 * most_bytes / len(content))]


def empty_figure(width: float, height: float, *, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty figure of matplotlib; its size is in inches."""
    # matplotlib's font list takes seconds to compute: it is kept in Offkey's cache, also without a home folder.
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def png(figure: Figure, *, most_bytes: int) -> bytes:
    """The figure as PNG, drawn coarser if it would be too large: noise cannot be compressed."""
    for dpi in (100, 70, 50):
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi)
        if len(file.getvalue()) <= most_bytes:
            break
    return file.getvalue()


def webp(figure: Figure) -> bytes:
    """The figure as WebP, a fraction of the size of a PNG: noise cannot be compressed without loss."""
    file = io.BytesIO()
    figure.savefig(file, format="webp", dpi=_WEBP_DPI, pil_kwargs={"quality": _WEBP_QUALITY})
    return file.getvalue()


def data_uri(mimetype: str, content: bytes) -> str:
    return f"data:{mimetype};base64,{base64.b64encode(content).decode()}"
