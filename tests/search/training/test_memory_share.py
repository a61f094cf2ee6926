"""A worker's share of memory, in a container that the kernel would end as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from optuna.trial import TrialState

from features import control_groups
from search.training import memory_share
from search.training.memory_share import beside_share, keep_within, share_of_memory, within_share
from search.workers.devices import Slot
from search.workers.fleet import Fleet
from tests.support.offkey_process import until
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

GB, MB = 10**9, 10**6

InGroup = Callable[[dict[str, tuple[str, str]]], None]


@pytest.fixture
def in_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InGroup:
    """Puts this process into the last of these control groups, of which each has an `oom.group` and a limit."""

    def put(groups: dict[str, tuple[str, str]]) -> None:
        for path, (together, limit) in groups.items():
            folder = tmp_path / "cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "memory.oom.group").write_text(f"{together}\n")
            (folder / "memory.max").write_text(f"{limit}\n")
        own = tmp_path / "own"
        own.write_text(f"12:memory:/elsewhere\n0::/{next(reversed(groups), '')}\n")
        monkeypatch.setattr(control_groups, "_GROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(control_groups, "_OWN_GROUPS", own)

    return put


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"": ("0", str(8 * GB))},  # a container of Docker's: the kernel ends one process
        {"": ("1", "max")},
    ],
)
def test_where_the_kernel_ends_one_process_or_knows_no_limit_a_worker_has_none(
    in_group: InGroup, groups: dict[str, tuple[str, str]]
) -> None:
    in_group(groups)
    assert share_of_memory(workers=1) is None


@pytest.mark.parametrize(
    "groups",
    [
        {"": ("1", str(8 * GB))},  # a container of Kubernetes'
        {"job_7": ("1", str(8 * GB)), "job_7/step_0": ("0", "max")},  # a step of Slurm's
        {"job_7": ("1", str(20 * GB)), "job_7/step_0": ("1", str(8 * GB))},
        {"unit": ("0", str(8 * GB)), "unit/workers": ("1", "max")},
    ],
)
def test_workers_share_the_memory_of_a_container_that_ends_as_a_whole(
    in_group: InGroup, groups: dict[str, tuple[str, str]]
) -> None:
    in_group(groups)
    share = share_of_memory(workers=2)
    assert share is not None
    assert 3 * GB < share < 3.8 * GB, "half of the 95 % that this process does not use"


def test_within_its_share_a_process_gets_memory_beside_frames_that_are_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "frames").open("wb") as file:
        file.truncate(2 * GB)

    def mapped() -> np.memmap[Any, np.dtype[np.uint8]]:
        return np.memmap(tmp_path / "frames", dtype=np.uint8, mode="c")  # as stores are mapped

    before = mapped()
    monkeypatch.setattr(memory_share, "_share", None)
    keep_within(memory_share._bytes_in_status("RssAnon") + 300 * MB)
    with within_share(threads=1):
        np.ones(100 * MB, dtype=np.uint8)
        with pytest.raises(MemoryError):
            np.ones(600 * MB, dtype=np.uint8)
        with beside_share():
            within = mapped()
        with pytest.raises(MemoryError):
            np.ones(600 * MB, dtype=np.uint8)
    np.ones(600 * MB, dtype=np.uint8)
    assert before[-1] == within[-1] == 0


def test_a_trial_that_needs_more_than_the_container_has_fails_and_its_worker_goes_on(
    in_group: InGroup, tiny_study: MakeStudy
) -> None:
    in_group({"": ("1", str(3 * GB))})
    study = tiny_study(
        trials=2,
        model={"family": "vae", "context": 3, "h_dim": {"choices": [16, 30_000]}, "z_dim": 4},
        baseline={"h_dim": 30_000},
    )
    fleet = Fleet(study.storage, study.stored, study.root, [Slot("cpu", None)], Path("logs").absolute())
    fleet.start()
    try:
        until(lambda: not fleet.watch())
    finally:
        fleet.kill()
    assert fleet.note is None, "no worker was replaced"
    too_large, small = trials_of(study)
    assert (too_large.state, too_large.constraints) == (TrialState.PRUNED, {"failed": 1.0})
    reason = r"out of memory: it needs more than \d\.\d GB, its worker's share of the container"
    assert re.fullmatch(reason, study.rows()[0].reason)
    assert small.state == TrialState.COMPLETE
