"""The database behind a study: its URLs, the migrations of its tables, and when it counts as away."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alembic.op
import optuna
import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, make_url, text
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from search.errors import NoStorageError, StorageError
from search.storage import database
from search.storage.counted_evaluations import TestEvaluationRow
from search.storage.database import default_url, is_away, migrate, parse_url, shown, storage_errors
from search.storage.study_storage import StudyStorage
from search.storage.tables import Base
from tests.support.house import HOUSE
from tests.support.servers import PostgresServer

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

on_both_databases = pytest.mark.parametrize("empty_url", ["sqlite", "postgresql"], indirect=True)

# The tables that Offkey created before they had a version, in SQLite's dialect.
IN_POSTGRESQLS_WORDS = {"BLOB": "BYTEA", "DOUBLE": "DOUBLE PRECISION"}
VERSION_1 = (
    """
    CREATE TABLE offkey_studies (
        study_id INTEGER NOT NULL, uid VARCHAR(32) NOT NULL, document TEXT NOT NULL, identity TEXT NOT NULL,
        truth TEXT NOT NULL, budget INTEGER NOT NULL, handed_out INTEGER NOT NULL, hours DOUBLE,
        active_seconds DOUBLE NOT NULL, last_seen DOUBLE, PRIMARY KEY (study_id)
    )
    """,
    """
    CREATE TABLE offkey_trials (
        trial_id INTEGER NOT NULL, study_id INTEGER NOT NULL, number INTEGER NOT NULL, state VARCHAR(16) NOT NULL,
        owner VARCHAR(256), lease_until DOUBLE, token INTEGER NOT NULL, attempts INTEGER NOT NULL, reason TEXT,
        scores BLOB, PRIMARY KEY (trial_id)
    )
    """,
    "CREATE INDEX ix_offkey_trials_study_id ON offkey_trials (study_id)",
    "INSERT INTO offkey_studies VALUES (1, 'abc', '{}', '{}', '{}', 3, 2, NULL, 12.5, 1700000000.25)",
    "INSERT INTO offkey_trials VALUES (1, 1, 0, 'complete', 'host:1', NULL, 1, 1, NULL, NULL)",
    "INSERT INTO offkey_trials VALUES (2, 1, 1, 'failed', NULL, NULL, 2, 3, 'the loss diverged', NULL)",
)


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    """An engine over an empty database, as a worker has one."""
    url = parse_url(empty_url)
    engine = database.engine_of_one(url, lease=30.0)
    yield engine
    engine.dispose()


def head() -> str | None:
    return ScriptDirectory(database._MIGRATIONS).get_current_head()


def version_of(connection: Connection, table: str) -> str:
    return str(connection.execute(text(f"SELECT version_num FROM {table}")).scalar_one())


def tables_of(engine: Engine) -> set[str]:
    return {name for name in inspect(engine).get_table_names() if name.startswith("offkey_")}


def make_version_1(engine: Engine) -> None:
    words = IN_POSTGRESQLS_WORDS if engine.dialect.name == "postgresql" else {}
    with engine.begin() as connection:
        for statement in VERSION_1:
            for word, other in words.items():
                statement = statement.replace(word, other)
            connection.execute(text(statement))


def downgrade(engine: Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", database._MIGRATIONS)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def assert_tables_are_the_ledgers(engine: Engine) -> None:
    def ours(name: str | None, kind: str, parents: Any) -> bool:
        return kind != "table" or (str(name).startswith("offkey_") and name != database.VERSION_TABLE)

    with engine.connect() as connection:
        options = {"include_name": ours, "compare_type": True, "version_table": database.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host:5433/studies",
        "postgres://me:secret@host:5433/studies",
        "postgresql+psycopg://me:secret@host:5433/studies",
    ],
)
def test_a_postgresql_url_may_be_written_in_the_usual_ways(url: str) -> None:
    parsed = parse_url(url)
    assert parsed.render_as_string(hide_password=False) == "postgresql+psycopg://me:secret@host:5433/studies"


@pytest.mark.parametrize("url", ["sqlite:///studies.db", "sqlite:////srv/studies.db", "sqlite:///file:a.db?uri=true"])
def test_an_sqlite_url_stays_as_it_is(url: str) -> None:
    assert parse_url(url) == make_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:secret@host/db", r"must be sqlite:///FILE or postgresql://…, but got mysql"),
        ("mysql+pymysql://me:secret@host/db", r"must be sqlite:///FILE or postgresql://…, but got mysql"),
        ("oracle://me:secret@host/db", r"but got oracle"),
        ("sqlite://", "in memory cannot be shared"),
        ("sqlite:///:memory:", "in memory cannot be shared"),
        ("not a url", "not a database URL"),
        ("studies.db", "not a database URL; sqlite:///offkey.db is one"),
    ],
)
def test_a_url_that_no_study_can_be_stored_under_is_refused(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as raised:
        StudyStorage(url, create=True)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///no/such/folder/study.db", "unable to open database file"),
        ("sqlite:////proc/study.db", "unable to open database file"),
        ("postgresql://me:secret@localhost:1/studies", "Connection refused"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as raised:
        StudyStorage(url, create=True)
    assert "secret" not in str(raised.value)


def test_a_password_is_not_shown() -> None:
    url = "postgresql://me:secret@host/db"
    assert shown(parse_url(url)) == "postgresql+psycopg://me:***@host/db"
    with pytest.raises(StorageError, match="host/db") as raised, storage_errors(url):
        raise optuna.exceptions.StorageInternalError("down")
    assert "secret" not in str(raised.value)


def test_a_storage_does_not_show_its_password(postgres_with_password: str) -> None:
    storage = StudyStorage(postgres_with_password, create=True)
    assert "secret" in postgres_with_password
    assert "secret" not in storage.shown_url


@pytest.fixture
def postgres_with_password(request: pytest.FixtureRequest) -> str:
    """The URL of a real server, with a password that the server does not require."""
    url = request.getfixturevalue("postgres").new_database()
    return make_url(url).set(password="secret").render_as_string(hide_password=False)


def test_the_default_is_a_file_in_the_working_directory_or_the_environments_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert default_url() == "sqlite:///offkey.db"
    monkeypatch.setenv("OFFKEY_STORAGE", "postgresql://host/studies")
    assert default_url() == "postgresql://host/studies"


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("groceries: bread, milk" * 100)
    with pytest.raises(StorageError, match="file is not a database"):
        StudyStorage(f"sqlite:///{file}", create=True)
    assert file.read_text().startswith("groceries")


def test_reading_creates_no_storage(tmp_path: Path) -> None:
    with pytest.raises(NoStorageError, match="There is no study storage"):
        StudyStorage(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_sqlite_writes_ahead_so_that_readers_and_the_writer_do_not_wait(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1


@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("lease", "limit"), [(30.0, "5s"), (0.9, "150ms"), (9.03, "1505ms")])
def test_postgresql_rolls_back_a_transaction_that_is_idle_for_a_sixth_of_a_lease(
    empty_url: str, lease: float, limit: str
) -> None:
    engine = database.engine_of_one(parse_url(empty_url), lease=lease)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one() == limit
        connection.rollback()
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one() == limit
    engine.dispose()


@on_both_databases
def test_an_empty_database_gets_our_newest_tables_and_version_beside_optunas(empty_url: str) -> None:
    engine = StudyStorage(empty_url, create=True).engine
    with engine.connect() as connection:
        assert version_of(connection, "offkey_version") == head()
        assert version_of(connection, "alembic_version").startswith("v"), "Optuna's own"
    own = {"offkey_studies", TestEvaluationRow.__tablename__, "offkey_retried", "offkey_slots", "offkey_trials"}
    own |= {"offkey_version"}
    assert tables_of(engine) == own


@on_both_databases
def test_the_migrations_end_with_the_tables_that_the_ledger_describes(engine: Engine) -> None:
    migrate(engine)
    assert_tables_are_the_ledgers(engine)


@on_both_databases
def test_a_database_without_a_version_is_upgraded_and_keeps_its_rows(engine: Engine) -> None:
    make_version_1(engine)

    migrate(engine)

    assert_tables_are_the_ledgers(engine)
    with engine.connect() as connection:
        assert version_of(connection, "offkey_version") == head()
        studies = connection.execute(
            text("SELECT uid, budget, handed_out, active_seconds, last_seen, artifacts FROM offkey_studies")
        ).all()
        trials = connection.execute(
            text("SELECT number, state, owner, token, attempts, reason, checkpoint, settings FROM offkey_trials")
        ).all()
    assert [tuple(row) for row in studies] == [("abc", 3, 2, 12.5, 1700000000.25, None)]
    assert sorted(tuple(row) for row in trials) == [
        (0, "complete", "host:1", 1, 1, None, None, None),
        (1, "failed", None, 2, 3, "the loss diverged", None, None),
    ]


@on_both_databases
@pytest.mark.parametrize(("back_to", "left"), [("1", {"offkey_studies", "offkey_trials"}), ("base", set())])
def test_a_migration_can_be_undone_and_repeated(engine: Engine, back_to: str, left: set[str]) -> None:
    migrate(engine)
    downgrade(engine, back_to)
    assert tables_of(engine) - {"offkey_version"} == left
    migrate(engine)
    assert_tables_are_the_ledgers(engine)


@on_both_databases
def test_a_migration_that_fails_halfway_leaves_the_tables_as_they_were(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version_1(engine)
    columns = inspect(engine).get_columns("offkey_trials")
    with monkeypatch.context() as patched:
        patched.setattr(alembic.op, "create_index", _power_cut)
        with pytest.raises(InterruptedError):
            migrate(engine)
    assert [c["name"] for c in inspect(engine).get_columns("offkey_trials")] == [c["name"] for c in columns]
    assert tables_of(engine) == {"offkey_studies", "offkey_trials"}
    migrate(engine)
    assert_tables_are_the_ledgers(engine)


def _power_cut(*args: object, **kwargs: object) -> None:
    raise InterruptedError


@on_both_databases
def test_a_migrated_database_is_left_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(engine)
    monkeypatch.setattr(command, "upgrade", _power_cut)
    migrate(engine)


@on_both_databases
def test_a_database_of_a_newer_version_is_refused_and_left_alone(empty_url: str) -> None:
    engine = StudyStorage(empty_url, create=True).engine
    with engine.begin() as connection:
        connection.execute(text("UPDATE offkey_version SET version_num = '99'"))

    with pytest.raises(StorageError, match=r"was made by a newer Offkey \(its tables are of version 99\): update"):
        StudyStorage(empty_url)

    with engine.connect() as connection:
        assert version_of(connection, "offkey_version") == "99"


def _open_together(gate: Any, url: str) -> None:
    gate.wait()
    StudyStorage(url, create=True)


@contextmanager
def _openers(url: str, *, processes: int) -> Iterator[list[Any]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.faulty_worker"])  # one server for all tests that need one
    gate = context.Barrier(processes)
    openers = [context.Process(target=_open_together, args=(gate, url)) for _ in range(processes)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(HOUSE))  # of the process that they are forked from
        for opener in openers:
            opener.start()
    try:
        yield openers
    finally:
        for opener in openers:
            opener.kill()
            opener.join()


@on_both_databases
def test_any_number_of_processes_may_create_a_storage_at_the_same_moment(empty_url: str) -> None:
    with _openers(empty_url, processes=4) as openers:
        for opener in openers:
            opener.join(timeout=50)
        assert [opener.exitcode for opener in openers] == [0] * 4
    assert_tables_are_the_ledgers(StudyStorage(empty_url).engine)


def _of_driver(error: Exception, kind: Any = OperationalError) -> Exception:
    wrapped: Exception = kind("SELECT 1", None, error)
    return wrapped


def _cut_off() -> Exception:
    return OperationalError("SELECT 1", None, psycopg.OperationalError("whatever"), connection_invalidated=True)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("no answer", _of_driver(psycopg.OperationalError("connection refused"))),
        ("a connection that was cut off", _cut_off()),
        ("57P01: the administrator ends it", _of_driver(psycopg.errors.AdminShutdown("stop"))),
        ("57P02: it crashed", _of_driver(psycopg.errors.CrashShutdown("crash"))),
        ("57P03: it is starting", _of_driver(psycopg.errors.CannotConnectNow("starting"))),
        ("25P03: idle for too long", _of_driver(psycopg.errors.IdleInTransactionSessionTimeout("idle"))),
        ("57P05: idle for too long", _of_driver(psycopg.errors.IdleSessionTimeout("idle"))),
        ("57014: the statement took too long", _of_driver(psycopg.errors.QueryCanceled("timeout"))),
        ("25006: a standby only reads", _of_driver(psycopg.errors.ReadOnlySqlTransaction("read-only"))),
        ("53100: the disk is full", _of_driver(psycopg.errors.DiskFull("full"))),
        ("53200: no memory is left", _of_driver(psycopg.errors.OutOfMemory("full"))),
        ("55P03: another has the lock", _of_driver(psycopg.errors.LockNotAvailable("locked"))),
        ("58030: the disk fails", _of_driver(psycopg.errors.IoError("read failed"))),
        ("SQLite's disk is full", _of_driver(sqlite3.OperationalError("database or disk is full"))),
        ("SQLite's disk fails", _of_driver(sqlite3.OperationalError("disk I/O error"))),
        ("SQLite's folder is away", _of_driver(sqlite3.OperationalError("unable to open database file"))),
        ("53300: too many connections", _of_driver(psycopg.errors.TooManyConnections("full"))),
        ("40001: another was first", _of_driver(psycopg.errors.SerializationFailure("again"))),
        ("40P01: a deadlock", _of_driver(psycopg.errors.DeadlockDetected("deadlock"))),
        ("08006: the connection failed", _of_driver(psycopg.errors.ConnectionFailure("gone"))),
        ("08003: there is no connection", _of_driver(psycopg.errors.ConnectionDoesNotExist("gone"))),
        ("SQLite is busy", _of_driver(sqlite3.OperationalError("database is locked"))),
        ("one of SQLite's tables is busy", _of_driver(sqlite3.OperationalError("database table is locked"))),
        ("the process's one connection is busy", PoolTimeout("QueuePool limit reached")),
    ],
)
def test_a_database_that_may_answer_later_is_away(what: str, error: Exception) -> None:
    assert is_away(error), what
    as_optuna_says_it = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    as_optuna_says_it.__cause__ = error
    assert is_away(as_optuna_says_it), what


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("42P01: no such table", _of_driver(psycopg.errors.UndefinedTable("no table"), ProgrammingError)),
        ("28P01: a wrong password", _of_driver(psycopg.errors.InvalidPassword("no"))),
        ("23505: such a row exists", _of_driver(psycopg.errors.UniqueViolation("twice"), IntegrityError)),
        ("an unusable driver", _of_driver(psycopg.InterfaceError("no"), InterfaceError)),
        ("SQLite may not write", _of_driver(sqlite3.OperationalError("attempt to write a readonly database"))),
        ("SQLite has such a row", _of_driver(sqlite3.IntegrityError("UNIQUE constraint failed"), IntegrityError)),
        ("no database at all", ValueError("is locked")),
        ("Optuna's own", optuna.exceptions.StorageInternalError("something")),
    ],
)
def test_a_database_that_refuses_is_not_away(what: str, error: Exception) -> None:
    assert not is_away(error), what


def test_an_sqlite_database_that_another_has_locked_is_away(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'locked.db'}"
    first, second = (create_engine(url, connect_args={"timeout": 0}) for _ in range(2))
    with first.connect() as holder, second.connect() as other:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError) as raised:
            other.exec_driver_sql("BEGIN IMMEDIATE")
    assert is_away(raised.value)


@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_a_postgresql_server_that_ends_the_connection_is_away(engine: Engine, empty_url: str) -> None:
    with engine.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with psycopg.connect(empty_url, autocommit=True) as administrator:
            administrator.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(OperationalError) as raised:
            connection.exec_driver_sql("SELECT 1")
    assert is_away(raised.value)


def test_a_postgresql_database_without_an_encoding_returns_text_as_it_was_written(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    name = f"{make_url(url).database}_ascii"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    url = make_url(url).set(database=name).render_as_string(hide_password=False)

    optuna.create_study(study_name="Lüfter", storage=StudyStorage(url, create=True))

    assert [study.study_name for study in StudyStorage(url).get_all_studies()] == ["Lüfter"]
