from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from features.clips.wav import (
    Channel,
    UnreadableWav,
    read_header,
    read_waveform,
    resampled_length,
    signal_of,
    waveform_of,
)

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
    "compressed": (wav(encoding=2, bits=4), "not a readable wav file|encoded as|cut off"),
    "big-endian": (b"RIFX" + wav()[4:], r"big-endian wav \(RIFX\).*: convert it to RIFF"),
    "64-bit sizes": (b"RF64" + wav()[4:], r"64-bit sizes \(RF64\).*: convert it to RIFF"),
    "64-bit sizes of broadcasters": (b"BW64" + wav()[4:], r"64-bit sizes \(BW64\).*: convert it to RIFF"),
    "NaN": (wav(floats(0.1, np.nan), encoding=3, bits=32), "NaN or infinite"),
    "infinite": (wav(floats(0.1, -np.inf), encoding=3, bits=32), "NaN or infinite"),
    "NaN in the last channel": (wav(floats(0.1, 0.1, 0.1, np.nan), encoding=3, bits=32, channels=2), "NaN or infinite"),
    "64-bit floats beyond 32 bits": (wav(np.array([1e300]).tobytes(), encoding=3, bits=64), "NaN or infinite"),
}


@pytest.mark.parametrize(("contents", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(clip: Path, contents: bytes, reason: str) -> None:
    clip.write_bytes(contents)
    with pytest.raises(UnreadableWav, match=reason):
        read_header(clip)


@pytest.mark.parametrize("container", ["AIFF", "AU", "FLAC", "W64"])
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


def test_extensible_headers_are_read(clip: Path) -> None:
    soundfile.write(clip, RAMP, RATE, "PCM_16", format="WAVEX")
    assert read_header(clip).samples == len(RAMP)
    np.testing.assert_array_equal(read_waveform(clip), RAMP / np.float32(32768))


def test_a_pipe_is_refused_at_once_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UnreadableWav, match="not a file, but a folder, a pipe or a device"):
        read_header(tmp_path / "pipe.wav")


def test_bytes_that_are_no_wav_are_refused_like_a_file() -> None:
    with pytest.raises(UnreadableWav, match="not a readable wav file"):
        waveform_of(b"no sound at all")


def eight_channels() -> npt.NDArray[np.int16]:
    """Samples that tell their channel: (1000, 8)."""
    return (RAMP[:, None] // 8 * 8 + np.arange(8)).astype("<i2")


class TestChannels:
    def test_are_counted_and_their_samples_are_those_of_one(self, clip: Path) -> None:
        clip.write_bytes(wav(eight_channels().tobytes(), channels=8))
        header = read_header(clip)
        assert (header.channels, header.samples) == (8, 1000)

    @pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
    @pytest.mark.parametrize("channel", [0, 7])
    def test_one_is_chosen_by_its_number(self, clip: Path, subtype: str, channel: int) -> None:
        soundfile.write(clip, eight_channels() / 32768, RATE, subtype)
        waveform = read_waveform(clip, channel=channel)
        np.testing.assert_array_equal(waveform, eight_channels()[:, channel] / np.float32(32768))
        assert waveform.flags.c_contiguous

    def test_are_averaged_by_choice(self) -> None:
        waveform = waveform_of(wav(eight_channels().tobytes(), channels=8), channel="mean")
        assert waveform.dtype == np.float32
        np.testing.assert_array_equal(waveform, eight_channels().mean(axis=1) / 32768)

    def test_several_are_refused_without_a_choice(self) -> None:
        with pytest.raises(
            UnreadableWav, match="8 channels, and none is chosen: set features.channel to one of 0 to 7, or to mean"
        ):
            waveform_of(wav(eight_channels().tobytes(), channels=8))

    @pytest.mark.parametrize(
        ("channels", "channel", "message"),
        [
            (8, 8, "8 channels, 0 to 7, but features.channel is 8"),
            (8, -1, "8 channels, 0 to 7, but features.channel is -1"),
            (1, 1, "one channel, number 0, but features.channel is 1"),
        ],
    )
    def test_one_that_is_not_there_is_refused(self, channels: int, channel: int, message: str) -> None:
        with pytest.raises(UnreadableWav, match=message):
            waveform_of(wav(eight_channels().tobytes(), channels=channels), channel=channel)

    @pytest.mark.parametrize("channel", [None, 0, "mean"])
    def test_a_mono_file_is_the_same_by_every_choice(self, channel: Channel | None) -> None:
        np.testing.assert_array_equal(waveform_of(wav(), channel=channel), waveform_of(wav()))

    def test_all_of_them_are_a_signal(self) -> None:
        signal = signal_of(wav(eight_channels().tobytes(), channels=8))
        np.testing.assert_array_equal(signal, eight_channels() / np.float32(32768))
        assert signal_of(wav()).shape == (1000, 1)


class TestResampling:
    def test_keeps_a_tone_where_it_is(self, clip: Path) -> None:
        seconds = np.arange(44100) / 44100
        soundfile.write(clip, 0.5 * np.sin(2 * np.pi * 1000 * seconds), 44100, "FLOAT")
        waveform = read_waveform(clip, sample_rate=16000)
        assert waveform.dtype == np.float32
        assert waveform.shape == (16000,)
        expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
        np.testing.assert_allclose(waveform[500:-500], expected[500:-500], atol=1e-3)

    def test_leaves_a_file_of_the_same_rate_as_it_is(self) -> None:
        np.testing.assert_array_equal(waveform_of(wav(), sample_rate=RATE), waveform_of(wav()))

    def test_comes_after_the_choice_of_a_channel(self) -> None:
        contents = wav(eight_channels().tobytes(), channels=8)
        np.testing.assert_array_equal(
            waveform_of(contents, channel=3, sample_rate=8000),
            waveform_of(wav(eight_channels()[:, 3].tobytes()), sample_rate=8000),
        )

    @settings(max_examples=60, deadline=None, database=None)
    @given(
        samples=st.integers(1, 5000),
        from_rate=st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000]) | st.integers(4000, 96000),
        to_rate=st.sampled_from([8000, 16000, 22050, 44100, 48000]) | st.integers(4000, 96000),
    )
    def test_gives_the_length_that_is_known_before(self, samples: int, from_rate: int, to_rate: int) -> None:
        file = io.BytesIO()
        soundfile.write(file, np.ones(samples, np.int16), from_rate, "PCM_16", format="WAV")
        waveform = waveform_of(file.getvalue(), sample_rate=to_rate)
        assert len(waveform) == resampled_length(samples, from_rate=from_rate, to_rate=to_rate)
        assert np.isfinite(waveform).all()


SEEDS = {
    "16 bits": wav(RAMP[:40].tobytes(), before=ODD_CHUNK),
    "24 bits, 3 channels": wav(bytes(range(90)), bits=24, channels=3, after=LIST_CHUNK),
    "float": wav(floats(*np.linspace(-1, 1, 20)), encoding=3, bits=32),
    "64-bit float": wav(np.linspace(-1, 1, 20).tobytes(), encoding=3, bits=64),
}


@settings(max_examples=300, deadline=None, database=None)
@given(
    seed=st.sampled_from(list(SEEDS.values())),
    changes=st.lists(
        st.tuples(st.integers(0, 60) | st.integers(0, 200), st.integers(0, 255) | st.sampled_from([0, 1, 127, 255])),
        max_size=4,
    ),
    kept=st.integers(0, 250),
    cut=st.booleans(),
)
def test_whatever_became_of_a_file_it_is_refused_or_read_to_its_last_sample(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, changes: list[tuple[int, int]], kept: int, cut: bool
) -> None:
    contents = bytearray(seed)
    for position, value in changes:
        contents[position % len(contents)] = value
    clip = tmp_path_factory.getbasetemp() / "mutated.wav"
    clip.write_bytes(contents[:kept] if cut else contents)
    try:
        header = read_header(clip)
    except UnreadableWav:
        return
    waveform = read_waveform(clip, channel="mean")
    assert waveform.shape == (header.samples,)
    assert np.isfinite(waveform).all()
