"""Reading one wav file, and saying exactly why when it cannot be read.

waveform : (samples,) float32, full scale is [-1, 1).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

Waveform = npt.NDArray[np.float32]

# ffmpeg, sox and arecord, writing to a pipe, promise a number of bytes near 2³¹ or 2³² and never mend the header.
_LEAST_UNKNOWN_SIZE = 0x7FFFF000


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
        start, length = _data_chunk(file)
        # libsndfile reads a file that was cut off without a word, as far as it goes.
        if start + length > size and length < _LEAST_UNKNOWN_SIZE:
            raise UnreadableWav(f"cut off: its header promises {start + length - size} bytes more than the file holds")
        file.seek(0)
        try:
            sound = soundfile.SoundFile(file)
        except soundfile.LibsndfileError as error:
            raise UnreadableWav(f"not a readable wav file ({error.error_string.rstrip('.')})") from error
        with sound:
            if sound.frames == 0:
                raise UnreadableWav("it holds no samples (zero length)")
            if sound.channels != 1:
                raise UnreadableWav(f"{sound.channels} channels; clips must be mono")
            if sound.subtype in ("FLOAT", "DOUBLE") and not np.isfinite(sound.read(dtype="float32")).all():
                raise UnreadableWav("it holds samples that are NaN or infinite")
            return WavHeader(sample_rate=sound.samplerate, samples=sound.frames)


def read_waveform(path: Path) -> Waveform:
    """Samples of a mono wav file, (samples,) float32."""
    return waveform_of(path.read_bytes())


def waveform_of(contents: bytes) -> Waveform:
    """Samples of a mono wav file's bytes, (samples,) float32."""
    with soundfile.SoundFile(io.BytesIO(contents)) as sound:
        if sound.subtype == "PCM_16":
            # Scaling by a power of two is exact, and numpy does it faster than libsndfile.
            waveform = sound.read(dtype="int16").astype(np.float32)
            waveform *= np.float32(1 / 32768)
        else:
            waveform = sound.read(dtype="float32")
    return np.asarray(waveform, dtype=np.float32)


def _data_chunk(file: BinaryIO) -> tuple[int, int]:
    """Where the samples start, and how many bytes the header says they take. (0, 0) if there is no data chunk.

    Raises UnreadableWav for any format but plain RIFF: libsndfile reads many, and their cut-off files without a word.
    """
    opening = file.read(12)
    if opening[:4] != b"RIFF" or opening[8:] != b"WAVE":
        raise UnreadableWav("not a wav file: it does not open with RIFF and WAVE")
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"data":
            return file.tell(), length
        file.seek(length + length % 2, 1)  # chunks are padded to even lengths
    return 0, 0
