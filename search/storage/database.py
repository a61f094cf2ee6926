"""The database behind a study: its URL, its connections, the tables' version, and whether it is away.

One process holds one connection at most, so that a server with its default 100 connections serves as many workers.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from search.errors import NoStorageError, StorageError

#: Alembic's own name is taken by Optuna's tables.
VERSION_TABLE = "offkey_version"

_MIGRATIONS = str(Path(__file__).parent / "migrations")

_BUSY_SECONDS = 60

#: Any number, the same in each process: who migrates holds it.
_MIGRATION_LOCK = 0x0FF4E4

# A connection that was cut off without a word is noticed after these, not after TCP's hours.
_POSTGRESQL_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "offkey",
    "client_encoding": "utf8",  # whatever the database's is: one in SQL_ASCII would give bytes for text
    "prepare_threshold": None,  # until it is known who is at the other end
}

#: The option of a connection whose statements each stand alone: a large study is read for longer than a transaction
#: may be idle, and a transaction would not let them see the same moment either.
ONLY_READS = "only_reads"

#: How often a statement has come before the server is told to keep it: psycopg's own default.
_PREPARED_AFTER = 5

#: SQLSTATEs of a server that goes down, comes up, is full, or undid a transaction for another's sake.
_AWAY_STATES = ("57P01", "57P02", "57P03", "25P03", "53300", "40001", "40P01")

#: What a server says at once, and will say again: errors of a connection that is being made have no SQLSTATE.
_REFUSALS = (
    "authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied",
    "no such database", "no such user",  # PgBouncer's words
)  # fmt: skip


def default_url() -> str:
    """$OFFKEY_STORAGE, else an SQLite file in the working directory."""
    return os.environ.get("OFFKEY_STORAGE") or "sqlite:///offkey.db"


def parse_url(url: str) -> URL:
    """The URL with its driver named. Raises StorageError for one that no study can be stored under."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StorageError(f"--storage {url}: not a database URL; sqlite:///offkey.db is one") from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StorageError(f"--storage {shown(parsed)}: must be sqlite:///FILE or postgresql://…, but got {backend}")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StorageError(f"--storage {url}: a database in memory cannot be shared by workers; name a file")
    return parsed


def shown(url: URL) -> str:
    """The URL without its password."""
    return url.render_as_string(hide_password=True)


def require_existing(url: URL) -> None:
    """Raises NoStorageError if there is no such SQLite file: looking makes none."""
    if url.get_backend_name() == "sqlite":
        database = str(url.database)
        if not database.startswith("file:") and not Path(database).exists():
            raise NoStorageError(
                f"There is no study storage {database}; `offkey search` makes one. "
                "--storage or $OFFKEY_STORAGE names another."
            )


def file_of(url: URL) -> tuple[int, int] | None:
    """Which file an SQLite database is at this moment; None if there is none, or it is on a server."""
    if url.get_backend_name() != "sqlite":
        return None
    try:
        found = Path(str(url.database).removeprefix("file:").partition("?")[0]).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def connect_args(url: URL) -> dict[str, Any]:
    """What the driver is told for each connection."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": _BUSY_SECONDS, "factory": _WriteAheadConnection}
    return dict(_POSTGRESQL_CONNECTION)


def engine_of_one(url: URL, *, lease: float) -> Engine:
    """An engine with one connection. A transaction that is left open for a sixth of a lease (seconds) is undone by the
    server: a worker that was stopped inside one keeps nobody from renewing their leases."""
    arguments = connect_args(url)
    if url.get_backend_name() == "postgresql":
        arguments["autocommit"] = True  # for the driver: our own BEGIN says more than its
    engine = create_engine(url, pool_size=1, max_overflow=0, connect_args=arguments)
    if url.get_backend_name() == "postgresql":
        limit = max(1, round(lease / 6 * 1000))

        @event.listens_for(engine, "connect")
        def prepare_statements(connection: Any, record: Any) -> None:
            # A third of the server's time, but behind a pooler the next transaction is on another of its connections.
            # A pooler goes by a number of its own.
            (number,) = connection.execute("SELECT pg_backend_pid()").fetchone()
            if number == connection.info.backend_pid:
                connection.prepare_threshold = _PREPARED_AFTER

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get(ONLY_READS):
                return
            # Each transaction's own: poolers refuse options, and behind one the next may be on another connection of
            # the server's, which others use too. In one message, it takes no time of its own.
            connection.exec_driver_sql(f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {limit}")

    return engine


def migrate(engine: Engine) -> None:
    """Brings our tables to this version's. Raises StorageError if a newer Offkey made them."""
    scripts = ScriptDirectory(_MIGRATIONS)
    with engine.connect() as connection:
        if _check(connection, scripts) == scripts.get_current_head():
            return
        _lock_for_migration(connection)
        config = Config()
        config.set_main_option("script_location", _MIGRATIONS.replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def _check(connection: Connection, scripts: ScriptDirectory) -> str | None:
    options = {"version_table": VERSION_TABLE}
    current = MigrationContext.configure(connection, opts=options).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    connection.rollback()
    if current is not None and current not in known:
        raise StorageError(
            f"{shown(connection.engine.url)} was made by a newer Offkey (its tables are of version {current}): "
            "update this one."
        )
    return current


def _lock_for_migration(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")


def is_away(error: BaseException) -> bool:
    """Whether the database did not answer or is busy, so that the same may succeed later."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PoolTimeout):
            return True
        if isinstance(cause, DBAPIError) and _is_away(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _is_away(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return "is locked" in str(error.orig)
    state = getattr(error.orig, "sqlstate", None)
    refused = any(text in str(error.orig) for text in _REFUSALS)
    no_answer = isinstance(error, OperationalError) and state is None and not refused
    return error.connection_invalidated or no_answer or state in _AWAY_STATES or str(state).startswith("08")


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns a database's refusal into a StorageError that names the storage, without its password."""
    try:
        yield
    except ImportError as error:
        if not error.name or not error.name.startswith(("psycopg", "sqlite3")):
            raise
        raise StorageError(
            f"The storage {shown(make_url(url))} needs a database driver that is not installed: {error}"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"The study storage {shown(make_url(url))} cannot be used: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """What the database said, without SQLAlchemy's wrapping."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return str(getattr(cause, "orig", None) or cause or error).strip()


class _WriteAheadConnection(sqlite3.Connection):
    """Readers and the one writer do not wait for each other; a crash of the machine may lose the last commits,
    never the database's consistency."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")
