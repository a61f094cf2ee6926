"""Log-mel spectrograms: waveform in, frames out.

waveform : (samples,) float32, full scale is [-1, 1).
frames   : (frames, bins) float32, decibels; librosa's `power_to_db(melspectrogram(…), top_db=None)`, transposed;
           of magnitudes (power 1) its `amplitude_to_db`.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.sparse
from pydantic import Field, model_validator

from features.settings import Settings
from features.wav import Waveform

Frames = npt.NDArray[np.float32]

#: librosa's floor of the power before the logarithm: -100 dB.
_FLOOR = np.float32(1e-10)

#: Below this share of a frame's energy, the rounding noise of a float32 Fourier transform shows in a band:
#: it reaches 1e-3 dB in a bin whose power is about 1e-7 of the frame's.
_FLOAT32_RANGE = 2e-7

#: Frames transformed at a time: the buffers of one block stay in a core's second-level cache.
_BLOCK = 64


class LogMelSettings(Settings):
    """Mel-scaled power spectrum in decibels (librosa's parameters, names and defaults, at 16 kHz)."""

    kind: Literal["logmel"] = "logmel"
    sample_rate: int = Field(16000, gt=0, description="Hz; clips of another rate are refused")
    n_mels: int = Field(128, gt=0, description="mel bands: the bins of a frame")
    n_fft: int = Field(1024, ge=16, description="samples in one Fourier transform")
    hop_length: int = Field(512, gt=0, description="samples from one frame to the next")
    power: Literal[1, 2] = Field(2, description="2: power spectrum; 1: magnitudes; both in decibels of power")

    @model_validator(mode="after")
    def _bands_are_filled(self) -> LogMelSettings:
        if self.n_mels > self.n_fft // 2:
            raise ValueError(f"n_mels ≤ n_fft / 2 must hold, but got n_mels = {self.n_mels}, n_fft = {self.n_fft}")
        return self

    @property
    def bins(self) -> int:
        return self.n_mels

    def frame_count(self, samples: int) -> int:
        """Frames of a clip of so many samples: one each hop, the first centred on the first sample."""
        return 1 + (samples - self.n_fft % 2) // self.hop_length

    def frames(self, waveform: Waveform) -> Frames:
        """Log-mel frames of one waveform, (frames, n_mels) float32, dB."""
        padded = np.pad(waveform, self.n_fft // 2)
        sliding = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop_length]
        mel = np.empty((len(sliding), self.n_mels), dtype=np.float32)
        in_float32 = True
        for start in range(0, len(sliding), _BLOCK):
            block = slice(start, start + _BLOCK)
            mel[block], in_float32 = self._mel_block(sliding[block], in_float32)
        np.maximum(mel, _FLOOR if self.power == 2 else np.sqrt(_FLOOR), out=mel)
        np.log10(mel, out=mel)
        mel *= np.float32(20 / self.power)
        return mel

    def _mel_block(self, sliding: Frames, in_float32: bool) -> tuple[Frames, bool]:
        """Mel spectrum of some frames, in float32 where that is precise enough; and whether to go on so."""
        filters, widths = _mel_filters(self.sample_rate, self.n_fft, self.n_mels)
        hann = _hann(self.n_fft)
        if not in_float32:
            return self._mel_of(sliding * hann, filters), False
        windowed = sliding * hann.astype(np.float32)
        mel = self._mel_of(windowed, filters)
        energy = np.einsum("fs,fs->f", windowed, windowed) * self.n_fft
        quietest = (mel / widths).min(axis=1) ** np.float32(2 / self.power)
        wide = quietest < _FLOAT32_RANGE * energy
        if wide.any():
            mel[wide] = self._mel_of(sliding[wide] * hann, filters)
        return mel, float(wide.mean()) < 0.5

    def _mel_of(self, windowed: npt.NDArray[np.floating], filters: scipy.sparse.csr_array) -> Frames:
        """Mel spectrum of windowed frames, in the precision of the frames."""
        spectrum = scipy.fft.rfft(windowed, axis=-1)
        parts = spectrum.view(windowed.dtype)
        parts *= parts
        power = np.empty((spectrum.shape[1], len(windowed)), dtype=np.float32)
        np.add(parts[:, ::2].T, parts[:, 1::2].T, out=power, casting="same_kind")
        if self.power == 1:
            np.sqrt(power, out=power)
        return np.asarray((filters @ power).T, dtype=np.float32)


@cache
def _hann(n_fft: int) -> npt.NDArray[np.float64]:
    import librosa

    return np.asarray(librosa.filters.get_window("hann", n_fft), dtype=np.float64)


@cache
def _mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> tuple[scipy.sparse.csr_array, npt.NDArray[np.float32]]:
    """librosa's mel filters, sparse (n_mels, 1 + n_fft/2), and the sum of each filter's weights (n_mels,)."""
    import librosa

    filters = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels)
    widths = np.maximum(filters.sum(axis=1), np.finfo(np.float32).tiny)
    return scipy.sparse.csr_array(filters), widths.astype(np.float32)
