"""Measuring two or more sides in turn, and the table they end in."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

SAMPLE_RATE = 16000


def on_one_core() -> None:
    """Keeps this process, and every thread pool in it, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    threadpool_limits(1)
    torch.set_num_threads(1)


def in_turn(sides: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, the sides taking turns, after one round that does not count."""
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def show(title: str, seconds: dict[str, list[float]], *, ours: str, unit: float = 1.0, unit_name: str = "s") -> None:
    """Medians, ranges, and each side's time over ours, round by round."""
    table = Table("", f"median {unit_name}", "range", "times ours, median", "range", title=title, title_justify="left")
    for name, measured in seconds.items():
        scaled = [value / unit for value in measured]
        ratios = [other / own for other, own in zip(measured, seconds[ours], strict=True)]
        table.add_row(
            name,
            f"{statistics.median(scaled):.3g}",
            f"{min(scaled):.3g}–{max(scaled):.3g}",
            f"{statistics.median(ratios):.3g}",
            f"{min(ratios):.3g}–{max(ratios):.3g}",
        )
    Console(width=110).print(table)


def write_noise(root: Path, clips: int, *, seconds: float = 10.0, machine: str = "noise") -> list[Path]:
    """Training and test clips of coloured noise, one machine with three IDs; a tenth are labelled test clips."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(clips):
        split, label = ("test", "anomaly" if number % 20 else "normal") if number % 10 == 0 else ("train", "normal")
        folder = root / machine / split
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{label}_id_{number // 20 % 3 * 2:02d}_{number:08d}.wav"
        noise = np.cumsum(rng.standard_normal(int(seconds * SAMPLE_RATE), dtype=np.float32)) * 1e-3
        soundfile.write(path, np.clip(noise - noise.mean(), -1, 1), SAMPLE_RATE, "PCM_16")
        paths.append(path)
    return paths


def machine_line() -> str:
    """What this was measured on."""
    return f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
