"""Batches from a mapped store against the same from memory: time, peak memory, and more frames than memory holds."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.memory import watched
from benchmarks.sides import in_turn, machine_line, on_one_core
from features.store.files import FrameStore, map_store
from features.windows.context_windows import ContextWindows
from features.windows.crops import Crops
from features.windows.excerpts import Batch, Excerpts
from features.windows.stored_clips import StoredClips

FRAMES, BINS = 313, 128  # of a clip of 10 s
CLIPS, ROUNDS = 1000, 7  # where time is measured
SIZES, MEMORY_ROUNDS = (500, 5000), 3  # clips, where memory is
BATCH = {"windows": 1000, "crops": 64}
LIMITED_CLIPS, LIMIT, LIMITED_BATCHES = 10000, 768 << 20, 100  # 1.6 GB of frames, bytes, batches


def write_store(folder: Path, clips: int) -> Path:
    """A store of noise, written as `features.store.building` lays it out, and out of the cache of pages."""
    folder.mkdir()
    noise = np.random.default_rng(0).normal(-40, 10, (FRAMES, BINS)).astype(np.float32)
    with (folder / "frames.npy").open("wb") as file:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (clips * FRAMES, BINS)}
        np.lib.format.write_array_header_1_0(file, shape)
        for _ in range(clips):
            file.write(noise.data)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    np.save(folder / "offsets.npy", np.arange(clips + 1) * FRAMES)
    return folder


def in_memory(store: FrameStore) -> FrameStore:
    return FrameStore(frames=np.array(store.frames), offsets=store.offsets)


def excerpts(kind: str, store: FrameStore) -> Excerpts:
    positions = range(len(store.offsets) - 1)
    clips = StoredClips(store, positions, [Path(f"{position}.wav") for position in positions])
    device = torch.device("cpu")
    if kind == "windows":
        return ContextWindows(clips, context=5, setting="model.context", device=device)
    return Crops(clips, frames=64, hop=8, crops_per_clip=10, setting="model.frames", device=device)


def training_step(kind: str) -> Callable[[Batch], None]:
    """One of a small autoencoder, or of a small convolutional network."""
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Linear(5 * BINS, 64), nn.ReLU(), nn.Linear(64, 5 * BINS))
        if kind == "windows"
        else nn.Sequential(nn.Conv2d(1, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)

    def step(batch: Batch) -> None:
        made = model(batch.inputs)
        loss = (made - batch.inputs).square().mean() if kind == "windows" else made.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def epoch(of: Excerpts, kind: str, step: Callable[[Batch], None] | None = None, *, batches: int | None = None) -> None:
    for number, batch in enumerate(of.shuffled(BATCH[kind], torch.Generator().manual_seed(0))):
        if number == batches:
            break
        if step is not None:
            step(batch)


def child(kind: str, side: str, folder: str, batches: str) -> None:
    """One epoch of training, or so many batches of it; prints its peak memory in MB and its seconds."""
    with watched() as peak:
        store = map_store(Path(folder))
        of = excerpts(kind, store if side == "mapped" else in_memory(store))
        step = training_step(kind)
        start = time.perf_counter()
        epoch(of, kind, step, batches=int(batches) or None)
        seconds = time.perf_counter() - start
    print(json.dumps({"peak": peak[0], "seconds": seconds}))


def run_child(kind: str, side: str, folder: Path, *, batches: int = 0, group: Path | None = None) -> dict[str, float]:
    """Raises CalledProcessError if it does not end well: killed for its memory, in a group that limits it."""
    command = [sys.executable, "-m", "benchmarks.streaming", kind, side, str(folder), str(batches)]
    if group is not None:  # the shell enters it, and becomes the child
        command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    printed: dict[str, float] = json.loads(ended.stdout)
    return printed


@contextmanager
def memory_limit(limit: int) -> Iterator[Path | None]:
    """A control group of so many bytes, or None where none may be made."""
    groups = [line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {controllers: group.lstrip("/") for _, controllers, group in groups}
    first = "memory" in own  # version 1 of control groups
    root = Path("/sys/fs/cgroup/memory" if first else "/sys/fs/cgroup")
    within = root / own.get("memory" if first else "", "")
    group = (within if within.exists() else root) / f"offkey-streaming-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
    except OSError as error:
        print(f"No memory limit can be set here ({error.strerror}).")
        if group.exists():
            group.rmdir()
        yield None
    else:
        try:
            yield group
        finally:
            group.rmdir()


def add(table: Table, what: str, mapped: list[float], memory: list[float], *, digits: int) -> None:
    ratios = [m / i for m, i in zip(mapped, memory, strict=True)]
    table.add_row(
        what,
        f"{statistics.median(mapped):.{digits}f}",
        f"{statistics.median(memory):.{digits}f}",
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f}–{max(ratios):.2f}",
    )


def measure_time(table: Table, store: FrameStore) -> None:
    for kind in BATCH:
        mapped, memory = excerpts(kind, store), excerpts(kind, in_memory(store))
        for what, step in (("gathered", None), ("and trained on", training_step(kind))):
            sides: dict[str, Callable[[], object]] = {
                "mapped": partial(epoch, mapped, kind, step),
                "memory": partial(epoch, memory, kind, step),
            }
            seconds = in_turn(sides, rounds=ROUNDS)
            add(table, f"{kind}, {what}, s", seconds["mapped"], seconds["memory"], digits=3)


def measure_memory(table: Table, folders: dict[int, Path]) -> None:
    for kind in BATCH:
        for clips, folder in folders.items():
            peaks = {
                side: [run_child(kind, side, folder)["peak"] for _ in range(MEMORY_ROUNDS)]
                for side in ("mapped", "memory")
            }
            add(table, f"{kind}, peak of {clips:,} clips, MB", peaks["mapped"], peaks["memory"], digits=0)


def measure_limited(folder: Path) -> None:
    size = (folder / "frames.npy").stat().st_size
    print(
        f"{size / 1e6:.0f} MB of frames within a limit of {LIMIT / 1e6:.0f} MB, {LIMITED_BATCHES} batches, trained on:"
    )
    for kind in BATCH:
        for side in ("mapped", "memory"):
            with memory_limit(LIMIT) as group:
                if group is None:
                    return
                try:
                    ran = run_child(kind, side, folder, batches=LIMITED_BATCHES, group=group)
                except subprocess.CalledProcessError as error:
                    if error.returncode != -signal.SIGKILL:
                        raise
                    print(f"  {kind}, {side}: killed for want of memory")
                else:
                    print(f"  {kind}, {side}: {ran['seconds']:.1f} s, peak {ran['peak']:.0f} MB")


def main() -> None:
    table = Table("an epoch", "mapped", "in memory", "ratio, median", "range", title_justify="left")
    table.title = f"Batches from a mapped store and from memory ({machine_line()})"
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        measure_memory(table, {clips: write_store(root / f"{clips}", clips) for clips in SIZES})
        limited = write_store(root / "limited", LIMITED_CLIPS)
        measure_limited(limited)
        shutil.rmtree(limited)
        on_one_core()
        measure_time(table, map_store(write_store(root / "timed", CLIPS)))
    Console(width=110).print(table)


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) > 1 else main()
