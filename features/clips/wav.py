"""Reading one wav file, and saying exactly why when it cannot be read.

waveform : (samples,) float32, full scale is [-1, 1); of one channel, or of the mean of all.
signal   : (samples, channels) float32, every channel as it stands.
"""

from __future__ import annotations

import io
import math
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile

from features.reference import librosa

Waveform = npt.NDArray[np.float32]
Signal = npt.NDArray[np.float32]

#: Which channel of a file is used: one by its number, from 0, or the mean of all.
Channel = int | Literal["mean"]

# ffmpeg, sox and arecord, writing to a pipe, promise a number of bytes near 2³¹ or 2³² and never mend the header.
_LEAST_UNKNOWN_SIZE = 0x7FFFF000

_FLOATS = ("FLOAT", "DOUBLE")
#: Encodings whose samples can be counted: of compressed ones the header only guesses how many there are.
_ENCODINGS = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "ULAW", "ALAW", *_FLOATS)

#: The relatives of RIFF, by the four bytes that they open with.
_RELATIVES = {b"RIFX": "a big-endian wav", b"RF64": "a wav of 64-bit sizes", b"BW64": "a wav of 64-bit sizes"}


class UnreadableWav(Exception):
    """Why one file cannot be used; collected by the corpus, which knows all of them."""


@dataclass(frozen=True, kw_only=True)
class WavHeader:
    """The header of a wav file."""

    sample_rate: int  # Hz
    samples: int  # of each channel
    channels: int


def read_header(path: Path) -> WavHeader:
    """Header of a wav file, checked against the file's real size.

    Raises UnreadableWav if the file is empty, cut off, not a wav, compressed, has no samples, or holds samples that
    are not numbers.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableWav("not a file, but a folder, a pipe or a device")
    if status.st_size == 0:
        raise UnreadableWav("the file is empty (0 bytes)")
    with path.open("rb") as file:
        start, length = _data_chunk(file)
        # libsndfile reads a file that was cut off without an error, as far as it goes.
        missing = start + length - status.st_size
        if missing > 0 and length < _LEAST_UNKNOWN_SIZE:
            raise UnreadableWav(f"cut off: its header promises {missing} bytes more than the file holds")
        file.seek(0)
        with _opened(file) as sound:
            if sound.subtype not in _ENCODINGS:
                raise UnreadableWav(f"its samples are encoded as {sound.subtype_info}; convert it to PCM or float")
            if sound.frames == 0:
                raise UnreadableWav("it holds no samples (zero length)")
            if sound.subtype in _FLOATS and not np.isfinite(_samples(sound, "float32")).all():
                raise UnreadableWav("it holds samples that are NaN or infinite")
            return WavHeader(sample_rate=sound.samplerate, samples=sound.frames, channels=sound.channels)


def read_waveform(path: Path, *, channel: Channel | None = None, sample_rate: int | None = None) -> Waveform:
    """Samples of a wav file, (samples,) float32; see `waveform_of`."""
    return waveform_of(path.read_bytes(), channel=channel, sample_rate=sample_rate)


def waveform_of(contents: bytes, *, channel: Channel | None = None, sample_rate: int | None = None) -> Waveform:
    """Samples of a wav file's bytes, (samples,) float32.

    channel : which of several; None takes mono files alone, since the choice is the user's.
    sample_rate : Hz; a file with another rate is resampled, to `resampled_length` samples.

    Raises UnreadableWav if the file has several channels and none is chosen, or lacks the chosen one.
    """
    with _opened(io.BytesIO(contents)) as sound:
        waveform = _channel_of(_signal(sound), channel)
        from_rate = sound.samplerate
    if sample_rate is None or sample_rate == from_rate:
        return waveform
    core = librosa("core.audio")
    resampled = core.resample(waveform, orig_sr=from_rate, target_sr=sample_rate, res_type="soxr_hq")
    return np.asarray(resampled, dtype=np.float32)


def signal_of(contents: bytes) -> Signal:
    """All channels of a wav file's bytes, (samples, channels) float32."""
    with _opened(io.BytesIO(contents)) as sound:
        signal = _signal(sound)
    return signal.reshape(len(signal), -1)


def resampled_length(samples: int, *, from_rate: int, to_rate: int) -> int:
    """The number of samples that `waveform_of` returns: known before any is read."""
    # librosa's own arithmetic: in whole numbers the last sample would now and then differ.
    return samples if from_rate == to_rate else math.ceil(samples * (float(to_rate) / from_rate))


def _channel_of(signal: Signal, channel: Channel | None) -> Waveform:
    """One channel of a signal, (samples,), or the mean of all; `signal` itself if it is mono already."""
    channels = 1 if signal.ndim == 1 else signal.shape[1]
    if channel is None and channels > 1:
        raise UnreadableWav(
            f"it has {channels} channels, and none is chosen: set features.channel to one of 0 to {channels - 1}, "
            "or to mean"
        )
    if isinstance(channel, int) and not 0 <= channel < channels:
        has = "one channel, number 0" if channels == 1 else f"{channels} channels, 0 to {channels - 1}"
        raise UnreadableWav(f"it has {has}, but features.channel is {channel}")
    if signal.ndim == 1:
        return signal
    if isinstance(channel, int):
        return np.ascontiguousarray(signal[:, channel])
    return np.asarray(signal.mean(axis=1, dtype=np.float32))


def _signal(sound: soundfile.SoundFile) -> Signal:
    """The samples, (samples,) of a mono file and (samples, channels) of any other."""
    if sound.subtype != "PCM_16":
        return np.asarray(_samples(sound, "float32"))
    # Scaling by a power of two is exact, and numpy does it faster than libsndfile.
    signal = _samples(sound, "int16").astype(np.float32)
    signal *= np.float32(1 / 32768)
    return np.asarray(signal)


def _samples(sound: soundfile.SoundFile, dtype: Literal["float32", "int16"]) -> npt.NDArray[np.generic]:
    try:
        return np.asarray(sound.read(dtype=dtype))
    except soundfile.LibsndfileError as error:
        raise UnreadableWav(f"its samples cannot be read ({error.error_string.rstrip('.')})") from error


def _opened(file: BinaryIO) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        raise UnreadableWav(f"not a readable wav file ({error.error_string.rstrip('.')})") from error


def _data_chunk(file: BinaryIO) -> tuple[int, int]:
    """The position of the samples, and their length in bytes by the header; (0, 0) if there is no data chunk.

    Raises UnreadableWav for any format but plain RIFF: libsndfile reads many others, and their cut-off files without an
    error.
    """
    opening = file.read(12)
    if opening[:4] in _RELATIVES and opening[8:] == b"WAVE":
        name = opening[:4].decode()
        raise UnreadableWav(f"{_RELATIVES[opening[:4]]} ({name}), not a plain one: convert it to RIFF")
    if opening[:4] != b"RIFF" or opening[8:] != b"WAVE":
        raise UnreadableWav("not a wav file: it does not open with RIFF and WAVE")
    while len(head := file.read(8)) == 8:
        chunk, length = struct.unpack("<4sI", head)
        if chunk == b"data":
            return file.tell(), length
        file.seek(length + length % 2, 1)  # chunks are padded to even lengths
    return 0, 0
