"""Databases that go away and come back, on real servers: workers wait, go on training, and lose and double nothing."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from optuna.trial import TrialState
from sqlalchemy import make_url

from search.storage import database
from search.storage.study_storage import StudyStorage
from tests.support.faulty_worker import MOMENTS
from tests.support.offkey_process import FINISHED_AN_EPOCH, OffkeyProcess, Quick, offkey_process, until
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.servers import PostgresServer
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]
    Offkey = Callable[..., Ran]

on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)

#: Two seconds of training for two workers, over which an outage may fall.
TRIALS, EPOCHS, PAUSE = 4, 10, 0.1
LEASE = 1.5  # seconds

MODEL = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": {"low": 2, "high": 8}}


@pytest.fixture
def make(tiny_study: MakeStudy) -> MakeStudy:
    def study(*, trials: int = TRIALS, epochs: int = EPOCHS, study: str = "tiny") -> TinyStudy:
        return tiny_study(
            trials=trials,
            study=study,
            model=MODEL,
            training={"learning_rate": 0.01, "batch_size": 16, "epochs": epochs, "threads": 1},
            baseline={"h_dim": 16, "z_dim": 4},
        )

    return study


@contextmanager
def workers(study: TinyStudy, *, count: int = 2, pause: float = PAUSE) -> Iterator[list[OffkeyProcess]]:
    quick = Quick(pause=pause, lease=LEASE, longest_pause=LEASE / 6)
    with ExitStack() as stack:
        yield [
            stack.enter_context(offkey_process("worker", study.stored.name, url=study.url, quick=quick))
            for _ in range(count)
        ]


@contextmanager
def away(server: PostgresServer) -> Iterator[None]:
    """Stops the server, as a crash would, until the context ends."""
    server.stop()
    try:
        yield
    finally:
        server.start()


def epochs_reported(study: TinyStudy) -> int:
    return sum(len(trial.intermediate_values) for trial in trials_of(study))


def attempts(study: TinyStudy) -> list[int]:
    return [row.attempts for row in study.rows()]


Numbers = list[tuple[dict[str, Any], dict[int, float], float | None]]

#: Model, budget and epochs → the numbers of a study that one worker ran undisturbed.
_UNDISTURBED: dict[tuple[str, int, int], Numbers] = {}


def numbers_of(study: TinyStudy) -> Numbers:
    return [(trial.params, trial.intermediate_values, trial.value) for trial in trials_of(study)]


def assert_as_if_undisturbed(study: TinyStudy, make: MakeStudy) -> None:
    """Asserts an exact budget and complete reports, with the numbers of a study that one worker ran undisturbed."""
    budget, epochs = study.stored.budget, study.stored.study().max_epochs
    key = json.dumps(study.stored.tree["model"]), budget, epochs
    if key not in _UNDISTURBED:
        twin = make(trials=budget, epochs=epochs, study="undisturbed")
        twin.worker(quick=True).run()
        _UNDISTURBED[key] = numbers_of(twin)
    assert [(t.number, t.state) for t in trials_of(study)] == [(n, TrialState.COMPLETE) for n in range(budget)]
    assert numbers_of(study) == _UNDISTURBED[key]


@on_postgresql
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_server_loses_nothing(
    make: MakeStudy, postgres: PostgresServer, mode: Literal["fast", "immediate"]
) -> None:
    study = make()
    with workers(study) as at_work:
        for epochs in (5, 20):
            until(lambda: epochs_reported(study) >= epochs)  # noqa: B023
            postgres.restart(mode)
        assert [worker.ended(within=60) for worker in at_work] == [0, 0]
    assert_as_if_undisturbed(study, make)
    assert set(attempts(study)) == {1}


@on_postgresql
def test_while_a_server_is_gone_for_longer_than_the_lease_training_goes_on_and_reports_arrive_later(
    make: MakeStudy, postgres: PostgresServer
) -> None:
    study = make(trials=2, epochs=40)
    with workers(study) as at_work:
        until(lambda: len(trials_of(study)) == 2 and epochs_reported(study) >= 4)
        with away(postgres):
            for worker in at_work:
                until(lambda: worker.stderr.count(FINISHED_AN_EPOCH) >= 35)  # noqa: B023
        assert [worker.ended(within=60) for worker in at_work] == [0, 0]
    assert_as_if_undisturbed(study, make)
    assert set(attempts(study)) == {1}, "an outage is not the trial's fault"


@on_postgresql
def test_the_first_write_after_an_outage_brings_every_epoch_that_was_finished_in_it(
    make: MakeStudy, postgres: PostgresServer
) -> None:
    study = make(trials=1, epochs=9)  # so few that each is reported
    with workers(study, count=1, pause=0.3) as (worker,):
        until(lambda: epochs_reported(study) >= 2)
        reported = epochs_reported(study)
        with away(postgres):
            began = worker.stderr.count(FINISHED_AN_EPOCH)
            until(lambda: worker.stderr.count(FINISHED_AN_EPOCH) >= began + 4)
            kept = worker.stderr.count(FINISHED_AN_EPOCH) - began
        counts = [reported]
        while counts[-1] < 9:
            counts.append(epochs_reported(study))
        assert worker.ended(within=30) == 0
    assert max(after - before for before, after in pairwise(counts)) >= kept


@on_postgresql
def test_a_worker_killed_during_an_outage_leaves_a_trial_that_goes_on_where_its_curve_ends(
    make: MakeStudy, postgres: PostgresServer
) -> None:
    study = make(trials=1, epochs=20)
    with workers(study, count=1) as (worker,):
        until(lambda: epochs_reported(study) >= 2)
        with away(postgres):
            began = worker.stderr.count(FINISHED_AN_EPOCH)
            until(lambda: worker.stderr.count(FINISHED_AN_EPOCH) >= began + 4)
            worker.process.kill()
            worker.process.join()
    study.storage.engine.dispose()
    study.worker(lease=LEASE, quick=True).run()
    assert_as_if_undisturbed(study, make)


@on_postgresql
def test_a_server_that_crashes_repeatedly_under_many_short_trials_loses_and_doubles_nothing(
    make: MakeStudy, postgres: PostgresServer
) -> None:
    study = make(trials=20, epochs=2)
    with workers(study, pause=0.02) as at_work:
        for done in (2, 8, 14):
            until(lambda: sum(t.state.is_finished() for t in trials_of(study)) >= done)  # noqa: B023
            postgres.restart("immediate")
        assert [worker.ended(within=60) for worker in at_work] == [0, 0]
    assert_complete(study)


def assert_complete(study: TinyStudy) -> None:
    trials = trials_of(study)
    assert [(t.number, t.state) for t in trials] == [(n, TrialState.COMPLETE) for n in range(study.stored.budget)]
    epochs = list(range(1, study.stored.study().max_epochs + 1))
    assert all(sorted(t.intermediate_values) == epochs and t.value == t.intermediate_values[epochs[-1]] for t in trials)


@on_postgresql
@pytest.mark.parametrize(
    "moment", [moment for moment in MOMENTS if moment != "inside the checkpoint" and "drain" not in moment]
)
def test_connections_that_the_server_ends_at_any_moment_are_opened_again(make: MakeStudy, moment: str) -> None:
    study = make(trials=2, epochs=3)
    with offkey_process("worker", "tiny", url=study.url, quick=Quick(moment=moment)) as worker:
        assert worker.ended(within=30) == 0
        assert "trial 1: complete" in worker.stderr
    assert_as_if_undisturbed(study, make)
    assert set(attempts(study)) == {1}


@on_postgresql
def test_a_worker_that_starts_while_its_server_is_down_waits_for_it(make: MakeStudy, postgres: PostgresServer) -> None:
    study = make(trials=2, epochs=2)
    with ExitStack() as stack:
        with away(postgres):
            worker = stack.enter_context(offkey_process("worker", "tiny", url=study.url))
            until(lambda: "is away" in worker.stderr)
        assert worker.ended(within=30) == 0
    assert_as_if_undisturbed(study, make)


@on_postgresql
@pytest.mark.parametrize("command", ["status", "export"])
def test_a_command_reports_at_once_that_its_server_does_not_answer(
    make: MakeStudy, postgres: PostgresServer, offkey: Offkey, command: str
) -> None:
    study = make(trials=1)
    url = study.url.replace("postgres:@", "postgres:secret@")
    with away(postgres):
        began = time.monotonic()
        ran = offkey(command, "tiny", "--storage", url)
        assert time.monotonic() - began < 3
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: The study storage postgresql+psycopg://postgres:***@/")
    assert "cannot be used: " in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "secret" not in ran.stderr


@on_postgresql
def test_a_search_that_starts_while_its_server_restarts_waits_for_it(make: MakeStudy, postgres: PostgresServer) -> None:
    study = make(trials=2, epochs=2)
    with ExitStack() as stack:
        with away(postgres):
            search = stack.enter_context(offkey_process("search", "tiny", "--workers", "1", url=study.url))
            until(lambda: "is away" in search.stderr)
        assert search.ended(within=60) == 0, search.stderr
    assert search.stderr.count("is away") == 1
    assert_as_if_undisturbed(study, make)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@localhost:1/offkey", "Connection refused"),
        ("postgresql://me:secret@nowhere.invalid/offkey", "nowhere.invalid"),
    ],
)
@pytest.mark.parametrize("command", ["status", "search"])
def test_a_command_reports_that_its_url_leads_nowhere(
    offkey: Offkey, corpus_root: Path, command: str, url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.storage.outages._START_PATIENCE", 0.5)
    ran = offkey(command, "demo", "--storage", url, *(("--set", f"corpus.root={corpus_root}") * (command == "search")))
    assert ran.code == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "secret" not in ran.stderr


@on_postgresql
def test_a_command_reports_that_its_password_is_wrong(
    offkey: Offkey, postgres: PostgresServer, storage_url: str
) -> None:
    guest = f"guest_{time.monotonic_ns()}"
    postgres.execute(f"CREATE ROLE {guest} LOGIN PASSWORD 'right'")
    with asking_for_the_password_of(guest, postgres):
        url = make_url(storage_url).set(username=guest, password="secret").render_as_string(hide_password=False)
        ran = offkey("status", "tiny", "--storage", url)
    assert (ran.code, ran.stdout) == (1, "")
    assert f'password authentication failed for user "{guest}"' in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "secret" not in ran.stderr


@contextmanager
def asking_for_the_password_of(role: str, server: PostgresServer) -> Iterator[None]:
    ((rules_file,),) = server.execute("SHOW hba_file")
    file = Path(str(rules_file))
    rules = file.read_text()
    file.write_text(f"local all {role} scram-sha-256\n{rules}")
    server.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        file.write_text(rules)
        server.execute("SELECT pg_reload_conf()")


def test_a_worker_waits_for_an_sqlite_file_that_is_locked_for_longer_than_one_try(
    make: MakeStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = make(trials=3, epochs=3)
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    worker = study.worker(quick=True)
    with closing(sqlite3.connect(study.url.removeprefix("sqlite:///"), isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        at_work = threading.Thread(target=worker.run, daemon=True)
        at_work.start()
        until(lambda: "is away (database is locked)" in caplog.text)
        at_work.join(timeout=10 * database._BUSY_SECONDS)
        assert at_work.is_alive()
        somebody.execute("COMMIT")
        at_work.join(timeout=30)
        assert not at_work.is_alive()
    assert_as_if_undisturbed(study, make)


def test_an_sqlite_file_that_is_deleted_under_a_worker_is_an_error_that_names_it(make: MakeStudy) -> None:
    study = make(trials=1, epochs=60)
    with workers(study, count=1) as (worker,):
        until(lambda: epochs_reported(study) >= 1)
        study.storage.engine.dispose()
        for file in Path().glob("tiny.db*"):
            file.unlink()
        assert worker.ended(within=30) == 1
        assert worker.stderr.splitlines()[-1].startswith("error: ")
        assert "tiny.db" in worker.stderr
        assert "Traceback" not in worker.stderr


def test_an_sqlite_file_whose_folder_is_away_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    folder, elsewhere = Path("mounted"), Path("unmounted")
    folder.mkdir()
    storage = StudyStorage("sqlite:///mounted/tiny.db", create=True, patience=60.0)
    folder.rename(elsewhere)
    asking = threading.Thread(target=storage.get_all_studies, daemon=True)
    asking.start()
    until(lambda: "is away (unable to open database file: its folder is away)" in caplog.text)
    assert asking.is_alive()

    elsewhere.rename(folder)

    asking.join(timeout=30)
    assert not asking.is_alive()
    assert sorted(path.name for path in folder.glob("*.db")) == ["tiny.db"]
