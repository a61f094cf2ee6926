"""Worker processes on this host: their devices, their replacement, and `offkey search` around them."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from optuna.trial import TrialState

from features.clips.synthetic_corpus import make_corpus
from search.errors import StudyError
from search.storage.lease_rules import KILLED_FOR_MEMORY, MOST_FAILURES
from search.storage.study_storage import StudyStorage
from search.study.study_file import to_yaml
from search.workers import fleet as fleets
from search.workers import killed_for_memory, trouble
from search.workers.devices import Slot, cores
from search.workers.fleet import Fleet
from search.workers.worker import join
from tests.support.offkey_process import Quick, Terminal, offkey_process, stand_in, until
from tests.support.quick import QUICK
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.servers import PostgresServer
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

CPU = Slot("cpu", None)

on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)

# Opening a pipe that nobody writes to: a shell that waits, with the arguments it was given still its own.
WAITS = "mkfifo hold 2>/dev/null; read line < hold"
WAITS_THROUGH_SIGTERM = f"trap '' TERM; touch ready; {WAITS}"
IS_KILLED = "date +%s.%N >> starts; kill -KILL $$"
NOTES_ITS_START_AND_WAITS = f"date +%s.%N >> starts; {WAITS}"
FAILS = "date +%s.%N >> starts; echo the reason; exit 1"
KEEPS_FAILING = "echo 'error: GPU 0 is broken:'; echo '  see there'; exit 1"
IS_DONE = "date +%s.%N >> starts"


@contextmanager
def fleet_of(study: TinyStudy, worker: str, slots: list[Slot]) -> Iterator[Fleet]:
    """A started fleet whose workers run a shell script in place of `offkey worker`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "executable", stand_in(Path("worker.sh").absolute(), worker))
        fleet = Fleet(study.storage, study.stored, study.root, slots, Path("logs").absolute())
        fleet.start()
        try:
            yield fleet
        finally:
            fleet.drain()
            fleet.kill()


def workers_of_this_process() -> list[psutil.Process]:
    """The workers of this process that have not ended, by slot."""
    owners = {}
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, ValueError):  # a zombie is one; another child has no owner
            owners[child] = owner_of(child)
    return sorted(owners, key=lambda worker: owners[worker])


def waiting_workers(count: int) -> list[psutil.Process]:
    """Waits for `count` workers of this process and returns them."""
    until(lambda: len(workers_of_this_process()) == count)
    return workers_of_this_process()


def owner_of(worker: psutil.Process) -> str:
    command = worker.cmdline()
    return command[command.index("--owner") + 1]


def starts() -> list[float]:
    """The times at which workers were started (seconds)."""
    return [float(line) for line in Path("starts").read_text().splitlines()] if Path("starts").exists() else []


@pytest.mark.parametrize(
    ("slots", "devices", "visible"),
    [
        ([CPU, CPU], ["cpu", "cpu"], ["0,1,2", "0,1,2"]),  # as in the process that starts them
        ([Slot("cuda", "0"), Slot("cuda", "1"), Slot("cuda", "0")], ["cuda"] * 3, ["0", "1", "0"]),
        ([Slot("cuda", "GPU-5f3a")], ["cuda"], ["GPU-5f3a"]),
        ([Slot("cuda", "MIG-9c1e")] * 2, ["cuda"] * 2, ["MIG-9c1e"] * 2),
    ],
)
def test_each_worker_sees_its_own_device_alone_and_has_its_share_of_the_cores(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, slots: list[Slot], devices: list[str], visible: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with fleet_of(tiny_study(), WAITS, slots):
        workers = waiting_workers(len(slots))
        commands = [worker.cmdline() for worker in workers]
        surroundings = [worker.environ() for worker in workers]
    assert [command[command.index("--device") + 1] for command in commands] == devices
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in surroundings] == visible
    share = str(max(1, cores() // len(slots)))
    assert {variables[name] for variables in surroundings for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {share}


def test_workers_are_named_by_host_and_slot_and_no_two_names_are_equal(tiny_study: MakeStudy) -> None:
    with fleet_of(tiny_study(), WAITS, [CPU, CPU]):
        owners = [owner_of(worker) for worker in waiting_workers(2)]
    assert [owner.split(":")[:-1] for owner in owners] == [[socket.gethostname(), slot] for slot in ("0", "1")]
    assert len({owner.split(":")[-1] for owner in owners}) == 2


@on_postgresql
def test_the_storage_s_password_is_in_no_command_line(
    make_with_password: Callable[[], TinyStudy],
) -> None:
    with fleet_of(make_with_password(), WAITS, [CPU, CPU]):
        workers = waiting_workers(2)
        assert not [argument for worker in workers for argument in worker.cmdline() if "secret" in argument]
        assert all(":secret@" in worker.environ()["OFFKEY_STORAGE"] for worker in workers)


@pytest.fixture
def make_with_password(storage_url: str, tiny_study: MakeStudy) -> Callable[[], TinyStudy]:
    def make() -> TinyStudy:
        study = tiny_study()
        url = study.url.replace("postgres:@", "postgres:secret@")  # the server asks for none
        return replace(study, url=url, storage=StudyStorage(url))

    return make


class Clock:
    """A fleet's clock, which a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(fleets, "time", stopped)
    monkeypatch.setattr(trouble, "time", stopped)
    return stopped


def assert_replaced_after(pause: float, fleet: Fleet, clock: Clock) -> None:
    """Lets a worker die, and checks the pause until it is replaced."""
    before = len(starts())
    until(lambda: workers_of_this_process() == [])
    fleet.watch()
    clock.now += pause - 0.01
    assert fleet.watch(), "there is still something to come"
    assert workers_of_this_process() == []
    clock.now += 0.02
    fleet.watch()
    until(lambda: len(starts()) == before + 1)


def test_a_worker_that_is_killed_is_replaced_after_a_pause_that_doubles_up_to_a_minute(
    tiny_study: MakeStudy, clock: Clock
) -> None:
    with fleet_of(tiny_study(), IS_KILLED, [CPU]) as fleet:
        until(lambda: len(starts()) == 1)
        for pause in (0.5, 1, 2, 4, 8, 16, 32, 60, 60):
            assert_replaced_after(pause, fleet, clock)


def test_the_pauses_restart_when_a_worker_of_the_slot_has_ended_a_trial_and_not_when_another_has(
    tiny_study: MakeStudy, clock: Clock
) -> None:
    study = tiny_study()
    with fleet_of(study, NOTES_ITS_START_AND_WAITS, [CPU]) as fleet:
        until(lambda: len(starts()) == 1)
        for pause, who in ((0.5, None), (1, "somebody else"), (2, None), (0.5, "its own"), (1, None)):
            (worker,) = waiting_workers(1)
            if who is not None:
                owner = owner_of(worker) if who == "its own" else who
                hold = study.ledger.claim(owner, first={})
                assert hold is not None
                hold.finish("failed", values=None)
            worker.kill()
            assert_replaced_after(pause, fleet, clock)


def test_a_slot_whose_workers_keep_ending_has_a_note_until_one_lasts(tiny_study: MakeStudy, clock: Clock) -> None:
    study = tiny_study(trials=9)
    with fleet_of(study, KEEPS_FAILING, [CPU]) as fleet:
        for number, pause in enumerate((0.5, 1)):
            until(lambda: workers_of_this_process() == [])
            hold = study.ledger.claim("somebody else", first={})
            assert hold is not None
            hold.finish("failed", values=None)
            fleet.watch()
            assert fleet.note == (None if number == 0 else "worker 0 keeps ending: GPU 0 is broken: see there")
            clock.now += pause + 0.01
            fleet.watch()
        clock.now += 61
        assert fleet.note is None


def test_a_slot_whose_workers_keep_ending_does_not_keep_a_search_that_is_done(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(trouble, "_LONGEST_PAUSE", 0.001)
    study = tiny_study(trials=2)
    with fleet_of(study, FAILS, [CPU]) as fleet:
        for number in (1, 2):
            until(lambda: fleet.watch() and len(starts()) == number)  # noqa: B023
            hold = study.ledger.claim("somebody else", first={})
            assert hold is not None
            hold.finish("failed", values=None)
        until(lambda: not fleet.watch())
        assert len(starts()) == 4


def test_a_new_worker_obeys_a_stop_since_its_fleet_began(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    with fleet_of(study, WAITS, [CPU]) as fleet:
        (worker,) = waiting_workers(1)
        command = worker.cmdline()
        study.ledger.request_stop()
    stops_before = int(command[command.index("--stops-before") + 1])
    assert stops_before == fleet.stops_before == 0
    late = join(study.url, "tiny", stops_before=stops_before)
    late.run()
    assert late.stop.is_set()
    assert trials_of(study) == []


def test_a_worker_whose_process_stands_still_is_killed_and_replaced(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "_LEASES_OF_SILENCE", 0.01)
    monkeypatch.setattr(trouble, "_FIRST_PAUSE", 0.01)
    study = tiny_study()
    with fleet_of(study, NOTES_ITS_START_AND_WAITS, [CPU]) as fleet:
        (worker,) = waiting_workers(1)
        assert study.ledger.claim(owner_of(worker), first={}) is not None

        until(lambda: fleet.watch() and len(starts()) == 2)

        assert fleet.note is not None
        assert re.fullmatch(r"worker 0 was replaced: its process stood still for \d+ s", fleet.note)
    (row,) = study.rows()
    assert (row.state, row.failures) == ("waiting", 1)


def test_a_worker_that_does_not_leave_after_the_study_s_end_is_killed(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=1)
    monkeypatch.setattr(fleets, "_LEASES_OF_SILENCE", 1)
    study.storage.lease = 0.5
    with fleet_of(study, WAITS_THROUGH_SIGTERM, [CPU]) as fleet:
        hold = study.ledger.claim("somebody else", first={})
        assert hold is not None
        hold.finish("complete", values=[0.5])
        until(lambda: not fleet.watch())


def test_a_worker_that_the_kernel_killed_for_memory_tells_against_its_trial(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(killed_for_memory, "kills_for_memory", lambda: len(killed))
    monkeypatch.setattr(fleets, "_LEASES_OF_SILENCE", 1000)  # the stand-in has no pulse
    monkeypatch.setattr(trouble, "_FIRST_PAUSE", 0.01)
    study = tiny_study(trials=1)
    study.storage.lease = 0.2
    worker = None
    with fleet_of(study, WAITS, [CPU]) as fleet:
        for failures in range(1, MOST_FAILURES + 1):
            until(lambda: fleet.watch() and workers_of_this_process() not in ([], [worker]))  # noqa: B023
            (worker,) = waiting_workers(1)
            until(lambda: study.ledger.claim(owner_of(worker), first={}) is not None)  # noqa: B023
            killed.append(1)
            fleet.watch()  # a look between the kernel's count and the process's end
            worker.kill()
            until(lambda: fleet.watch() and study.rows()[0].failures == failures)  # noqa: B023
        assert study.rows()[0].reason.startswith(KILLED_FOR_MEMORY)
        assert fleet.watch(), "the slot goes on: its trials need too much"


def test_a_slot_in_which_different_trials_failed_retires_and_the_last_one_ends_the_fleet(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "_FIRST_PAUSE", 0.01)
    study = tiny_study(trials=9)
    study.ledger.claim("elsewhere:0:x", first={})  # others are at work
    with fleet_of(study, FAILS, [CPU]) as fleet:
        for process in "xyz":
            hold = study.ledger.claim(f"{socket.gethostname()}:0:{process}", first={})
            assert hold is not None
            hold.fail("RuntimeError: CUDA error")
        with pytest.raises(
            StudyError, match=r"(?s)All workers here have retired.*the reason.*offkey retry tiny --failed"
        ):
            until(lambda: not fleet.watch())
        assert fleet.note == "worker 0 has retired: the reason"
        assert len(starts()) == 1


@pytest.mark.parametrize(("worker", "most"), [(FAILS, 3), (IS_KILLED, 11)], ids=["end with an error", "are killed"])
def test_workers_that_keep_ending_end_the_fleet_with_the_last_lines_of_a_log(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, worker: str, most: int
) -> None:
    monkeypatch.setattr(trouble, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(trouble, "_LONGEST_PAUSE", 0.001)
    with (
        fleet_of(tiny_study(), worker, [CPU]) as fleet,
        pytest.raises(
            StudyError, match=r"Workers here keep ending and get no trial on. \S+/logs/worker-0.log says:\n"
        ) as error,
    ):
        until(lambda: not fleet.watch())
    assert len(starts()) == most
    assert ("the reason" in str(error.value)) == (worker is FAILS)


def test_a_worker_that_is_done_is_not_replaced(tiny_study: MakeStudy) -> None:
    with fleet_of(tiny_study(), IS_DONE, [CPU, CPU]) as fleet:
        until(lambda: not fleet.watch())
        assert len(starts()) == 2


def test_the_trial_of_a_worker_that_was_killed_from_outside_is_free_at_once_and_nothing_is_at_fault(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study()
    with fleet_of(study, WAITS, [CPU]) as fleet:
        (worker,) = waiting_workers(1)
        assert study.ledger.claim(owner_of(worker), first={}) is not None
        worker.kill()
        until(lambda: fleet.watch() and workers_of_this_process() not in ([], [worker]))
        again = study.ledger.claim("somebody else", first={})
    assert again is not None
    assert (again.number, again.attempts) == (0, 2)
    (row,) = study.rows()
    assert (row.failures, study.ledger.failing_slots()) == (0, [])


def test_a_worker_that_does_not_leave_when_it_is_asked_to_is_killed_in_the_end(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "_DRAIN_SECONDS", 0.3)
    with fleet_of(tiny_study(), WAITS_THROUGH_SIGTERM, [CPU]) as fleet:
        until(Path("ready").exists)
        fleet.stop()
        assert workers_of_this_process() == []
        assert not fleet.watch(), "none is replaced"


def test_a_worker_that_dies_after_a_stop_is_not_replaced(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    with fleet_of(study, IS_KILLED, [CPU]) as fleet:
        study.ledger.request_stop()
        until(lambda: not fleet.watch())
        assert workers_of_this_process() == []
        assert fleet.was_stopped()
    with fleet_of(study, WAITS, [CPU]) as later:
        assert not later.was_stopped()


def test_a_search_that_is_stopped_reports_it(tiny_study: MakeStudy, offkey: Callable[..., Ran]) -> None:
    study = tiny_study(trials=9, **BLOCKS)
    with offkey_process("search", "tiny", "--workers", "1", url=study.url, quick=Quick(pause=0.2)) as search:
        until(lambda: any(trial.intermediate_values for trial in trials_of(study)))
        assert offkey("stop", "tiny", "--storage", study.url).code == 0
        assert search.ended(within=60) == 0, search.stderr
    assert "Stopped by `offkey stop`: every trial was given back.\n" in search.stderr
    assert search.stderr.endswith("The same command continues the study.\n")
    assert len(trials_of(study)) < 9


def test_a_fleet_whose_logs_cannot_be_written_reports_it(tiny_study: MakeStudy) -> None:
    Path("logs").write_text("in the way")
    with (
        pytest.raises(StudyError, match=r"The log folder \S+/logs cannot be made"),
        fleet_of(tiny_study(), WAITS, [CPU]),
    ):
        pass


BLOCKS = {**QUICK, "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": 8, "threads": 1}}


def test_a_killed_worker_is_replaced_and_the_budget_is_met_exactly(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3, **BLOCKS)
    arguments = ("search", "tiny", "--workers", "2", "--json")
    with offkey_process(*arguments, url=study.url, quick=Quick(pause=0.2)) as search:
        until(lambda: any(trial.intermediate_values for trial in trials_of(study)))
        search.workers[0].kill()
        assert search.ended(within=60) == 0, search.stderr
    document = json.loads(search.stdout)
    assert document["trials"] == {"complete": 3, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    assert [(t.number, t.state) for t in trials_of(study)] == [(n, TrialState.COMPLETE) for n in range(3)]
    assert all(sorted(t.intermediate_values) == list(range(1, 9)) for t in trials_of(study))


def test_workers_that_cannot_work_end_the_search_with_their_reason(
    tiny_study: MakeStudy, offkey: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    monkeypatch.setattr(trouble, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sys, "executable", stand_in(Path("worker.sh").absolute(), FAILS))
    ran = offkey("search", "tiny", "--workers", "1", "--storage", study.url)
    assert ran.code == 1
    assert "error: Workers here keep ending and get no trial on" in ran.stderr
    assert "the reason" in ran.stderr.partition("worker-0.log says:")[2]
    assert "Traceback" not in ran.stderr


def test_a_worker_that_cannot_write_checkpoints_names_the_place(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    Path("in-the-way").write_text("a file where a folder should be")
    with offkey_process("worker", "tiny", "--artifacts", "in-the-way", url=study.url) as worker:
        assert worker.ended(within=30) == 1
    assert "error: Checkpoints in in-the-way cannot be written: " in worker.stderr
    assert "Traceback" not in worker.stderr


@on_postgresql
def test_a_search_outlives_its_database_and_reports_the_outage_once(
    tiny_study: MakeStudy, postgres: PostgresServer
) -> None:
    study = tiny_study(trials=4, **BLOCKS)
    arguments = ("search", "tiny", "--workers", "1", "--json")
    with offkey_process(*arguments, url=study.url, quick=Quick(pause=0.15, lease=5, longest_pause=0.5)) as search:
        until(lambda: any(trial.intermediate_values for trial in trials_of(study)))
        postgres.stop()
        try:
            until(lambda: "is away" in search.stderr)
            with pytest.raises(AssertionError, match="still there"):
                search.ended(within=1)
        finally:
            postgres.start()
        assert search.ended(within=60) == 0, search.stderr
    assert re.findall(r"\S+ is away \(.*\): workers wait for it", search.stderr) != []
    assert search.stderr.count("is away") == 1
    assert "Traceback" not in search.stderr
    assert json.loads(search.stdout)["trials"]["complete"] == 4
    assert [(t.number, t.state) for t in trials_of(study)] == [(n, TrialState.COMPLETE) for n in range(4)]
    assert all(sorted(t.intermediate_values) == list(range(1, 9)) for t in trials_of(study))


@on_postgresql
def test_ctrl_c_while_the_database_is_away_ends_the_search(tiny_study: MakeStudy, postgres: PostgresServer) -> None:
    study = tiny_study(trials=4, **BLOCKS)
    quick = Quick(pause=0.15, lease=5, longest_pause=0.5)
    with offkey_process("search", "tiny", "--workers", "1", url=study.url, quick=quick) as search:
        until(lambda: any(trial.intermediate_values for trial in trials_of(study)))
        postgres.stop()
        try:
            until(lambda: "is away" in search.stderr)
            search.send(signal.SIGINT)
            assert search.ended(within=40) == 1
        finally:
            postgres.start()
    assert "is away: `offkey status tiny` shows the study later." in search.stderr
    assert "Traceback" not in search.stderr


def test_on_a_terminal_a_search_shows_its_workers_with_rate_device_and_memory(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2, **BLOCKS)
    terminal = Terminal(columns=80)
    quick = Quick(pause=0.4, lease=0.9)
    with offkey_process("search", "tiny", "--workers", "2", url=study.url, quick=quick, terminal=terminal) as search:
        assert search.ended(within=60) == 0
    assert re.search(r"trial +epoch +AUC +batches/s +device +precision +memory +lease +worker", terminal.shown)
    host = re.escape(socket.gethostname()[:8])
    assert re.search(rf"\d +\d +0\.\d{{3}} +[\d.]+ +cpu +b?float\d+ +[\d.]+ [MG]B +\d+ s +{host}", terminal.shown)
    assert re.search(r"tiny +[━╸╺]+ +[012]/2 trials +best AUC", terminal.shown)


def test_off_a_terminal_a_search_writes_a_line_whenever_trials_ended(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2, **BLOCKS)
    with offkey_process("search", "tiny", "--workers", "1", url=study.url, quick=Quick(pause=0.2)) as search:
        assert search.ended(within=60) == 0
    lines = search.stderr.splitlines()
    assert re.fullmatch(r"1 worker; logs in .*/offkey-logs/tiny", lines[0])
    assert re.fullmatch(r"tiny: 1/2 trials, best AUC 0\.\d{3} \(trial 0\)", lines[1])
    assert "batches/s" not in search.stderr
    assert "\x1b" not in search.stderr


def test_a_search_is_refused_on_other_clips_and_on_a_read_only_storage_before_it_starts_a_worker(
    tiny_study: MakeStudy, tmp_path: Path, offkey: Callable[..., Ran]
) -> None:
    study = tiny_study(trials=1)
    make_corpus(tmp_path / "others", train_clips=6, test_clips=6, seconds=1.0, seed=1)
    Path("tiny.yaml").write_text(to_yaml(dict(study.stored.tree)))
    study.storage.engine.dispose()

    others = offkey("search", "tiny.yaml", "--storage", study.url, "--set", f"corpus.root={tmp_path / 'others'}")
    read_only = offkey("search", "tiny.yaml", "--trials", "2", "--storage", "sqlite:///file:tiny.db?mode=ro&uri=true")

    assert (others.code, read_only.code) == (1, 1)
    assert "data.fingerprint: stored" in others.stderr
    assert "attempt to write a readonly database" in read_only.stderr
    assert trials_of(study) == []
    assert not Path("offkey-logs").exists()
