"""Statistics of training clips, by which the windows of any clip are normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.frames.feature_settings import DEVIATIONS
from features.frames.framing import Frames
from features.store.files import FrameStore


def bin_limits(store: FrameStore, positions: Sequence[int]) -> tuple[Frames, Frames]:
    """Mean ± 4 standard deviations of each bin over the frames of these clips, (bins,) twice.

    A bin that never changes has limits half a unit below and above its value.
    """
    bins = store.frames.shape[1]
    total, squares, count = np.zeros(bins), np.zeros(bins), 0
    first = store.of_clip(positions[0]).mean(axis=0, dtype=np.float64)  # sums of the differences lose no digits
    for position in positions:
        frames = store.of_clip(position) - first
        total += frames.sum(axis=0)
        squares += np.einsum("fb,fb->b", frames, frames)
        count += len(frames)
    mean = total / count
    reach = DEVIATIONS * np.sqrt(np.maximum(squares / count - mean**2, 0))
    mean += first
    # A bin that changes by no more than float32's rounding counts as one that never changes.
    reach = np.where(reach > 8 * np.spacing(np.abs(mean).astype(np.float32)), reach, 0.5)
    return (mean - reach).astype(np.float32), (mean + reach).astype(np.float32)
