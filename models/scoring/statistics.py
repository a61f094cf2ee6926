"""From the vectors of a clip's windows to one vector of the clip: statistics over time, which a density judges.

vectors : (windows, dim) float32, in time order: what a model embeds, or the frames themselves (models.stat).
levels  : (windows,) float32, the mean of each window's own inputs: in the feature's unit, dB for log-mel.
result  : (k · dim,) float64 for a stack of k statistics, one after another in the order of their names.

Each dimension by itself, except for quiet and loud, which choose whole windows:

    mean        weighted by rank, the largest value first, weights falling by `decay`: 1 is the mean, 0 the maximum.
                Guan et al., "Time-Weighted Frequency Domain Audio Representation with GMM Estimator for Anomalous Sound
                Detection" (ICASSP 2023)
    median      what the machine does most of the time, whatever else is heard now and then
    quantile    the value that `share` of the windows stay below, linearly interpolated: with a small share what always
                sounds, under noise that comes and goes; with a large one a maximum that ignores the very loudest
    minimum     the quantiles of share 0 and 1: the latter finds a single knock, and is misled by any loud noise
    maximum
    quiet       the mean over the `share` of windows with the lowest input level: a machine between noises, by any
    loud        embedding; and over that with the highest: a machine while it knocks. The share is rounded up to whole
                windows, at least one; of equally loud ones, the earlier ones count
    deviation   the standard deviation over time: sound that swells and fades
    change      the standard deviation of the differences of consecutive windows: sound that rattles; 0 for one window

Mean and deviation side by side are statistics pooling (Snyder et al., "Deep Neural Network Embeddings for
Text-Independent Speaker Verification", 2017); all of them are functionals of openSMILE (Eyben et al. 2010), except that
quiet and loud choose the same windows in every dimension.

The statistics of a clip depend on its windows alone, not on batches or on other clips.
A dimension in which a value is not finite has no statistics: not a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from models.scoring.scores import Array
from models.settings import DensitySettings, Statistic

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one clip; several statistics share what they sort."""

    vectors: Float32  # (windows, dim), in time order
    levels: Float32  # (windows,)

    def __len__(self) -> int:
        return len(self.levels)

    @cached_property
    def ranked(self) -> Float32:
        """The values of each dimension in ascending order, (windows, dim)."""
        # NumPy sorts float32 several times as fast as torch does, and faster than it partitions.
        return np.sort(self.vectors, axis=0)

    @cached_property
    def by_level(self) -> npt.NDArray[np.int64]:
        """The windows from the quietest to the loudest; of equally loud ones, the earlier one first."""
        return np.argsort(self.levels, kind="stable")


@dataclass(frozen=True)
class Statistics:
    """Which statistics of a clip a density judges."""

    names: tuple[Statistic, ...]
    share: float
    decay: float
    bands: int  # of the running median that is subtracted from each; 0 for none

    @classmethod
    def of(cls, settings: DensitySettings) -> Statistics:
        """The statistics by these settings. Those without effect have no part in them."""
        fields, idle = type(settings).model_fields, settings.idle
        share, decay = (
            fields[name].default if name in idle else getattr(settings, name) for name in ("share", "decay")
        )
        return cls(settings.statistics, share, decay, settings.bands_of_median)


def input_levels(inputs: Tensor) -> Tensor:
    """The level of each window of a batch, (batch,) float32: the mean of its inputs."""
    # Rounded from float64: windows that sound alike are equally loud, however the sum was divided.
    return inputs.flatten(start_dim=1).mean(dim=1, dtype=torch.float64).float()


def statistics_of(windows: Windows, statistics: Statistics) -> Array:
    """The statistics of a clip, (k · dim,), not whitened."""
    with np.errstate(invalid="ignore"):  # of a network that has diverged
        found = np.stack([_STATISTICS[name](windows, statistics) for name in statistics.names])
    found[:, ~np.isfinite(windows.vectors).all(axis=0)] = np.nan
    return found.reshape(-1)


def clip_statistics(
    batches: Iterable[tuple[Tensor, Tensor, Tensor]], *, clip_count: int, each: Sequence[Statistics]
) -> list[Array]:
    """Each of some statistics of every clip, (clip_count, k · dim), from one pass.

    `batches` are as `windows_of_clips` takes them. Memory does not grow with the number of windows.
    """
    found: list[Array] = []
    for clip, windows in windows_of_clips(batches):
        dim = windows.vectors.shape[1]
        found = found or [np.zeros((clip_count, len(statistics.names) * dim)) for statistics in each]
        for statistics, of_clips in zip(each, found, strict=True):
            of_clips[clip] = statistics_of(windows, statistics)
    if not found:
        raise ValueError("there are no windows")
    return [
        whitened(of_clips, parts=len(statistics.names), bands=statistics.bands)
        for statistics, of_clips in zip(each, found, strict=True)
    ]


def windows_of_clips(batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Iterator[tuple[int, Windows]]:
    """The position of each clip, and its windows, one clip at a time.

    `batches` are vectors, levels and clips: (batch, dim) float32, (batch,) float32 and (batch,) int64, on the CPU, clip
    after clip; a clip may lie in several of them.
    """
    held: list[tuple[Tensor, Tensor]] = []  # of the clip that the last batch ended in
    last = -1
    for vectors, levels, clips in batches:
        runs, counts = torch.unique_consecutive(clips, return_counts=True)
        sizes = counts.tolist()
        for clip, *own in zip(runs.tolist(), torch.split(vectors, sizes), torch.split(levels, sizes), strict=True):
            if clip != last and held:
                yield last, _joined(held)
                held = []
            held.append((own[0], own[1]))
            last = clip
    if held:
        yield last, _joined(held)


def whitened(statistics: Array, *, parts: int, bands: int) -> Array:
    """Statistics (clips, parts · dim) minus their running median over so many neighbouring dimensions of their part.

    A part is one statistic. Beyond its ends, its first and its last value are repeated. With 0 bands, as they are.
    """
    if bands == 0:
        return statistics
    split = statistics.reshape(len(statistics), parts, -1)
    return np.asarray(split - median_filter(split, size=(1, 1, bands), mode="nearest")).reshape(statistics.shape)


def _joined(held: list[tuple[Tensor, Tensor]]) -> Windows:
    vectors, levels = (torch.cat(parts).numpy() for parts in zip(*held, strict=True))
    return Windows(vectors, levels)


def _mean(windows: Windows, statistics: Statistics) -> Array:
    if statistics.decay == 1:
        return torch.from_numpy(windows.vectors).double().mean(dim=0).numpy()
    weights = np.power(statistics.decay, np.arange(len(windows), dtype=np.float64))[::-1]  # rank 0 comes last
    return np.asarray(weights @ windows.ranked.astype(np.float64) / weights.sum())


def _median(windows: Windows, statistics: Statistics) -> Array:
    return _quantile_of(windows, 0.5)


def _quantile(windows: Windows, statistics: Statistics) -> Array:
    return _quantile_of(windows, statistics.share)


def _quantile_of(windows: Windows, share: float) -> Array:
    position = share * (len(windows) - 1)
    low, high = math.floor(position), math.ceil(position)
    below, above = windows.ranked[[low, high]].astype(np.float64)
    return np.asarray(below + (above - below) * (position - low))


def _minimum(windows: Windows, statistics: Statistics) -> Array:
    return np.asarray(windows.vectors.min(axis=0), dtype=np.float64)


def _maximum(windows: Windows, statistics: Statistics) -> Array:
    return np.asarray(windows.vectors.max(axis=0), dtype=np.float64)


def _quiet(windows: Windows, statistics: Statistics) -> Array:
    return _mean_of_share(windows, windows.by_level, statistics.share)


def _loud(windows: Windows, statistics: Statistics) -> Array:
    return _mean_of_share(windows, np.argsort(-windows.levels, kind="stable"), statistics.share)


def _mean_of_share(windows: Windows, order: npt.NDArray[np.int64], share: float) -> Array:
    count = max(math.ceil(share * len(windows) - 1e-9), 1)  # 0.07 · 100 is 7, though not in binary
    return np.asarray(windows.vectors[order[:count]].mean(axis=0, dtype=np.float64))


def _deviation(windows: Windows, statistics: Statistics) -> Array:
    return np.asarray(windows.vectors.std(axis=0, dtype=np.float64))


def _change(windows: Windows, statistics: Statistics) -> Array:
    if len(windows) == 1:
        return np.zeros(windows.vectors.shape[1])
    return np.asarray(np.diff(windows.vectors.astype(np.float64), axis=0).std(axis=0))


_STATISTICS: dict[Statistic, Callable[[Windows, Statistics], Array]] = {
    "mean": _mean,
    "median": _median,
    "quantile": _quantile,
    "minimum": _minimum,
    "maximum": _maximum,
    "quiet": _quiet,
    "loud": _loud,
    "deviation": _deviation,
    "change": _change,
}
