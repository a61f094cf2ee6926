"""The parameters of the `features:` block that kinds of feature read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from features.clips.wav import Channel
from features.settings import Settings


class Parameters(Settings):
    """The parameters of all kinds of feature, with librosa's names."""

    kind: str
    sample_rate: int = Field(16000, gt=0, description="Hz")
    channel: Channel | None = Field(None, description="of clips with several: its number from 0, or mean")
    resample: bool = Field(False, description="clips of another sample rate are resampled, and not refused")
    n_fft: int = Field(1024, ge=16, description="samples in one frame; all kinds but clip_spectrum")
    hop_length: int = Field(512, gt=0, description="samples from one frame to the next; all kinds but clip_spectrum")
    n_mels: int = Field(128, gt=0, description="logmel, mfcc: mel bands")
    fmin: float = Field(0.0, ge=0, description="logmel, mfcc: Hz, where the lowest band begins")
    fmax: float | None = Field(None, gt=0, description="logmel, mfcc: Hz, where the highest band ends; sample_rate / 2")
    power: Literal[1, 2] = Field(2, description="logmel, mfcc: 2: power spectrum; 1: magnitudes; both in decibels")
    n_mfcc: int = Field(20, gt=0, description="mfcc: coefficients")
    n_chroma: int = Field(12, gt=0, description="chroma: pitch classes of an octave")
    n_bands: int = Field(1024, gt=0, description="clip_spectrum: bands of equal width, from 0 Hz to sample_rate / 2")
    tuning: float | Literal["estimate"] = Field(
        0.0, description="chroma: deviation from A = 440 Hz in pitch classes; estimate: of each clip, which is slow"
    )
    normalize: Literal["none", "clip", "bin"] = Field(
        "none",
        description="clip: zero mean, unit variance of each clip, by kind; bin: of each bin, over the training clips",
    )

    @field_validator("channel")
    @classmethod
    def _channel_is_a_number_or_mean(cls, channel: Channel | None) -> Channel | None:
        if isinstance(channel, int) and channel < 0:
            raise ValueError(f"channel ≥ 0 must hold, but got {channel}")
        return channel

    @field_validator("tuning")
    @classmethod
    def _tuning_is_within_a_pitch_class(cls, tuning: float | str) -> float | str:
        if isinstance(tuning, float | int) and not -0.5 <= tuning < 0.5:
            raise ValueError(f"-0.5 ≤ tuning < 0.5 must hold, but got {tuning}")
        return tuning

    @property
    def highest_frequency(self) -> float:
        """The upper end of the highest mel band, Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax
