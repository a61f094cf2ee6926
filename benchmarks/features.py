"""From wav files to stored frames on one core: every kind of feature against librosa, parity beside speed."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.sides import in_turn, machine_line, on_one_core
from features.clips.synthetic_corpus import make_corpus
from features.clips.wav import Waveform
from features.frames.feature_settings import FeatureSettings
from features.frames.framing import Frames

CLIPS, ROUNDS = 99, 7

SETTINGS = {
    "log-mel, 128 bands": FeatureSettings(kind="logmel"),
    "MFCC, 20 of 128 bands": FeatureSettings(kind="mfcc"),
    "RMS": FeatureSettings(kind="rms"),
    "zero crossings": FeatureSettings(kind="zero_crossings"),
    "chroma": FeatureSettings(kind="chroma"),
    "chroma, tuning estimated": FeatureSettings(kind="chroma", tuning="estimate"),
    "spectral centroid": FeatureSettings(kind="centroid"),
    "log-spectrum": FeatureSettings(kind="logspectrum"),
}


def in_librosa(waveform: Waveform, settings: FeatureSettings) -> Frames:
    """The reference, (frames, bins)."""
    spectral: dict[str, Any] = {"sr": settings.sample_rate, "n_fft": settings.n_fft, "hop_length": settings.hop_length}
    framed: dict[str, Any] = {"frame_length": settings.n_fft, "hop_length": settings.hop_length}
    bands: dict[str, Any] = {"n_mels": settings.n_mels}
    of_kind: dict[str, Callable[[], Any]] = {
        "logmel": lambda: librosa.power_to_db(
            librosa.feature.melspectrogram(y=waveform, **spectral, **bands), top_db=None
        ),
        "mfcc": lambda: librosa.feature.mfcc(y=waveform, n_mfcc=settings.n_mfcc, **spectral, **bands),
        "rms": lambda: librosa.feature.rms(y=waveform, **framed),
        "zero_crossings": lambda: librosa.feature.zero_crossing_rate(waveform, **framed),
        "chroma": lambda: librosa.feature.chroma_stft(
            y=waveform, tuning=None if settings.tuning == "estimate" else settings.tuning, **spectral
        ),
        "centroid": lambda: librosa.feature.spectral_centroid(y=waveform, **spectral),
        "logspectrum": lambda: librosa.power_to_db(
            np.abs(librosa.stft(waveform, n_fft=settings.n_fft, hop_length=settings.hop_length)) ** 2, top_db=None
        ),
    }
    return np.ascontiguousarray(of_kind[settings.kind]().T, dtype=np.float32)


def ours(paths: list[Path], settings: FeatureSettings, target: Path) -> None:
    with target.open("wb") as file:
        for path in paths:
            file.write(settings.frames(settings.waveform(path.read_bytes())).data)


def librosas(paths: list[Path], settings: FeatureSettings, target: Path) -> None:
    with target.open("wb") as file:
        for path in paths:
            file.write(in_librosa(librosa.load(path, sr=None)[0], settings).data)


def main() -> None:
    on_one_core()
    table = Table(
        "", "Offkey, ms a clip", "librosa, ms a clip", "librosa / Offkey", "range", "largest difference",
        title=f"{CLIPS} wav files of 10 s, one core ({machine_line()}), medians of {ROUNDS} rounds",
        title_justify="left",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder, "corpus"), train_clips=CLIPS // 3, test_clips=0, seconds=10.0)
        paths = sorted(Path(folder).rglob("*.wav"))
        for name, settings in SETTINGS.items():
            seconds = in_turn(
                {
                    "offkey": lambda settings=settings: ours(paths, settings, Path(folder, "offkey")),  # type: ignore[misc]
                    "librosa": lambda settings=settings: librosas(paths, settings, Path(folder, "librosa")),  # type: ignore[misc]
                },
                rounds=ROUNDS,
            )
            frames, reference = (np.fromfile(Path(folder, side), np.float32) for side in ("offkey", "librosa"))
            ratios = [theirs / own for own, theirs in zip(seconds["offkey"], seconds["librosa"], strict=True)]
            milliseconds = [f"{statistics.median(seconds[side]) / len(paths) * 1000:.2f}" for side in seconds]
            table.add_row(
                name,
                *milliseconds,
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f}–{max(ratios):.2f}",
                f"{np.abs(frames - reference).max():.2g}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
