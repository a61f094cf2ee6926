"""Workers behind a real PgBouncer in transaction mode: each transaction may use any of the server's few connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import pytest
from sqlalchemy import create_engine, make_url, text

from search.storage import database
from search.storage.study_storage import StudyStorage
from tests.search.storage.test_outages import assert_as_if_undisturbed, attempts, away
from tests.support.offkey_process import FINISHED_AN_EPOCH, OffkeyProcess, Quick, offkey_process, until
from tests.support.servers import PgBouncer

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.servers import PostgresServer
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]
    Offkey = Callable[..., Ran]

pytestmark = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)

LEASE = 1.5  # seconds


@pytest.fixture
def make(tiny_study: MakeStudy) -> MakeStudy:
    def study(*, trials: int, epochs: int, study: str = "tiny") -> TinyStudy:
        training = {"learning_rate": 0.01, "batch_size": 16, "epochs": epochs, "threads": 1}
        return tiny_study(trials=trials, study=study, training=training)

    return study


@pytest.fixture
def pooler(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """A pooler with fewer connections than there are workers, which soon reports that the server is away."""
    with PgBouncer(postgres, connections=2, query_wait_timeout=1, server_login_retry=1) as pooler:
        yield pooler


@contextmanager
def workers(study: TinyStudy, pooler: PgBouncer, *, count: int, pause: float) -> Iterator[list[OffkeyProcess]]:
    quick = Quick(pause=pause, lease=LEASE, longest_pause=LEASE / 6)
    with ExitStack() as stack:
        yield [
            stack.enter_context(offkey_process("worker", "tiny", url=pooler.url(study.url), quick=quick))
            for _ in range(count)
        ]


@contextmanager
def killed(pooler: PgBouncer) -> Iterator[None]:
    pooler.kill()
    try:
        yield
    finally:
        pooler.start()


def test_more_workers_than_the_server_has_connections_meet_the_budget_exactly(
    make: MakeStudy, pooler: PgBouncer
) -> None:
    study = make(trials=8, epochs=3)
    with workers(study, pooler, count=4, pause=0.05) as at_work:
        assert [worker.ended(within=60) for worker in at_work] == [0] * 4
    assert_as_if_undisturbed(study, make)


@pytest.mark.parametrize("goes_away", ["pooler", "server"])
def test_a_killed_pooler_and_a_server_that_crashes_behind_it_lose_nothing(
    make: MakeStudy, postgres: PostgresServer, pooler: PgBouncer, goes_away: Literal["pooler", "server"]
) -> None:
    study = make(trials=4, epochs=10)
    with workers(study, pooler, count=3, pause=0.1) as at_work:
        until(lambda: sum(worker.stderr.count(FINISHED_AN_EPOCH) for worker in at_work) >= 8)
        with killed(pooler) if goes_away == "pooler" else away(postgres):
            until(lambda: any("is away" in worker.stderr for worker in at_work))
        study.storage.engine.dispose()
        assert [worker.ended(within=60) for worker in at_work] == [0, 0, 0]
    assert_as_if_undisturbed(study, make)
    assert set(attempts(study)) == {1}


def test_a_worker_that_is_suspended_inside_a_transaction_does_not_block_its_connection(
    storage_url: str, postgres: PostgresServer
) -> None:
    with PgBouncer(postgres, connections=1) as pooler:
        url = database.parse_url(pooler.url(storage_url))
        # The first makes the server's connection, the second is the one that stops on it.
        other, stopped = (database.engine_of_one(url, lease=lease) for lease in (600.0, 0.6))
        for engine in (other, stopped, other):
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        with stopped.connect() as inside:
            inside.execute(text("SELECT 1"))
            began = time.monotonic()
            with other.connect() as connection:
                connection.execute(text("SELECT 1"))
            assert time.monotonic() - began < 5
            inside.invalidate()
        other.dispose()
        stopped.dispose()


def prepared_statements(storage: StudyStorage) -> int:
    for _ in range(10):
        storage.get_all_studies()
    counted = text("SELECT count(*) FROM pg_prepared_statements")
    return storage.transact(lambda session: int(session.execute(counted).scalar_one()))


def test_a_worker_leaves_no_settings_on_a_connection_that_others_use(
    storage_url: str, postgres: PostgresServer
) -> None:
    with PgBouncer(postgres, connections=1) as pooler:
        storage = StudyStorage(pooler.url(storage_url), lease=LEASE)
        assert prepared_statements(storage) == 0
        storage.engine.dispose()
        visitor = create_engine(database.parse_url(pooler.url(storage_url)))
        with visitor.connect() as connection:
            limit = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
        visitor.dispose()
    assert limit == "0"


def test_statements_are_prepared_on_a_connection_without_a_pooler(storage_url: str) -> None:
    assert prepared_statements(StudyStorage(storage_url)) > 0


@pytest.mark.parametrize(
    ("user", "name", "message"),
    [
        ("postgres", "nowhere", 'database "nowhere" does not exist'),
        ("nobody", "template1", "authentication failed"),
    ],
)
def test_a_command_reports_at_once_what_the_pooler_refuses(
    offkey: Offkey, pooler: PgBouncer, storage_url: str, user: str, name: str, message: str
) -> None:
    url = make_url(pooler.url(storage_url)).set(username=user, database=name).render_as_string(hide_password=False)
    ran = offkey("worker", "tiny", "--storage", url)
    assert (ran.code, ran.stdout) == (1, "")
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_command_reports_at_once_that_the_pooler_knows_no_such_database(
    offkey: Offkey, postgres: PostgresServer, storage_url: str
) -> None:
    with PgBouncer(postgres, connections=1, only="another") as pooler:
        ran = offkey("worker", "tiny", "--storage", pooler.url(storage_url))
    assert (ran.code, ran.stdout) == (1, "")
    assert f"no such database: {make_url(storage_url).database}" in ran.stderr
