"""A relay in front of a database server, which counts the traffic and adds latency."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from sqlalchemy import make_url

from tests.support.servers import PostgresServer


@dataclass(frozen=True)
class Traffic:
    """The traffic of all connections together."""

    round_trips: int = 0
    sent: int = 0  # bytes, to the server
    received: int = 0  # bytes, from it


class Relay:
    """Listens in a folder of its own, and passes every connection on to the server."""

    def __init__(self, server: PostgresServer) -> None:
        self.latency = 0.0  # seconds that a round trip takes longer
        self._target = f"{server.address.query['host']}/.s.PGSQL.5432"
        self._round_trips = self._sent = self._received = 0
        self._ended = False

    def __enter__(self) -> Relay:
        self._folder = Path(tempfile.mkdtemp(prefix="relay"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/.s.PGSQL.5432")
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self._folder)

    def url(self, url: str) -> str:
        """The URL of a server's database through the relay."""
        return make_url(url).set(query={"host": str(self._folder)}).render_as_string(hide_password=False)

    @property
    def traffic(self) -> Traffic:
        """Since the relay began."""
        return Traffic(self._round_trips, self._sent, self._received)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                if self._ended:
                    return
                raise
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            way = _Way(client, server)
            threading.Thread(target=self._ask, args=(way,), daemon=True).start()
            threading.Thread(target=self._answer, args=(way,), daemon=True).start()

    def _ask(self, way: _Way) -> None:
        while message := _received(way.client):
            if not way.is_asked:  # else these are more bytes of the same request
                way.is_asked = True
                self._round_trips += 1
                time.sleep(self.latency)
            self._sent += len(message)
            way.server.sendall(message)
        way.end()

    def _answer(self, way: _Way) -> None:
        while message := _received(way.server):
            way.is_asked = False
            self._received += len(message)
            way.client.sendall(message)
        way.end()


@dataclass
class _Way:
    """One connection."""

    client: socket.socket
    server: socket.socket
    is_asked: bool = False

    def end(self) -> None:
        for side in (self.client, self.server):
            with suppress(OSError):  # the other direction has ended it
                side.shutdown(socket.SHUT_RDWR)


def _received(sender: socket.socket) -> bytes:
    """Receives bytes; none once either side has closed the connection."""
    try:
        return sender.recv(1 << 20)
    except OSError:
        return b""
