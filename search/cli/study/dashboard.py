"""`offkey dashboard`."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from search.cli.options import StorageOption, storage_errors, url_of
from search.cli.terminal import err
from search.errors import MisuseError, StudyError

#: How long a request waits for a database that is away (seconds): the first one after a restart meets a dead
#: connection.
_PATIENCE = 3.0

#: The lease (seconds), from which a storage derives how long a transaction may pause: reading a large study takes
#: seconds between two statements. Nothing is claimed here.
READING_SECONDS = 600.0

_PASSWORD, _PASSWORD_FILE = "OFFKEY_DASHBOARD_PASSWORD", "OFFKEY_DASHBOARD_PASSWORD_FILE"


def dashboard(
    storage: StorageOption = None,
    host: Annotated[str, typer.Option(help="address to listen on; other machines are only let in with a password")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any free one")] = 8080,
    artifacts: Annotated[
        str | None,
        typer.Option(
            "--artifacts",
            metavar="DIR|s3://BUCKET",
            help="where pictures and sounds are; default: where each study's workers put them",
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="refuse every request that changes something")] = False,
    browser: Annotated[bool, typer.Option(help="open the page in a browser, if there is one")] = True,
) -> None:
    """Serves the studies to a browser: optuna-dashboard, with pictures and sounds of leading trials.

    Set a password by $OFFKEY_DASHBOARD_PASSWORD, or name a file that holds it by $OFFKEY_DASHBOARD_PASSWORD_FILE.
    """
    from waitress.server import create_server

    from search.dashboard.app import dashboard_app, is_loopback
    from search.storage.study_storage import StudyStorage

    password = _password()
    if password is None and not is_loopback(host):
        raise MisuseError(
            f"--host {host} lets other machines in, and there is no password. Give one in ${_PASSWORD}, or a file "
            f"with one in ${_PASSWORD_FILE}; or leave out --host to serve this machine alone."
        )
    url = url_of(storage)
    with storage_errors(url):
        opened = StudyStorage(url, create=True, lease=READING_SECONDS)
        opened.patience = _PATIENCE
        app = dashboard_app(
            opened,
            artifacts=artifacts or os.environ.get("OFFKEY_ARTIFACTS"),
            password=password,
            read_only=read_only,
        )
        try:
            server = create_server(app, host=host, port=port, threads=8, ident="offkey")
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or error.errno == errno.EADDRNOTAVAIL:  # ValueError: no such name
                raise MisuseError(f"--host {host} is no address of this machine: it cannot be listened on.") from error
            raise StudyError(
                f"{host}:{port} cannot be listened on ({error.strerror}). --port names another."
            ) from error
    address = _address(host, server)
    guards = [] if password is None else ["asks for the password"]
    guards += ["read-only"] if read_only else ["studies can be changed and deleted there"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        err.print(f"[bold]{escape(address)}[/bold]  ({escape(opened.shown_url)}; {', '.join(guards)}). Ctrl-C ends it.")
        if browser and _has_screen():
            # Beside the server: some browsers keep this waiting until they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.run()  # until Ctrl-C or SIGTERM


def _address(host: str, server: Any) -> str:
    """The URL of the server for a browser on this machine."""
    port = server.effective_listen[0][1] if hasattr(server, "effective_listen") else server.effective_port
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{here}]' if ':' in here else here}:{port}/dashboard"


def _password() -> str | None:
    """The password, or None if none is set.

    Raises MisuseError if the password file cannot be read or is empty: a user who names one wants a password.
    """
    named = os.environ.get(_PASSWORD_FILE)
    if os.environ.get(_PASSWORD) is not None or named is None:
        password = os.environ.get(_PASSWORD)
        source = f"${_PASSWORD}"
    else:
        source = f"{named} (${_PASSWORD_FILE})"
        try:
            password = Path(named).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise MisuseError(f"{source} cannot be read: {error}") from error
    if password == "":
        raise MisuseError(f"{source} holds no password: it is empty")
    return password


def _has_screen() -> bool:
    """Whether a browser would open in a window of its own, not in this terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
