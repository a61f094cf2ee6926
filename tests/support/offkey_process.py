"""`offkey` as a process of its own with instant trainings, for tests of workers, fleets and databases.

It is forked from a process that has imported everything, since imports take seconds. The workers of a fleet are not
forked but started, as always, with the same stand-in for the training.
"""

from __future__ import annotations

import fcntl
import functools
import json
import multiprocessing
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import search.storage.outages
import search.study.trial_recipe
import search.training.objective
import search.workers.lease_renewal
import search.workers.worker
import tests.support.quick
from search.storage import database
from search.storage.lease_rules import LEASE_SECONDS
from search.workers import draining
from tests.support.house import HOUSE
from tests.support.quick import QuickTraining

#: A process writes this on standard error when a batch begins that takes a second or more.
IN_A_LONG_BATCH = "in a long batch"

#: A process writes this after each epoch.
FINISHED_AN_EPOCH = "finished an epoch"

#: The environment variable of a process's settings.
_QUICK = "OFFKEY_TEST_QUICK"


@dataclass(frozen=True)
class Quick:
    """How a stand-in process differs from `offkey`."""

    pause: float = 0.0  # seconds of an epoch
    batches: int = 4  # in an epoch
    lease: float = LEASE_SECONDS
    to_next_batch: float = draining.TO_NEXT_BATCH
    longest_pause: float = 5.0  # between two checks whether a database is back
    busy: float = 60.0  # seconds that SQLite waits for a lock
    moment: str | None = None  # when the server ends all connections: see tests.support.faulty_worker


@dataclass
class OffkeyProcess:
    """A started process and its output."""

    process: Any
    stdout_file: Path
    stderr_file: Path

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def alive(self) -> bool:
        return bool(self.process.is_alive())

    @property
    def stdout(self) -> str:
        return self.stdout_file.read_text()

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    @property
    def workers(self) -> list[psutil.Process]:
        """The worker processes of a search."""
        return psutil.Process(self.pid).children()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ended(self, *, within: float) -> int:
        """Waits for the process to end and returns its exit code."""
        self.process.join(timeout=within)
        assert not self.alive, f"still there after {within} s:\n{self.stderr}"
        return int(self.process.exitcode)


@contextmanager
def offkey_process(
    *arguments: object,
    url: str,
    quick: Quick | None = None,
    terminal: Terminal | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[OffkeyProcess]:
    """`offkey ARGUMENTS…` in the working directory; its remaining processes are killed at the end.

    Standard error is a file, or a terminal; `variables` are added to the environment.
    """
    environment = {"OFFKEY_STORAGE": url, **surroundings(quick or Quick()), **(variables or {})}
    environment |= {} if terminal is None else {"COLUMNS": str(terminal.columns)}
    number = len(list(Path().glob("process-*.err")))
    files = Path(f"process-{number}.out").absolute(), Path(f"process-{number}.err").absolute()
    files[1].touch()
    error = str(files[1]) if terminal is None else terminal.path
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.faulty_worker"])
    process = context.Process(
        target=_run, args=([*map(str, arguments)], environment, os.getcwd(), str(files[0]), error, str(files[1]))
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(HOUSE))  # of the process that they are forked from
        process.start()
    started = OffkeyProcess(process, *files)
    try:
        yield started
    finally:
        if started.alive:
            for child in psutil.Process(started.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.join()


def until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def surroundings(quick: Quick) -> dict[str, str]:
    """The environment of a process that `stand_in_worker` starts."""
    return {
        "OFFKEY_CACHE": os.environ["OFFKEY_CACHE"],
        "PYTHONPATH": str(HOUSE),
        "TERM": "xterm",
        _QUICK: json.dumps(asdict(quick)),
    }


class Terminal:
    """A terminal for a process's standard error, which keeps the output."""

    def __init__(self, *, columns: int) -> None:
        self.columns = columns
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.path = os.ttyname(self._theirs)
        self._shown = b""
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def shown(self) -> str:
        """The whole output, without the escape codes for cursor and colour."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown.decode(errors="replace"))

    def _read(self) -> None:
        while True:
            self._shown += os.read(self._ours, 65536)


def stand_in(path: Path, script: str) -> str:
    """Writes a script that can be started in place of Python, and returns its path."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def stand_in_worker(path: Path) -> str:
    """Writes an executable that starts a fleet's workers with instant trainings, and returns its path."""
    # In place of PYTHON -P -m search.cli worker …
    return stand_in(path, f'shift 3; exec {sys.executable} -P -m tests.support.offkey_process "$@"')


def _run(arguments: list[str], environment: dict[str, str], folder: str, stdout: str, stderr: str, beside: str) -> None:
    os.environ |= environment
    os.chdir(folder)
    for file, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the process it is forked from ignores it
    sys.executable = stand_in_worker(Path(f"{beside}.python"))
    _main(arguments)


def _main(arguments: list[str]) -> None:
    # Imported here: its consoles must use this process's files, not those of the process it is forked from.
    from search.cli.app import main

    quick = Quick(**json.loads(os.environ[_QUICK]))
    QuickTraining.batches, QuickTraining.pause = quick.batches, quick.pause / quick.batches
    vars(tests.support.quick)["time"] = types.SimpleNamespace(sleep=_announced_sleep)
    search.training.objective.train_for_real = _AnnouncingTraining
    vars(search.study.trial_recipe)["_native_precision"] = lambda device: "float32"  # torch would be imported to ask
    vars(search.workers.worker)["draw"] = None
    search.workers.worker.join = functools.partial(search.workers.worker.join, lease=quick.lease)
    search.workers.worker._POLL_SECONDS = search.workers.lease_renewal._RETRY_SECONDS = 0.1
    search.storage.outages._LONGEST_PAUSE = quick.longest_pause
    draining.TO_NEXT_BATCH = quick.to_next_batch
    database._BUSY_SECONDS = quick.busy  # type: ignore[assignment]
    if quick.moment is not None:
        from tests.support.faulty_worker import arrange

        arrange(
            quick.moment, _AnnouncingTraining, lambda number: terminate_connections(os.environ["OFFKEY_STORAGE"]), 0
        )
    sys.argv = ["offkey", *arguments]
    main()


class _AnnouncingTraining(QuickTraining):
    def run_epoch(self, before_batch: Callable[[], None]) -> None:
        super().run_epoch(before_batch)
        sys.stderr.write(f"{FINISHED_AN_EPOCH}\n")


def _announced_sleep(seconds: float) -> None:
    if seconds >= 1:
        sys.stderr.write(f"{IN_A_LONG_BATCH}\n")
    time.sleep(seconds)


def terminate_connections(url: str) -> None:
    """Lets a PostgreSQL server end all other connections to a database."""
    from sqlalchemy import create_engine, text

    engine = create_engine(database.parse_url(url), isolation_level="AUTOCOMMIT")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    with engine.connect() as connection:
        connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
    engine.dispose()


if __name__ == "__main__":
    _main(sys.argv[1:])
