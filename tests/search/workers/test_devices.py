"""The places of workers: slots, visible GPUs, shares of the cores, and what status shows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

import search
from search.errors import MisuseError
from search.workers.devices import Slot, cores, device_name, memory_used, slots, visible_gpus


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives this host other cores and GPUs, another limit of cores and another CUDA_VISIBLE_DEVICES."""

    def make(
        *,
        affinity: int = 8,
        physical: int | None = 8,
        limit: int | None = None,
        gpus: int = 0,
        visible: str | None = None,
    ) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)))
        monkeypatch.setattr(psutil, "cpu_count", lambda logical: physical)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        if limit is None:
            monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
        else:
            monkeypatch.setenv("LOKY_MAX_CPU_COUNT", str(limit))
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


def test_this_host_s_cores_are_those_of_the_affinity_mask_at_most() -> None:
    assert 1 <= cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("affinity", "limit", "expected"),
    [(8, None, 8), (8, 2, 2), (2, 6, 2)],
)
def test_cores_are_limited_by_affinity_and_by_what_joblib_is_allowed(
    host: Callable[..., None], affinity: int, limit: int | None, expected: int
) -> None:
    host(affinity=affinity, limit=limit)
    assert cores() == expected


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({"affinity": 8, "physical": 8}, 4),
        ({"affinity": 16, "physical": 8}, 4),  # two threads a core
        ({"affinity": 4, "physical": 64}, 2),
        ({"affinity": 64, "physical": 64, "limit": 6}, 3),
        ({"affinity": 6, "physical": None}, 3),  # a host that does not say
        ({"affinity": 1, "physical": 1}, 1),
    ],
)
def test_without_a_gpu_there_is_one_worker_for_two_physical_cores(
    host: Callable[..., None], machine: dict[str, int | str | None], expected: int
) -> None:
    host(**machine)
    assert slots(None, None) == [Slot("cpu", None)] * expected


def test_without_a_gpu_there_are_as_many_workers_as_asked_for(host: Callable[..., None]) -> None:
    host(affinity=2, physical=2)
    assert slots(5, None) == [Slot("cpu", None)] * 5


@pytest.mark.parametrize("visible", [None, "", "-1"])
def test_workers_per_device_without_a_gpu_are_misuse(host: Callable[..., None], visible: str | None) -> None:
    host(gpus=0, visible=visible)
    with pytest.raises(MisuseError, match=r"--per-device is 2 .* but no GPU is visible here\. Leave it out .*driver"):
        slots(None, 2)


@pytest.mark.parametrize(
    ("workers", "per_device", "expected"),
    [
        (None, None, {"0": 1, "1": 1, "2": 1}),
        (None, 2, {"0": 2, "1": 2, "2": 2}),
        (1, None, {"0": 1}),
        (5, None, {"0": 2, "1": 2, "2": 1}),
        (5, 2, {"0": 2, "1": 2, "2": 1}),
        (2, 4, {"0": 1, "1": 1}),
    ],
)
def test_workers_are_dealt_over_the_gpus(
    host: Callable[..., None], workers: int | None, per_device: int | None, expected: dict[str, int]
) -> None:
    host(gpus=3)
    dealt = slots(workers, per_device)
    assert {slot.device for slot in dealt} == {"cuda"}
    assert Counter(slot.visible for slot in dealt) == expected


def test_neighbouring_workers_are_on_different_gpus(host: Callable[..., None]) -> None:
    host(gpus=2)
    assert [slot.visible for slot in slots(4, None)] == ["0", "1", "0", "1"]


def test_more_workers_than_have_room_on_the_gpus_are_misuse(host: Callable[..., None]) -> None:
    host(gpus=2)
    with pytest.raises(MisuseError, match="--workers is 5, but with --per-device 2 the 2 visible GPUs take 4"):
        slots(5, 2)


@pytest.mark.parametrize(
    ("visible", "gpus", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 2, []),
        ("-1", 2, []),
        ("3", 1, ["3"]),
        ("5, 2", 2, ["5", "2"]),
        ("2,-1,3", 1, ["2"]),  # CUDA reads as far as the first entry that is none
        ("GPU-8932f937,GPU-1b2c", 2, ["GPU-8932f937", "GPU-1b2c"]),
        ("MIG-dfa1", 1, ["MIG-dfa1"]),
    ],
)
def test_a_worker_s_gpu_is_named_as_the_starting_process_knows_it(
    host: Callable[..., None], visible: str | None, gpus: int, expected: list[str]
) -> None:
    host(gpus=gpus, visible=visible)
    assert visible_gpus() == expected


@pytest.mark.parametrize(
    ("slot", "workers", "expected"),
    [
        (Slot("cpu", None), 2, {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}),
        (Slot("cpu", None), 3, {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}),
        (Slot("cpu", None), 99, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}),
        (Slot("cuda", "3"), 1, {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "3"}),
    ],
)
def test_a_worker_s_environment_is_its_share_of_the_cores_and_its_gpu(
    host: Callable[..., None],
    slot: Slot,
    workers: int,
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    host(affinity=8)
    assert slot.environment(workers=workers) == {**expected, "OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(("wanted", "threads"), [("1", "1"), ("3", "3"), ("16", "4"), ("0", "4"), ("many", "4")])
def test_a_user_who_sets_fewer_threads_than_that_share_gets_them(
    host: Callable[..., None], wanted: str, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    host(affinity=8)

    environment = Slot("cpu", None).environment(workers=2)

    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == (threads, threads)
    assert environment["OMP_WAIT_POLICY"] == "active"


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cpu", None, "cpu"),
        ("cpu", "3", "cpu"),
        ("cuda", None, "GPU 0"),
        ("cuda:1", None, "GPU 1"),
        ("cuda", "3", "GPU 3"),
        ("cuda:1", "5, 2", "GPU 2"),
        ("cuda:1", "5", "GPU 1"),  # not in the list: named as it was asked for
        ("cuda", "GPU-8932f937", "GPU-8932f937"),
        ("cuda:0", "MIG-dfa1", "MIG-dfa1"),
    ],
)
def test_a_device_is_shown_by_the_number_that_the_host_gives_it(
    host: Callable[..., None], device: str, visible: str | None, expected: str
) -> None:
    host(visible=visible)
    assert device_name(device) == expected


def test_memory_on_the_cpu_is_what_the_process_holds() -> None:
    before = memory_used("cpu")
    held = torch.ones(25_000_000)  # 100 MB
    assert memory_used("cpu") - before > 0.9 * held.nbytes


def test_memory_on_a_gpu_is_what_torch_has_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: {"cuda:1": 2_000_000}[device])
    assert memory_used("cuda:1") == 2_000_000


def test_torch_is_imported_for_counting_gpus_alone() -> None:
    script = """
import sys
from search.workers import devices
from search.workers.devices import Slot, device_name, memory_used, slots, visible_gpus
assert visible_gpus() == [] and len(slots(2, None)) == 2 and Slot("cpu", None).environment(workers=2)
print(device_name("cpu"), memory_used("cuda"), memory_used("cpu") > 0, "torch" in sys.modules)
"""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=os.environ | {"PYTHONPATH": str(Path(search.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
    )
    assert (ended.stdout, ended.stderr) == ("cpu 0 True False\n", "")
