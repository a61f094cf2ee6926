"""Workers on a Ray cluster of simulated nodes and GPUs: Ray places, restarts and finds them.

Ray starts its processes with this Python. A `sitecustomize.py` on each node lets an actor start the test's
script in place of it.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from optuna.trial import TrialState
from ray.cluster_utils import Cluster

from search.workers.ray_fleet import RayFleet, connected
from tests.support.house import HOUSE
from tests.support.offkey_process import Quick, offkey_process, until
from tests.support.quick import QUICK
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)

EPOCHS = 5

BLOCKS: dict[str, Any] = {**QUICK, "training": {"epochs": EPOCHS, "threads": 1, "learning_rate": 0.01}}

# The bash script in place of Python -P -m search.cli worker STUDY …. The GPU that it may get is simulated.
WORKS = f'shift 3; exec {sys.executable} -P -m tests.support.offkey_process "${{@/#cuda/cpu}}"'
WAITS = "exec sleep 600"
FAILS = "echo the reason; exit 1"

#: Opens the study's frames, and notes in the node's folder what it was given and whether it built them.
OPENS_FRAMES = """
import os, sys
from pathlib import Path
from features.clips.corpus import read_corpus
from features.frames.feature_settings import FeatureSettings
from features.store.building import open_store
done = []
clips = read_corpus(Path(sys.argv[1])).clips
open_store(clips, FeatureSettings(n_mels=32), progress=lambda *counts: done.append(counts))
note = f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.environ['OMP_NUM_THREADS']} {'built' if done else 'mapped'}\\n"
with open(os.environ["OFFKEY_CACHE"] + ".notes", "a") as file:
    file.write(note)
"""


class Nodes:
    """A cluster: a head with one GPU, and nodes that join and leave. Each has its own cache folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sitecustomize.py").write_text(
            "import sys\n"
            "if any('default_worker' in part for part in sys.orig_argv):\n"
            f"    sys.executable = {str(folder / 'python')!r}\n"
        )
        self.client_port = _free_port()
        self.cluster = Cluster()
        self._count = 0
        self.head_cache, _ = self._add(
            include_dashboard=False,
            include_log_monitor=False,
            no_monitor=True,
            ray_client_server_port=self.client_port,
            _system_config={"prestart_worker_first_driver": False, "worker_niceness": 0},
        )

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @property
    def client_address(self) -> str:
        return f"ray://127.0.0.1:{self.client_port}"

    @contextmanager
    def another(self) -> Iterator[tuple[Path, Callable[[], None]]]:
        """A node that joins: its cache folder, and a function that removes it, which is called at the end at least."""
        cache, node = self._add()

        def leave() -> None:
            if node in self.cluster.worker_nodes:
                self.cluster.remove_node(node, allow_graceful=False)

        try:
            yield cache, leave
        finally:
            leave()

    def let_workers(self, script: str, quick: Quick | None = None) -> None:
        """What workers do from now on."""
        settings = json.dumps(asdict(quick or Quick()))
        executable = self.folder / "python"
        executable.write_text(f"#!/bin/bash\nexport OFFKEY_TEST_QUICK='{settings}'\n{script}\n")
        executable.chmod(0o755)

    @property
    def actors(self) -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.cmdline()[:1] == ["ray::RayWorker"]:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    @property
    def workers(self) -> list[psutil.Process]:
        return [worker for actor in self.actors for worker in actor.children()]

    def _add(self, **arguments: Any) -> tuple[Path, Any]:
        self._count += 1
        cache = self.folder / f"node-{self._count}"
        variables = {
            "PYTHONPATH": f"{self.folder}:{HOUSE}",
            "OFFKEY_CACHE": str(cache),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        size: dict[str, Any] = {"num_cpus": 4, "num_gpus": 1, "object_store_memory": 80 * 2**20}
        return cache, self.cluster.add_node(env_vars=variables, **size, **arguments)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes after each test what the command line sets for its whole process."""
    monkeypatch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    # Its own folder below /tmp: a socket's path has room for some hundred characters.
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv("RAY_TMPDIR", folder)
        patched.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "90")  # beside other tests
        patched.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # Ray's client server forks while its threads talk
        started = Nodes(Path(folder))
        try:
            yield started
        finally:
            started.cluster.shutdown()  # type: ignore[no-untyped-call]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def has_epochs(study: TinyStudy, count: int = 1) -> bool:
    """Whether all trials together reported at least `count` epochs."""
    return sum(len(trial.intermediate_values) for trial in trials_of(study)) >= count


def assert_exactly_done(study: TinyStudy, trials: int) -> None:
    assert [(t.number, t.state) for t in trials_of(study)] == [(n, TrialState.COMPLETE) for n in range(trials)]
    assert all(sorted(t.intermediate_values) == list(range(1, EPOCHS + 1)) for t in trials_of(study))


@on_postgresql
def test_workers_get_shares_of_gpus_and_those_without_a_place_wait_for_a_node_that_joins(
    nodes: Nodes, tiny_study: MakeStudy
) -> None:
    study = tiny_study(**BLOCKS)
    opener = nodes.folder / "open_frames.py"
    opener.write_text(OPENS_FRAMES)
    nodes.let_workers(f"{sys.executable} {opener} {study.root} && {WAITS}")

    def notes(cache: Path) -> list[str]:
        file = Path(f"{cache}.notes")
        return sorted(file.read_text().splitlines()) if file.exists() else []

    with connected(nodes.address):
        fleet = RayFleet(study.storage, study.stored, study.root, workers=3, gpus=0.5)
        fleet.start()
        try:
            until(lambda: fleet.watch() and len(notes(nodes.head_cache)) == 2)
            until(lambda: fleet.watch() and fleet.note == "1 of 3 workers wait for a place in the cluster")
            assert len(nodes.actors) == 2
            with nodes.another() as (cache, _):
                until(lambda: fleet.watch() and len(notes(cache)) == 1)
                until(lambda: fleet.watch() and fleet.note is None)
                fleet.stop()
        finally:
            fleet.kill()
    assert nodes.actors == []
    assert not fleet.interrupted
    assert notes(nodes.head_cache) == ["0 1 built", "0 1 mapped"], "frames are built once for each node"
    assert notes(cache) == ["0 1 built"]


@on_postgresql
def test_a_node_that_leaves_in_the_middle_loses_nothing(nodes: Nodes, tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3, **BLOCKS)
    nodes.let_workers(WORKS, Quick(pause=0.2, lease=3))
    options = ("--workers", "2", "--gpus-per-worker", "1", "--artifacts", "shared", "--json")
    with (
        nodes.another() as (_, leave),
        offkey_process("search", "tiny", "--on", nodes.address, *options, url=study.url) as search,
    ):
        until(lambda: sum(bool(trial.intermediate_values) for trial in trials_of(study)) == 2)
        leave()
        assert search.ended(within=90) == 0, search.stderr
    assert json.loads(search.stdout)["trials"]["complete"] == 3
    assert_exactly_done(study, 3)
    assert nodes.actors == []


@on_postgresql
def test_a_worker_that_hangs_in_a_batch_is_replaced_and_its_trial_goes_on(nodes: Nodes, tiny_study: MakeStudy) -> None:
    study = tiny_study(**{**BLOCKS, "search": {"trials": 1, "pruner": "none", "stall_minutes": 1 / 60}})
    hangs, works = Quick(pause=3600, lease=1), Quick(lease=1)
    nodes.let_workers(WORKS, hangs)
    with offkey_process("search", "tiny", "--on", nodes.address, "--workers", "1", url=study.url) as search:
        until(lambda: study.ledger.at_work())
        nodes.let_workers(WORKS, works)  # those that are started from now on
        assert search.ended(within=60) == 0, search.stderr
    assert "worker 0 was replaced: trial 0: it hung: no sign of life for 0.0166667 minutes" in search.stderr
    assert_exactly_done(study, 1)
    assert nodes.actors == []


@on_postgresql
def test_workers_whose_search_is_lost_go_on_are_restarted_and_obey_a_stop_after_which_the_same_command_goes_on(
    nodes: Nodes, tiny_study: MakeStudy, offkey: Callable[..., Ran]
) -> None:
    study = tiny_study(trials=2, **BLOCKS)
    nodes.let_workers(WORKS, Quick(pause=0.5, lease=3))
    arguments = ("search", "tiny", "--on", nodes.address, "--workers", "1")
    with offkey_process(*arguments, url=study.url) as lost:
        until(lambda: has_epochs(study))
        lost.send(signal.SIGKILL)
    (actor,) = nodes.actors
    actor.kill()
    until(lambda: [restarted.pid for restarted in nodes.actors] not in ([], [actor.pid]))
    assert offkey("stop", "tiny", "--storage", study.url).code == 0
    until(lambda: nodes.actors == [])
    done = sum(len(trial.intermediate_values) for trial in trials_of(study))
    assert done < 2 * EPOCHS
    with offkey_process(*arguments, url=study.url) as found:
        until(lambda: has_epochs(study, done + 1))
        (worker,) = nodes.workers
        worker.kill()
        assert found.ended(within=90) == 0, found.stderr
    assert_exactly_done(study, 2)
    assert nodes.actors == []


@on_postgresql
def test_ctrl_c_leaves_detached_workers_at_work_and_drains_them_without_detach(
    nodes: Nodes, tiny_study: MakeStudy
) -> None:
    study = tiny_study(trials=9, **BLOCKS)
    nodes.let_workers(WORKS, Quick(pause=0.3))
    url = study.url.replace("postgres:@", "postgres:secret@")  # the server asks for none
    arguments = ("search", "tiny", "--workers", "2", "--gpus-per-worker", "1", "--on")
    with offkey_process(*arguments, nodes.address, "--detach", url=url) as left:
        until(lambda: has_epochs(study))
        left.send(signal.SIGINT)
        assert left.ended(within=30) == 0, left.stderr
    assert "The workers stay at work; `offkey stop tiny` makes them leave." in left.stderr
    (worker,) = nodes.workers
    with offkey_process(*arguments, nodes.client_address, url=url) as found:
        until(lambda: "2 workers on" in found.stderr)
        seen = sum(len(trial.intermediate_values) for trial in trials_of(study))
        until(lambda: has_epochs(study, seen + 2))
        assert nodes.workers == [worker], "the other waits for a place"
        assert not [part for process in [*nodes.actors, worker] for part in process.cmdline() if "secret" in part]
        found.send(signal.SIGINT)
        assert found.ended(within=30) == 0, found.stderr
    assert "Stopped: every trial was given back." in found.stderr
    assert "a trial that moves to another node starts over there" in found.stderr
    until(lambda: nodes.actors == [])
    logs = [file for file in nodes.folder.rglob("logs/**/*") if file.is_file()]
    assert logs
    assert not [file for file in logs if b"secret" in file.read_bytes()]


@on_postgresql
def test_a_node_that_cannot_work_is_reported_and_does_not_hinder_the_others(
    nodes: Nodes, tiny_study: MakeStudy
) -> None:
    study = tiny_study(trials=99, **BLOCKS)
    nodes.let_workers(WORKS, Quick(pause=0.5))
    with nodes.another() as (cache, _), connected(nodes.address):
        cache.mkdir(exist_ok=True)
        (cache / "logs").write_text("in the way")
        fleet = RayFleet(study.storage, study.stored, study.root, workers=2, gpus=1)
        fleet.start()
        try:
            note = rf"worker \d keeps ending: On \S+: The log folder {cache}/logs/tiny cannot be made: .*"
            until(lambda: fleet.watch() and re.fullmatch(note, fleet.note or "") and has_epochs(study))
            fleet.stop()
        finally:
            fleet.kill()
    assert nodes.actors == []
    assert not fleet.interrupted, "what the other had at work was given back"


@on_postgresql
def test_workers_that_cannot_work_end_the_search_with_their_reason(nodes: Nodes, tiny_study: MakeStudy) -> None:
    study = tiny_study(**BLOCKS)
    nodes.let_workers(FAILS)
    with offkey_process("search", "tiny", "--on", nodes.address, "--workers", "1", url=study.url) as search:
        assert search.ended(within=60) == 1
    assert f"error: On {socket.gethostname()}: Workers here keep ending and get no trial on." in search.stderr
    assert "the reason" in search.stderr.partition("worker-0.log says:")[2]
    assert "Traceback" not in search.stderr
    until(lambda: nodes.actors == [])


SHARED = ("--storage", "postgresql://offkey:secret@127.0.0.1:1/offkey")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--gpus-per-worker", "0.5"), 2, "give its address with --on"),
        (("--detach",), 2, "give its address with --on"),
        (("--on", "auto"), 2, "--on needs --workers N, a number of at least 1, but got 'auto'"),
        (("--on", "auto", "--workers", "2", "--per-device", "2"), 2, "--gpus-per-worker is a worker's share"),
        (("--on", "auto", "--workers", "2"), 2, "sqlite:///offkey.db is a file of this host"),
        (("--on", "local", "--workers", "2", *SHARED), 2, "must be ray://HOST:10001, HOST:6379 or auto"),
        (("--on", "ray://127.0.0.1:1", "--workers", "2", *SHARED), 1, "--on ray://127.0.0.1:1: nothing answers there"),
        (("--on", "127.0.0.1:1", "--workers", "2", *SHARED), 1, "--on 127.0.0.1:1: nothing answers there"),
    ],
)
def test_a_cluster_that_cannot_serve_is_refused(
    offkey: Callable[..., Ran], options: tuple[str, ...], code: int, message: str
) -> None:
    ran = offkey("search", "vae", *options)
    assert (ran.code, ran.stdout) == (code, "")
    assert message in " ".join(ran.stderr.split())
    assert "secret" not in ran.stderr


def test_without_ray_a_search_names_the_package_to_install(
    offkey: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "search.workers.ray_fleet", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = offkey("search", "vae", "--on", "auto", "--workers", "2", *SHARED)
    assert ran.code == 2
    assert "pip install 'offkey[ray]'" in ran.stderr
