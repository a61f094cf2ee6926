from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from features.wav import UnreadableWav, read_header, read_waveform, waveform_of

RATE = 16000
#: 1000 samples of 16 bits, none of them zero.
RAMP = np.arange(-500, 500, dtype="<i2") * 64 + 1
LIST_CHUNK = b"LIST" + struct.pack("<I", 4) + b"INFO"
ODD_CHUNK = b"LIST" + struct.pack("<I", 5) + b"INFOx" + b"\0"  # 5 bytes and one of padding


def wav(
    data: bytes = RAMP.tobytes(),
    *,
    data_size: int | None = None,
    riff_size: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
    encoding: int = 1,  # 1 integers, 3 floats
    bits: int = 16,
    channels: int = 1,
) -> bytes:
    """A RIFF file, byte by byte. Sizes may be untrue."""
    frame = channels * bits // 8
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, encoding, channels, RATE, RATE * frame, frame, bits)
    data_head = struct.pack("<4sI", b"data", len(data) if data_size is None else data_size)
    body = b"WAVE" + layout + before + data_head + data + after
    return struct.pack("<4sI", b"RIFF", len(body) if riff_size is None else riff_size) + body


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tmp_path / "clip.wav"


def floats(*samples: float) -> bytes:
    return np.array(samples, dtype="<f4").tobytes()


REFUSED = {
    "empty file": (b"", "the file is empty"),
    "text": (b"No sound here, only words.\n" * 9, "not a wav file"),
    "other RIFF": (struct.pack("<4sI4s", b"RIFF", 40, b"AVI ") + bytes(40), "not a wav file"),
    "cut off in its first bytes": (wav()[:10], "not a wav file"),
    "cut off in its header": (wav()[:30], "not a readable wav file"),
    "cut off before its samples": (wav()[:44], "promises 2000 bytes more"),
    "cut off in the middle": (wav()[:1044], "promises 1000 bytes more"),
    "cut off by one byte": (wav()[:-1], "promises 1 bytes more"),
    "cut off behind an odd chunk": (wav(before=ODD_CHUNK)[:1058], "promises 1000 bytes more"),
    "no data chunk": (wav()[:36] + LIST_CHUNK, "not a readable wav file"),
    "no samples": (wav(b""), "no samples"),
    "no samples, but tags": (wav(b"", after=LIST_CHUNK), "no samples"),
    "no samples, streamed": (wav(b"", data_size=0, riff_size=0), "no samples"),
    "stereo": (wav(channels=2), "2 channels"),
    "NaN": (wav(floats(0.1, np.nan), encoding=3, bits=32), "NaN or infinite"),
    "infinite": (wav(floats(0.1, -np.inf), encoding=3, bits=32), "NaN or infinite"),
}


@pytest.mark.parametrize(("contents", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(clip: Path, contents: bytes, reason: str) -> None:
    clip.write_bytes(contents)
    with pytest.raises(UnreadableWav, match=reason):
        read_header(clip)


@pytest.mark.parametrize("container", ["AIFF", "AU", "FLAC", "RF64", "W64"])
def test_other_containers_are_refused_since_libsndfile_would_not_notice_that_one_was_cut_off(
    clip: Path, container: str
) -> None:
    soundfile.write(clip, RAMP, RATE, "PCM_16", format=container)
    with pytest.raises(UnreadableWav, match="not a wav file"):
        read_header(clip)


@settings(max_examples=30, deadline=None, database=None)
@given(kept=st.integers(1, len(wav(before=ODD_CHUNK)) - 1))
def test_no_cut_goes_unnoticed_wherever_it_falls(tmp_path_factory: pytest.TempPathFactory, kept: int) -> None:
    clip = tmp_path_factory.getbasetemp() / "cut.wav"
    clip.write_bytes(wav(before=ODD_CHUNK)[:kept])
    with pytest.raises(UnreadableWav):
        read_header(clip)


STREAMED = {
    # What each writes to a pipe, where it cannot go back: (RIFF size, data size).
    "ffmpeg": (0xFFFFFFFF, 0xFFFFFFFF),
    "sox": (0x7FFFF024, 0x7FFFF000),
    "arecord": (0x80000024, 0x80000000),
}


@pytest.mark.parametrize(("riff_size", "data_size"), STREAMED.values(), ids=STREAMED)
def test_a_streaming_encoders_header_is_read_to_the_end_of_the_file(clip: Path, riff_size: int, data_size: int) -> None:
    clip.write_bytes(wav(riff_size=riff_size, data_size=data_size))
    header = read_header(clip)
    assert (header.sample_rate, header.samples) == (RATE, len(RAMP))
    np.testing.assert_array_equal(read_waveform(clip), RAMP / np.float32(32768))


@pytest.mark.parametrize(
    ("before", "after"),
    [(LIST_CHUNK, b""), (ODD_CHUNK, b""), (ODD_CHUNK * 3, LIST_CHUNK), (b"", ODD_CHUNK)],
    ids=["even chunk before", "odd chunk before", "several odd ones and one after", "odd chunk after"],
)
def test_chunks_around_the_samples_are_no_part_of_them(clip: Path, before: bytes, after: bytes) -> None:
    clip.write_bytes(wav(before=before, after=after))
    assert read_header(clip).samples == len(RAMP)
    np.testing.assert_array_equal(read_waveform(clip), RAMP / np.float32(32768))


def test_odd_samples_without_their_padding_byte_are_not_cut_off(clip: Path) -> None:
    clip.write_bytes(wav(bytes(range(101)), bits=8))
    assert read_header(clip).samples == 101


@pytest.mark.parametrize(
    ("subtype", "step"),
    # One step of quantisation; floats hold the signal as it is.
    [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-24), ("FLOAT", 0), ("DOUBLE", 0)],
)
def test_every_width_reads_to_the_same_waveform_within_its_quantisation(clip: Path, subtype: str, step: float) -> None:
    signal = np.sin(np.arange(2000) / 7).astype(np.float32) * np.float32(0.9)
    soundfile.write(clip, signal, RATE, subtype)
    assert read_header(clip).samples == len(signal)
    waveform = read_waveform(clip)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, signal, rtol=0, atol=step)


def every_16_bit_value() -> npt.NDArray[np.int16]:
    return np.arange(-32768, 32768).astype("<i2")


def test_16_bits_read_as_soundfile_reads_them_bit_for_bit(clip: Path) -> None:
    clip.write_bytes(wav(every_16_bit_value().tobytes()))
    reference, _ = soundfile.read(clip, dtype="float32")
    np.testing.assert_array_equal(read_waveform(clip).view(np.uint32), reference.view(np.uint32))


def test_full_scale_is_from_minus_one_to_just_below_one() -> None:
    waveform = waveform_of(wav(every_16_bit_value().tobytes()))
    assert (waveform.min(), waveform.max()) == (-1, 1 - 2**-15)


def test_a_files_bytes_read_as_the_file_does(clip: Path) -> None:
    clip.write_bytes(wav())
    np.testing.assert_array_equal(waveform_of(wav()), read_waveform(clip))
