"""Reading one wav file, and saying exactly why when it cannot be read.

waveform : (samples,) float32, full scale is [-1, 1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

Waveform = npt.NDArray[np.float32]

_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # written by encoders that stream and never go back to the header


class UnreadableWav(Exception):
    """Why one file cannot be used; collected by the corpus, which knows all of them."""


@dataclass(frozen=True, kw_only=True)
class WavHeader:
    """What a file says of itself."""

    sample_rate: int  # Hz
    samples: int


def read_header(path: Path) -> WavHeader:
    """Header of a mono wav file, checked against the file's real size.

    Raises UnreadableWav if the file is empty, cut off, not a wav, has no samples or more than one channel, or
    holds samples that are not numbers.
    """
    size = path.stat().st_size
    if size == 0:
        raise UnreadableWav("the file is empty (0 bytes)")
    with path.open("rb") as file:
        missing = _missing_bytes(file, size)
    if missing:
        raise UnreadableWav(f"cut off: its header promises {missing} bytes more than the file holds")
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise UnreadableWav(f"not a readable wav file ({error.error_string.rstrip('.')})") from error
    if info.frames == 0:
        raise UnreadableWav("it holds no samples (zero length)")
    if info.channels != 1:
        raise UnreadableWav(f"{info.channels} channels; clips must be mono")
    if info.subtype in ("FLOAT", "DOUBLE") and not np.isfinite(read_waveform(path)).all():
        raise UnreadableWav("it holds samples that are NaN or infinite")
    return WavHeader(sample_rate=info.samplerate, samples=info.frames)


def read_waveform(path: Path) -> Waveform:
    """Samples of a mono wav file, (samples,) float32."""
    with soundfile.SoundFile(path) as file:
        if file.subtype == "PCM_16":
            # Scaling by a power of two is exact, and numpy does it faster than libsndfile.
            waveform = file.read(dtype="int16").astype(np.float32)
            waveform *= np.float32(1 / 32768)
        else:
            waveform = file.read(dtype="float32")
    return np.asarray(waveform, dtype=np.float32)


def _missing_bytes(file: BinaryIO, size: int) -> int:
    """How many bytes of the data chunk lie past the end of the file.

    libsndfile reads a file that was cut off without a word, as far as it goes.
    """
    start = file.read(12)
    if len(start) < 12 or start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return 0  # not plain RIFF: libsndfile says what is wrong
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"data":
            return 0 if length in _UNKNOWN_SIZES else max(0, file.tell() + length - size)
        file.seek(length + length % 2, 1)  # chunks are padded to even lengths
    return 0
