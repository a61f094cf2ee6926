"""The database behind a study: its URL, its connections, the version of its tables, and whether it is away.

A process holds at most one connection: a server with its default limit of 100 connections serves 100 workers.
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

#: Optuna's tables already use Alembic's default name.
VERSION_TABLE = "offkey_version"

_MIGRATIONS = str(Path(__file__).parent / "migrations")

_BUSY_SECONDS = 60

#: The key of the lock that a migrating process holds: any number that is the same in each process.
_MIGRATION_LOCK = 0x0FF4E4

# A connection that is cut off silently is noticed within half a minute, not after TCP's hours.
_POSTGRESQL_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "offkey",
    "client_encoding": "utf8",  # whatever the database's encoding: a database in SQL_ASCII would return bytes for text
    "prepare_threshold": None,  # until it is known whether the other end is a server or a pooler
}

#: The option of a connection that runs each statement outside of a transaction. Reading a large study takes longer than
#: a transaction may be idle, and a transaction (READ COMMITTED) would not show its statements the same moment either.
ONLY_READS = "only_reads"

#: Executions of a statement after which the server prepares it: psycopg's own default.
_PREPARED_AFTER = 5

#: SQLSTATEs of a server that cannot serve this call now, and may serve the next one.
_AWAY_STATES = (
    "57P01", "57P02", "57P03",  # it shuts down, has crashed, starts up
    "25006",  # it only reads: a standby that is not promoted yet, or a primary that is no longer one
    "25P03", "57P05", "57014",  # it ended a session that was idle, or a statement that took too long
    "53100", "53200", "53300", "53400",  # its disk or memory is full, it has too many connections or too much else
    "55P03", "40001", "40P01",  # another transaction is in the way
    "58000", "58030",  # its disk fails
)  # fmt: skip

#: SQLite's words for what may pass: another process writes, the disk is full, or a network folder does not answer.
_PASSING = ("is locked", "database or disk is full", "disk I/O error", "unable to open database file")

#: Texts of refusals that waiting does not mend. Errors while a connection is opened have no SQLSTATE to tell by.
_REFUSALS = (
    "authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied",
    "no such database", "no such user",  # PgBouncer's words
)  # fmt: skip


def default_url() -> str:
    """The default storage URL: $OFFKEY_STORAGE, else an SQLite file in the working directory."""
    return os.environ.get("OFFKEY_STORAGE") or "sqlite:///offkey.db"


def parse_url(url: str) -> URL:
    """Parses a storage URL and names its driver. Raises StorageError if no study can be stored under it."""
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
    """Raises NoStorageError if the SQLite file does not exist. Creates no file."""
    if url.get_backend_name() == "sqlite":
        database = str(url.database)
        if not database.startswith("file:") and not Path(database).exists():
            raise NoStorageError(
                f"There is no study storage {database}; `offkey search` makes one. "
                "--storage or $OFFKEY_STORAGE names another."
            )


def file_of(url: URL) -> tuple[int, int] | None:
    """The device and inode of an SQLite file at this moment; None if there is no file, or for a server."""
    if url.get_backend_name() != "sqlite":
        return None
    try:
        file = _path_of(url).stat()
    except OSError:
        return None
    return file.st_dev, file.st_ino


def require_folder(url: URL, device: int) -> None:
    """Raises an error that `is_away` knows if the folder of an SQLite file is missing, or no longer on this device.

    For example the network folder is unmounted: SQLite would make a new file in the empty mount point.
    """
    try:
        is_there = _path_of(url).parent.stat().st_dev == device
    except OSError:
        is_there = False
    if not is_there:
        raise OperationalError("", None, sqlite3.OperationalError("unable to open database file: its folder is away"))


def _path_of(url: URL) -> Path:
    return Path(str(url.database).removeprefix("file:").partition("?")[0])


def connect_args(url: URL) -> dict[str, Any]:
    """The driver's arguments for each connection."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": _BUSY_SECONDS, "factory": _WriteAheadConnection}
    return dict(_POSTGRESQL_CONNECTION)


def engine_of_one(url: URL, *, lease: float) -> Engine:
    """An engine with one connection.

    The server rolls back a transaction that is idle for a sixth of a `lease` (seconds): a worker that was suspended
    inside a transaction must not keep others from renewing their leases.
    """
    arguments = connect_args(url)
    if url.get_backend_name() == "postgresql":
        arguments["autocommit"] = True  # the driver sends no BEGIN: ours below sets the timeout too
    engine = create_engine(url, pool_size=1, max_overflow=0, connect_args=arguments)
    if url.get_backend_name() == "postgresql":
        limit = max(1, round(lease / 6 * 1000))

        @event.listens_for(engine, "connect")
        def prepare_statements(connection: Any, record: Any) -> None:
            # Prepared statements save a third of the server's time, but behind a pooler the next transaction may be on
            # another server connection. A pooler reports a process number of its own, which differs from the server's.
            (number,) = connection.execute("SELECT pg_backend_pid()").fetchone()
            if number == connection.info.backend_pid:
                connection.prepare_threshold = _PREPARED_AFTER

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get(ONLY_READS):
                return
            # Set for each transaction: poolers refuse connection options, and behind a pooler the next transaction may
            # be on another server connection, which other clients share. One message for both: no extra round trip.
            connection.exec_driver_sql(f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {limit}")

    return engine


def migrate(engine: Engine) -> None:
    """Upgrades our tables to this version. Raises StorageError if a newer Offkey created them."""
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
    """Whether the error means that the database did not answer or is busy: the same call may succeed later."""
    return any(
        isinstance(cause, PoolTimeout) or (isinstance(cause, DBAPIError) and _is_away(cause)) for cause in _chain(error)
    )


def only_reads(error: BaseException) -> bool:
    """Whether the error means that the server, a standby, only reads."""
    return any(getattr(getattr(cause, "orig", None), "sqlstate", None) == "25006" for cause in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_away(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return any(text in str(error.orig) for text in _PASSING)
    state = getattr(error.orig, "sqlstate", None)
    refused = any(text in str(error.orig) for text in _REFUSALS)
    no_answer = isinstance(error, OperationalError) and state is None and not refused
    return error.connection_invalidated or no_answer or state in _AWAY_STATES or str(state).startswith("08")


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns a database error into a StorageError that names the storage, without its password."""
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
    """The database's own message, without SQLAlchemy's wrapping."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return str(getattr(cause, "orig", None) or cause or error).strip()


class _WriteAheadConnection(sqlite3.Connection):
    """A connection in WAL mode: readers and the one writer do not wait for each other.

    A crash of the machine may lose the last commits, but never the database's consistency.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")
