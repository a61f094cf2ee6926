"""deploy/slurm/offkey.sbatch among stand-ins. Slurm takes no part: it was tried by hand (deploy/README.md)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster_scripts import among, as_read
from tests.support.house import HOUSE

SCRIPT = HOUSE / "deploy/slurm/offkey.sbatch"

#: A step: its options are srun's, the rest is what it starts.
SRUN = 'while case $1 in -*) ;; *) false ;; esac; do shift; done; exec "$@"'


def directives() -> dict[str, str]:
    """What the script asks of sbatch, by option."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?(?: +#.*)?$", SCRIPT.read_text(), re.MULTILINE)
    assert len(found) == SCRIPT.read_text().count("#SBATCH")
    return dict(found)


def test_the_signal_goes_to_the_step_and_leaves_more_time_than_a_drain_takes() -> None:
    # With B: in front it would go to the shell alone, which is srun by then, and that kills its step.
    name, seconds = directives()["signal"].split("@")
    assert name == "TERM"
    assert int(seconds) >= 20


def test_more_tasks_wait_than_run_so_that_one_that_its_time_ends_is_followed_by_another() -> None:
    first, last, at_once = map(int, re.split("[-%]", directives()["array"]))
    assert last - first + 1 > at_once


@pytest.mark.parametrize("code", [0, 1])
def test_a_task_is_one_worker_with_the_tasks_cores_and_its_exit_code(tmp_path: Path, code: int) -> None:
    offkey = f'echo "$OMP_NUM_THREADS"; echo offkey "$@"; exit {code}'
    task = subprocess.run(
        ["bash", SCRIPT],
        env=among(tmp_path, srun=SRUN, offkey=offkey) | {"SLURM_CPUS_PER_TASK": "4", "STUDY": "study.yaml"},
        capture_output=True,
        text=True,
    )
    threads, command = task.stdout.splitlines()
    read = as_read(command.split())
    assert (task.returncode, task.stderr) == (code, "")
    assert (threads, read["study"], read["workers"]) == ("4", "study.yaml", "1")
