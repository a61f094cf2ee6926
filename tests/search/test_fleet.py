"""`offkey search` with real worker processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from features.synthesis import make_corpus
from search.study_file import to_yaml

if TYPE_CHECKING:
    from tests.conftest import Ran

TREE = {
    "study": "fleet",
    "features": {"n_mels": 32},
    "model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4},
    "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": 20},
    "baseline": {"h_dim": 16},
    "search": {"trials": 4, "pruner": "none"},
}
URL = "sqlite:///fleet.db"


@pytest.fixture
def study_file(tmp_path: Path, corpus_root: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(to_yaml({**TREE, "corpus": {"root": str(corpus_root)}}))
    return file


@contextmanager
def searching(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`offkey search` in the working directory; whatever is left of it is killed at the end."""
    command = [sys.executable, "-P", "-m", "search.cli", "search", *arguments, "--storage", URL]
    search = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield search
    finally:
        for process in [*psutil.Process(search.pid).children(recursive=True)] if search.poll() is None else []:
            process.kill()
        search.kill()


def until(condition: Callable[[], bool], *, seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="fleet", storage=URL).get_trials()


def trained() -> bool:
    """Whether a trial has finished an epoch."""
    if not Path("fleet.db").exists():
        return False
    with closing(sqlite3.connect("fleet.db")) as connection:
        try:
            return bool(connection.execute("SELECT 1 FROM trial_intermediate_values LIMIT 1").fetchall())
        except sqlite3.OperationalError:
            return False  # its tables are being made


def test_a_killed_worker_is_replaced_and_the_budget_is_met_exactly(study_file: Path) -> None:
    with searching(study_file, "--workers", "2", "--json") as search:
        until(trained)
        psutil.Process(search.pid).children()[0].kill()
        stdout, stderr = search.communicate(timeout=200)
    assert search.returncode == 0, stderr
    document = json.loads(stdout)
    assert document["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    assert [(t.number, t.state) for t in trials()] == [(n, TrialState.COMPLETE) for n in range(4)]
    assert all(sorted(t.intermediate_values) == list(range(1, 21)) for t in trials())


def drained(study_file: Path, stop: signal.Signals) -> None:
    """Starts a search with two workers, asks it to stop in the middle, and checks how it left."""
    with searching(study_file, "--workers", "2") as search:
        until(trained)
        workers = psutil.Process(search.pid).children()
        search.send_signal(stop)
        _, stderr = search.communicate(timeout=60)
    assert "Draining" in stderr
    assert not any(worker.is_running() for worker in workers)
    assert TrialState.RUNNING not in {trial.state for trial in trials()}


def test_sigterm_drains_a_search(study_file: Path) -> None:
    drained(study_file, signal.SIGTERM)


def test_a_search_that_ctrl_c_drained_goes_on_when_started_again(study_file: Path) -> None:
    drained(study_file, signal.SIGINT)
    left = {trial.number: dict(trial.intermediate_values) for trial in trials()}

    with searching(study_file, "--workers", "1", "--trials", "2") as again:
        _, stderr = again.communicate(timeout=200)
    assert again.returncode == 0, stderr
    assert [t.state for t in trials()] == [TrialState.COMPLETE] * 4, "a budget is never lowered by joining"
    for trial in trials():
        assert left.get(trial.number, {}).items() <= trial.intermediate_values.items()


def test_workers_that_lose_their_search_drain(study_file: Path) -> None:
    with searching(study_file, "--workers", "1") as search:
        until(trained)
        (worker,) = psutil.Process(search.pid).children()
        search.kill()
        assert worker.wait(timeout=60) in (0, None)
    assert TrialState.RUNNING not in {trial.state for trial in trials()}


def test_workers_that_cannot_work_end_the_search_with_their_reason(study_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "checkpoints").write_text("in the way")
    with searching(study_file, "--workers", "1") as search:
        _, stderr = search.communicate(timeout=200)
    assert search.returncode == 1
    assert "Workers keep ending and no trial does" in stderr
    assert "checkpoints" in stderr


def test_workers_divide_the_cores_and_take_no_models_py_of_the_user_for_ours(study_file: Path) -> None:
    Path("models.py").write_text("raise SystemExit('the wrong models')")
    with searching(study_file, "--workers", "2", "--trials", "2", "--set", "training.epochs=1") as search:
        _, stderr = search.communicate(timeout=200)
    assert search.returncode == 0, stderr
    cores = len(os.sched_getaffinity(0))
    assert {trial.user_attrs["threads"] for trial in trials()} == {max(1, cores // 2)}


def test_a_search_is_refused_on_a_read_only_storage_and_on_other_clips(
    study_file: Path, tmp_path: Path, offkey: Callable[..., Ran]
) -> None:
    started = offkey(
        "search", study_file, "--trials", "1", "--workers", "1", "--storage", URL, "--set", "training.epochs=1"
    )
    assert started.code == 0, started.stderr
    make_corpus(tmp_path / "others", train_clips=6, test_clips=6, seconds=1.0, seed=1)
    one_epoch = ("--set", "training.epochs=1", "--trials", "2")

    others = offkey("search", study_file, *one_epoch, "--storage", URL, "--set", f"corpus.root={tmp_path / 'others'}")
    read_only = offkey("search", study_file, *one_epoch, "--storage", "sqlite:///file:fleet.db?mode=ro&uri=true")

    assert (others.code, read_only.code) == (1, 1)
    assert "data.fingerprint: stored" in others.stderr
    assert "attempt to write a readonly database" in read_only.stderr
    assert len(trials()) == 1
