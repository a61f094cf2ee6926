"""Synthetic machine sounds: a corpus to try everything on, in the layout of DCASE 2020 Task 2.

A machine is a rotor with a gear: harmonics of its speed, a gear mesh, flow noise, and a hall around it. Machine IDs
differ in speed, teeth, timbre and noise; clips of one ID differ in speed, load and background. The faults are
faint, and each spares most of the spectrum most of the time: a detector has to know well what is normal.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal
import soundfile

Sound = npt.NDArray[np.float64]

SAMPLE_RATE = 16000  # Hz
SECONDS = 4.0
MACHINE = "compressor"
MACHINE_IDS = ("00", "02", "04")

TRAIN_CLIPS, TEST_CLIPS = 32, 24  # of each machine ID; as many anomalous test clips as normal ones


@dataclass(frozen=True)
class _Individual:
    """What differs between the machines of a type."""

    speed: float  # turns a second
    teeth: int
    brightness: float  # how slowly harmonics fall off
    flow_band: tuple[float, float]  # Hz


_INDIVIDUALS = {
    "00": _Individual(speed=24.5, teeth=17, brightness=0.80, flow_band=(300, 2200)),
    "02": _Individual(speed=29.0, teeth=23, brightness=0.86, flow_band=(700, 3500)),
    "04": _Individual(speed=19.5, teeth=31, brightness=0.90, flow_band=(1200, 5200)),
}


def make_corpus(
    root: Path,
    *,
    train_clips: int = TRAIN_CLIPS,
    test_clips: int = TEST_CLIPS,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the corpus below `root`, whole or not at all; the same arguments write the same samples."""
    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for index, machine_id in enumerate(MACHINE_IDS):
        for label, split, count in (
            ("normal", "train", train_clips),
            ("normal", "test", test_clips),
            ("anomaly", "test", test_clips),
        ):
            folder = partial / MACHINE / split
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                rng = np.random.default_rng([seed, index, split == "train", label == "anomaly", number])
                fault = list(FAULTS)[number % len(FAULTS)] if label == "anomaly" else None
                samples = synthesize(machine_id, rng, fault=fault, seconds=seconds)
                soundfile.write(folder / f"{label}_id_{machine_id}_{number:08d}.wav", samples, SAMPLE_RATE, "PCM_16")
        if progress is not None:
            progress(index + 1, len(MACHINE_IDS))
    partial.rename(root)


def synthesize(
    machine_id: str, rng: np.random.Generator, *, fault: str | None = None, seconds: float = SECONDS
) -> Sound:
    """One recording of a machine, (samples,) within [-1, 1]; with a fault of `FAULTS`, or well."""
    machine = _INDIVIDUALS[machine_id]
    samples = int(seconds * SAMPLE_RATE)
    wander = np.cumsum(rng.normal(0, 1, samples // 160 + 2)) * 2e-4
    speed = machine.speed * (
        1 + rng.normal(0, 0.012) + np.interp(np.arange(samples) / 160, np.arange(len(wander)), wander)
    )
    turns = np.cumsum(speed) / SAMPLE_RATE + rng.uniform()
    load = 10 ** (rng.normal(0, 0.7) / 20)
    sound = load * (_rotor(turns, machine, rng) + _mesh(turns, machine, rng))
    sound += load * 0.35 * _band_noise(rng, samples, *machine.flow_band)
    if fault is not None:
        sound += FAULTS[fault](turns, machine, rng)
    sound += _hall(rng, samples)
    return np.clip(0.05 * sound, -1, 1)


def _rotor(turns: Sound, machine: _Individual, rng: np.random.Generator) -> Sound:
    sound = np.zeros(len(turns))
    for order in range(1, 25):
        level = 0.5 * machine.brightness**order * 10 ** (rng.normal(0, 1) / 20)
        sound += level * np.sin(2 * np.pi * (order * turns + rng.uniform()))
    return sound


def _mesh(turns: Sound, machine: _Individual, rng: np.random.Generator) -> Sound:
    sound = np.zeros(len(turns))
    for order in range(1, 6):
        sound += 0.3 * 0.6**order * np.sin(2 * np.pi * (order * machine.teeth * turns + rng.uniform()))
    return sound


def _hall(rng: np.random.Generator, samples: int) -> Sound:
    """Other machines and people: pink-ish noise of changing level, and now and then something short."""
    level = 10 ** (rng.normal(-4, 1.2) / 20)
    background = level * scipy.signal.lfilter([1.0], [1.0, -0.93], rng.normal(0, 0.5, samples))
    for _ in range(rng.poisson(0.6)):
        start, length = rng.integers(0, samples - 4000), int(rng.integers(1200, 4000))
        low = rng.uniform(300, 4000)
        burst = _band_noise(rng, length, low, low * 1.6) * np.hanning(length)
        background[start : start + length] += 10 ** (rng.normal(-6, 3) / 20) * burst
    return np.asarray(background)


def _band_noise(rng: np.random.Generator, samples: int, low: float, high: float) -> Sound:
    """Noise of unit power between two frequencies (Hz)."""
    sections = scipy.signal.butter(2, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
    noise = scipy.signal.sosfilt(sections, rng.normal(0, 1, samples))
    return np.asarray(noise / noise.std())


def _rub(turns: Sound, machine: _Individual, rng: np.random.Generator) -> Sound:
    """A part touches once in every turn: friction noise in step with the rotor."""
    contact = np.exp(-0.5 * (((turns + rng.uniform()) % 1 - 0.5) / 0.06) ** 2)
    return rng.uniform(0.5, 1.2) * contact * _band_noise(rng, len(turns), 2600, 5200)


def _slip(turns: Sound, machine: _Individual, rng: np.random.Generator) -> Sound:
    """A belt slips now and then: short squeals that glide down."""
    sound = np.zeros(len(turns))
    for _ in range(int(rng.integers(3, 7))):
        length = int(rng.integers(1600, 4000))
        start = int(rng.integers(0, len(turns) - length))
        glide = np.linspace(1, rng.uniform(0.75, 0.9), length) * rng.uniform(1800, 3600)
        squeal = np.sin(2 * np.pi * np.cumsum(glide) / SAMPLE_RATE) * np.hanning(length)
        sound[start : start + length] += rng.uniform(0.4, 1.0) * squeal
    return sound


def _wear(turns: Sound, machine: _Individual, rng: np.random.Generator) -> Sound:
    """Worn teeth: the mesh grows sidebands at the rotor's speed and a half-order."""
    depth = rng.uniform(0.25, 0.6)
    ripple = np.sin(2 * np.pi * turns) + 0.7 * np.sin(2 * np.pi * 3 * turns)
    return depth * ripple * np.sin(2 * np.pi * 2.5 * machine.teeth * turns)


def _surge(turns: Sound, machine: _Individual, rng: np.random.Generator) -> Sound:
    """Flow breaks down and recovers: its noise surges a few times a second."""
    rate = rng.uniform(3, 7)
    time = np.arange(len(turns)) / SAMPLE_RATE
    swell = np.maximum(np.sin(2 * np.pi * rate * time + rng.uniform(0, 6)), 0) ** 2
    high = machine.flow_band[1]
    return rng.uniform(0.5, 1.0) * swell * _band_noise(rng, len(turns), high, min(1.6 * high, 7800))


#: Fault name → the sound it adds.
FAULTS: dict[str, Callable[[Sound, _Individual, np.random.Generator], Sound]] = {
    "rub": _rub,
    "slip": _slip,
    "wear": _wear,
    "surge": _surge,
}
