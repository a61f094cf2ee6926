"""The sounds behind the values: a corpus of 32 clips, one waveform, and clips without files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from features.clips.clip import ANOMALY, NORMAL, Clip, Source, Split
from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_corpus import FAULTS, SAMPLE_RATE, synthesize
from features.clips.wav import Waveform

MACHINE_IDS = ("00", "02")


def written_corpus(root: Path) -> Corpus:
    """Writes one machine with two IDs and reads it: of each ID 8 training clips, 4 + 4 test clips, of 1 s."""
    for machine_id in MACHINE_IDS:
        for split, label, count in (("train", "normal", 8), ("test", "normal", 4), ("test", "anomaly", 4)):
            folder = root / "pump" / split
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                rng = np.random.default_rng([int(machine_id), split == "train", label == "anomaly", number])
                fault = list(FAULTS)[number] if label == "anomaly" else None
                sound = synthesize(machine_id, rng, fault=fault, seconds=1.0)
                domain, speed = ("target", "source")[number % 3 > 0], ("slow", "fast")[number % 2]
                name = f"section_{machine_id}_{domain}_{split}_{label}_{number:04d}_speed_{speed}.wav"
                soundfile.write(folder / name, sound, SAMPLE_RATE, "PCM_16")
    return read_corpus(root)


def waveform() -> Waveform:
    """0.4 s of a machine, 0.1 s of silence, 0.1 s just below what counts as zero, 0.4 s of a tone off 440 Hz."""
    machine = synthesize("04", np.random.default_rng(4), fault="rub", seconds=0.4)
    tenth = SAMPLE_RATE // 10
    nearly_zero = np.resize([5e-11, -5e-11], tenth)
    tone = 0.5 * np.sin(2 * np.pi * 440 * 2 ** (0.3 / 12) * np.arange(4 * tenth) / SAMPLE_RATE)
    return np.concatenate([machine, np.zeros(tenth), nearly_zero, tone]).astype(np.float32)


def clips_without_files() -> Corpus:
    """Two machines with two IDs: of each 12 development and 5 additional training clips, 10 + 10 test clips."""
    counts: dict[tuple[Split, int, Source], int] = {
        ("train", NORMAL, "development"): 12,
        ("train", NORMAL, "additional"): 5,
        ("test", NORMAL, "development"): 6,
        ("test", NORMAL, "evaluation"): 4,
        ("test", ANOMALY, "development"): 6,
        ("test", ANOMALY, "evaluation"): 4,
    }
    clips = [
        Clip(
            machine=machine,
            machine_id=machine_id,
            split=split,
            label=label,
            source=source,
            domain=None,
            attributes="",
            path=Path(name),
            name=name,
            sample_rate=SAMPLE_RATE,
            samples=SAMPLE_RATE,
            digest="",
        )
        for machine in ("fan", "pump")
        for machine_id in MACHINE_IDS
        for (split, label, source), count in counts.items()
        for number in range(count)
        for name in (f"{machine} {machine_id} {source} {split} {('normal', 'anomaly')[label]} {number}.wav",)
    ]
    return Corpus(root=Path("."), clips=tuple(clips), unreadable=())
