"""A clip to see and to hear: its features over time as a picture, and its sound.

Clips side by side share the scales of each row, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from features.clips.wav import Waveform
from features.frames.feature_settings import FeatureSettings
from features.frames.framing import Frames
from search.pages.colours import BLACK, BLUE
from search.pages.media import Sound, data_uri, empty_figure, flac, webp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A sound larger than this (bytes) is cut.
_MOST_BYTES = 260_000

#: A waveform is drawn as the extremes of this many equal parts.
_PARTS = 600
#: A picture shows at most this many seconds, from the clip's beginning.
_MOST_SECONDS = 30.0
#: As wide as the page.
_INCHES = 6.8
#: At most this many values set a colour scale.
_SAMPLE = 200_000
#: Where the clips of a comparison begin, as a share of its width.
LEFT = 0.11

#: The rows: kind of feature, and the label of its axis.
_IMAGES = {"logmel": "log-mel\nband", "chroma": "chroma\npitch class", "mfcc": "MFCC\ncoefficient"}
_CURVES = {"rms": "RMS\ndBFS", "zero_crossings": "crossings\nof zero, 1/s"}

#: The kinds of feature that a comparison shows.
SHOWN = (*_IMAGES, *_CURVES)


def sound(waveform: Waveform, sample_rate: int) -> Sound:
    """The sound of a clip that a page plays."""
    return flac(waveform, sample_rate, most_bytes=_MOST_BYTES)


def comparison(waveforms: Sequence[Waveform], settings: Sequence[FeatureSettings]) -> str:
    """Waveforms side by side, a row for each kind of feature; `settings` are those of each kind of `SHOWN`."""
    columns = [_Column(waveform, settings) for waveform in waveforms]
    figure = empty_figure(_INCHES, 6.4)
    axes = figure.subplots(1 + len(SHOWN), len(columns), sharey="row", squeeze=False)
    for of_clip, column in zip(axes.T, columns, strict=True):
        _draw_waveform(of_clip[0], column)
        for one in of_clip:
            one.set_xlim(0, column.seconds)
            _tidy(one, has_times=one is of_clip[-1])
    for row, kind in zip(axes[1:], SHOWN, strict=True):
        shown = _comparable(kind, [column.frames[kind] for column in columns], columns[0].rate)
        every = np.concatenate([values.ravel() for values in shown])
        low, high = np.percentile(every[:: max(1, every.size // _SAMPLE)], [1, 99.5])
        for one, values, column in zip(row, shown, columns, strict=True):
            if kind in _IMAGES:
                _draw_image(one, values, column.seconds, float(low), float(high))
            else:
                one.plot(np.arange(len(values)) * column.hop, values[:, 0], color=BLUE, lw=0.7)
    for one, label in zip(axes[:, 0], ["waveform", *_IMAGES.values(), *_CURVES.values()], strict=True):
        one.set_ylabel(label, fontsize=8)
        one.yaxis.set_label_coords(-0.075 * len(columns), 0.5)
    figure.subplots_adjust(left=LEFT, right=0.995, top=0.99, bottom=0.07, wspace=0.05, hspace=0.14)
    return data_uri("image/webp", webp(figure))


def spectrograms(waveforms: Sequence[Waveform], features: FeatureSettings) -> str:
    """The log-mel spectrograms of some clips, side by side."""
    columns = [_Column(waveform, [features]) for waveform in waveforms]
    figure = empty_figure(_INCHES, 1.8)
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    low, high = np.percentile(np.concatenate([column.frames[features.kind] for column in columns]), [1, 99.5])
    for one, column in zip(axes, columns, strict=True):
        _draw_image(one, column.frames[features.kind], column.seconds, float(low), float(high))
        _tidy(one, has_times=True)
    axes[0].set_ylabel("mel band", fontsize=8)
    figure.subplots_adjust(left=0.07, right=0.995, top=0.97, bottom=0.23, wspace=0.04)
    return data_uri("image/webp", webp(figure))


class _Column:
    """One clip's frames of every kind that is shown."""

    def __init__(self, waveform: Waveform, settings: Sequence[FeatureSettings]) -> None:
        self.rate = settings[0].sample_rate
        self.hop = settings[0].hop_length / self.rate  # seconds
        self.waveform = waveform[: int(_MOST_SECONDS * self.rate)]
        self.seconds = len(self.waveform) / self.rate
        self.frames: dict[str, Frames] = {of.kind: of.frames(self.waveform) for of in settings}


def _comparable(kind: str, clips: Sequence[Frames], rate: int) -> list[Frames]:
    """Frames of several clips as they are drawn, in the unit that the axis names."""
    if kind == "rms":
        return [20 * np.log10(np.maximum(frames, 1e-5)) for frames in clips]
    if kind == "zero_crossings":
        return [frames * rate for frames in clips]
    if kind == "mfcc":  # coefficients differ by orders of magnitude: each in its standard deviations over these clips
        every = np.concatenate(clips)
        return [(frames - every.mean(axis=0)) / np.maximum(every.std(axis=0), 1e-6) for frames in clips]
    return list(clips)


def _tidy(axes: Axes, *, has_times: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))  # the last one would touch its neighbour's first
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(labelsize=8, length=2, labelbottom=has_times)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if has_times:
        axes.set_xlabel("seconds", fontsize=8)


def _draw_waveform(axes: Axes, column: _Column) -> None:
    """Draws the lowest and the highest sample of each part, which looks like a line through every sample."""
    starts = np.unique(np.linspace(0, len(column.waveform), _PARTS, endpoint=False).astype(int))
    lowest = np.minimum.reduceat(column.waveform, starts)
    highest = np.maximum.reduceat(column.waveform, starts)
    axes.fill_between(starts / column.rate, lowest, highest, color=BLACK, lw=0.3)


def _draw_image(axes: Axes, frames: Frames, seconds: float, low: float, high: float) -> None:
    extent = (0.0, seconds, 0.0, float(frames.shape[1]))
    axes.imshow(
        frames.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=max(high, low + 1e-6)
    )
