"""The devices of a host: where worker processes are placed, and the torch device that a command or `search.api` names.

device  : a worker's name for its device: "cpu", "cuda" or "cuda:1".
visible : CUDA_VISIBLE_DEVICES of a worker's process: the process sees only its own GPU, and calls it "cuda".

torch is imported only where GPUs are counted.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import joblib
import psutil

from search.errors import MisuseError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Slot:
    """The place of one worker process."""

    device: str  # "cpu" or "cuda"
    visible: str | None  # None: as in the process that starts it

    def environment(self, *, workers: int) -> dict[str, str]:
        """The environment variables of the place, with a worker's share of the cores if `workers` divide them.

        Threads that wait do not spin: spinning would take CPU time from the processes that work.
        """
        share = max(1, cores() // workers)
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        threads = str(min(share, int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else share)
        policy = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
        visible = {} if self.visible is None else {"CUDA_VISIBLE_DEVICES": self.visible}
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **policy, **visible}


def slots(workers: int | None, per_device: int | None) -> list[Slot]:
    """Places `workers` on the GPUs in turn, or on the CPU where there is no GPU.

    workers = None places `per_device` (1 if None) on each GPU; without GPUs, one for two physical cores.
    Raises MisuseError if `per_device` is given and there is no GPU, or too few for `workers`.
    """
    gpus = visible_gpus()
    if not gpus:
        if per_device is not None:
            raise MisuseError(
                f"--per-device is {per_device} workers for each GPU, but no GPU is visible here. Leave it out to "
                "search on the CPU, or check the GPU's driver and CUDA_VISIBLE_DEVICES."
            )
        return [Slot("cpu", None)] * (workers or max(1, _physical_cores() // 2))
    room = (per_device or 1) * len(gpus)
    if workers is not None and per_device is not None and workers > room:
        raise MisuseError(
            f"--workers is {workers}, but with --per-device {per_device} the {len(gpus)} visible GPUs take {room}. "
            "Lower the one, raise the other, or give only one of them."
        )
    return [Slot("cuda", gpus[number % len(gpus)]) for number in range(workers or room)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, each as an entry for CUDA_VISIBLE_DEVICES."""
    listed = _listed_gpus()
    if listed in ([], ["-1"]):
        return []
    import torch

    numbers = range(torch.cuda.device_count())
    return [str(number) if listed is None else listed[number] for number in numbers]


def cores() -> int:
    """The number of CPU cores that this process may use, by its affinity, its container and $LOKY_MAX_CPU_COUNT.

    A quota that ends within a core counts that core.
    """
    return int(joblib.cpu_count())


def device_name(device: str) -> str:
    """A worker's device for people: "cpu", "GPU 3", or the name that CUDA_VISIBLE_DEVICES gives it."""
    if not device.startswith("cuda"):
        return device
    number = int(device.partition(":")[2] or 0)
    listed = _listed_gpus() or []
    entry = listed[number] if number < len(listed) else str(number)
    return f"GPU {entry}" if entry.isdigit() else entry


def memory_used(device: str) -> int:
    """The bytes that this process holds: torch's reserved memory on a GPU, or its resident memory on the CPU."""
    if not device.startswith("cuda"):
        return psutil.Process().memory_info().rss
    # Not imported here: the import's lock may be held by a thread that hangs.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return 0 if cuda is None else int(cuda.memory_reserved(device))


def _listed_gpus() -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES: numbers, or names of GPUs or of parts of a GPU. None if it is not set."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if listed is None else [entry.strip() for entry in listed.split(",") if entry.strip()]


def _physical_cores() -> int:
    return min(psutil.cpu_count(logical=False) or cores(), cores())


def device_of(name: str) -> torch.device:
    """The device of this name. Raises MisuseError if the host has no such device."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MisuseError(f"--device {name}: no such device here ({str(error).splitlines()[0]})") from error
    return device
