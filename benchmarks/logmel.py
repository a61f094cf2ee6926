"""Log-mel frames of a corpus from its wav files, one core: Offkey against librosa, parity beside speed."""

import tempfile
from pathlib import Path

import librosa
import numpy as np

from benchmarks.sides import in_turn, machine_line, on_one_core, show
from features.logmel import Frames, LogMelSettings
from features.synthesis import make_corpus
from features.wav import read_waveform

CLIPS, ROUNDS = 100, 7


def with_librosa(path: Path, settings: LogMelSettings) -> Frames:
    """The reference, (frames, n_mels) float32."""
    waveform, _ = librosa.load(path, sr=None)
    mel = librosa.feature.melspectrogram(
        y=waveform,
        sr=settings.sample_rate,
        n_fft=settings.n_fft,
        hop_length=settings.hop_length,
        n_mels=settings.n_mels,
    )
    return np.asarray(librosa.power_to_db(mel, top_db=None).T)


def main() -> None:
    on_one_core()
    settings = LogMelSettings()
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder, "corpus"), train_clips=CLIPS // 3, test_clips=0, seconds=10.0)
        paths = sorted(Path(folder).rglob("*.wav"))
        difference = max(
            float(np.abs(settings.frames(read_waveform(path)) - with_librosa(path, settings)).max()) for path in paths
        )
        seconds = in_turn(
            {
                "offkey": lambda: [settings.frames(read_waveform(path)) for path in paths],
                "librosa": lambda: [with_librosa(path, settings) for path in paths],
            },
            rounds=ROUNDS,
        )
    title = f"Log-mel of {len(paths)} wav files of 10 s, 128 mels, one core ({machine_line()}), a clip"
    show(title, seconds, ours="offkey", unit=len(paths) / 1000, unit_name="ms")
    print(f"Largest difference from librosa: {difference:.2g} dB")


if __name__ == "__main__":
    main()
