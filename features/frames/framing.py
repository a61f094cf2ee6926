"""How a waveform is cut into frames, the same for every transform of frames.

waveform : (samples,) float32, full scale is [-1, 1).
frames   : (frames, bins) float32; one each hop, the first centred on the first sample, as in librosa (`center=True`).
           A kind that transforms a whole clip has a single one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.clips.wav import Waveform

Frames = npt.NDArray[np.float32]

#: The settings of every kind that has a frame each hop.
FRAMING = ("n_fft", "hop_length")


def frame_count(samples: int, *, n_fft: int, hop_length: int) -> int:
    """The number of frames of a waveform with this many samples."""
    return 1 + (samples - n_fft % 2) // hop_length


def sliding(waveform: Waveform, *, n_fft: int, hop_length: int) -> Frames:
    """The samples that each frame is made of, (frames, n_fft): a view, with silence before and after the clip."""
    half = n_fft // 2
    padded = np.zeros(len(waveform) + 2 * half, dtype=np.float32)
    padded[half : half + len(waveform)] = waveform
    return np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]


def ends(lowest: float, highest: float, bins: int) -> tuple[Frames, Frames]:
    """The same two ends for each bin, (bins,) twice."""
    return np.full(bins, lowest, dtype=np.float32), np.full(bins, highest, dtype=np.float32)
