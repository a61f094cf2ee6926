"""optuna-dashboard over Offkey's storage, behind a password and, if wanted, read-only.

optuna-dashboard has neither of its own, and some of what it offers breaks a study that has a ledger: ending a trial
that a worker is at work on, renaming (it copies the trials and deletes the study), adding studies without recordings.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

import bottle
import optuna
import optuna_dashboard
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import select

from features.errors import OffkeyError
from search.artifact_store import open_artifacts, place_of, store_errors
from search.ledger import StudyRow
from search.storage import StudyStorage

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger("offkey.dashboard")

_READING = ("GET", "HEAD", "OPTIONS")

#: Routes that a study with a ledger does not survive, and what to do instead.
REFUSED = {
    ("POST", "/api/studies"): "`offkey search` makes studies: they need recordings.",
    ("POST", "/api/studies/<study_id:int>/rename"): "`offkey rename` does it: here it would copy the trials.",
    ("POST", "/api/trials/<trial_id:int>/tell"): "A trial is ended by its worker.",
    # It would remove the file, and fail to take it off the list of a trial that has ended.
    ("DELETE", "/api/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"): (
        "A trial's files are removed with its study."
    ),
}


def dashboard_app(
    storage: StudyStorage, *, artifacts: str | None = None, password: str | None = None, read_only: bool = False
) -> WSGIApplication:
    """The WSGI application. `artifacts` is the folder or bucket of the exhibits; None: where each study has them."""
    # Cached: without, a poll reads every trial anew.
    cached = optuna.storages.get_storage(storage)
    app = optuna_dashboard.wsgi(cached, artifact_store=_Exhibits(storage, artifacts))
    app.install(_Answers(app))
    app = _guarded(app, read_only=read_only)
    return app if password is None else _with_password(app, password)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _with_password(app: WSGIApplication, password: str) -> WSGIApplication:
    """HTTP basic authentication (RFC 7617), whatever the user's name."""
    wanted = password.encode(errors="surrogateescape")  # the environment's bytes, whatever they are

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = _password_of(environ)
        if given is not None and hmac.compare_digest(given, wanted):
            return app(environ, start_response)
        headers = [("WWW-Authenticate", 'Basic realm="Offkey", charset="UTF-8"'), ("Content-Type", "text/plain")]
        start_response("401 Unauthorized", headers)
        return [b"This dashboard asks for its password; the user's name does not matter.\n"]

    return respond


def _password_of(environ: WSGIEnvironment) -> bytes | None:
    scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    try:
        _, colon, password = base64.b64decode(credentials, validate=True).partition(b":")
    except ValueError:
        return None
    return password if colon and scheme.lower() == "basic" else None


def _guarded(app: WSGIApplication, *, read_only: bool) -> WSGIApplication:
    """Refuses writing by method, whatever the path: a route that a new version adds is refused too."""

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reason = None
        if environ["REQUEST_METHOD"].upper() not in _READING:
            if read_only:
                reason = "This dashboard is read-only."
            elif environ.get("HTTP_SEC_FETCH_SITE") in ("cross-site", "same-site"):  # another port is the same site
                reason = "Another site's page may not write here."
        if reason is None:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": reason}).encode()]

    return respond


class _Answers:
    """A plugin of the router's: what some of optuna-dashboard's routes answer instead, or do besides.

    Not a look at the path: what the router makes of one has its own rules, and a gap between them would be a hole.
    """

    name, api = "offkey", 2

    def __init__(self, app: Any) -> None:
        self._app = app

    def apply(self, callback: Callable[..., Any], route: Any) -> Callable[..., Any]:
        refusal = REFUSED.get((route.method, route.rule))

        def answer(*args: Any, **kwargs: Any) -> Any:
            if refusal is not None:
                headers = {"Content-Type": "application/json"}
                return bottle.HTTPResponse(json.dumps({"reason": refusal}), 403, headers)
            try:
                return callback(*args, **kwargs)
            except ArtifactNotFound as error:
                return bottle.HTTPResponse(str(error), 404, {"Content-Type": "text/plain"})
            finally:
                if (route.method, route.rule) == ("DELETE", "/api/studies/<study_id:int>"):
                    self._app._inmemory_cache.clear()  # SQLite may give the next study the same ID

        return answer


class _Exhibits:
    """The artifacts of all studies of a storage, each where its workers put them."""

    def __init__(self, storage: StudyStorage, place: str | None) -> None:
        self._storage, self._place = storage, place

    def _places(self) -> list[str]:
        if self._place is not None:
            return [self._place]
        stored = self._storage.transact(
            lambda session: session.execute(select(StudyRow.artifacts).distinct()).scalars().all()
        )
        return list(dict.fromkeys(place_of(place) for place in (*stored, None)))

    def _first(self, action: Callable[[Any], Any]) -> Any:
        """Of the places that have it: others may be another host's, and not to be reached from this one."""
        places = self._places()
        for place in places:
            try:
                with store_errors(place, "Exhibits", "read"):
                    return action(open_artifacts(place, make=False))
            except ArtifactNotFound:
                continue
            except OffkeyError as error:
                _log.warning("%s", error)
        raise ArtifactNotFound(f"This file is not in {', '.join(places)}. `offkey dashboard --artifacts` says where.")

    def open_reader(self, artifact_id: str) -> BinaryIO:
        reader: BinaryIO = self._first(lambda store: store.open_reader(artifact_id))
        return reader

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        open_artifacts(self._places()[0]).write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """One that is gone already, or lies on another host, does not keep its study from being deleted."""
        try:
            self._first(lambda store: store.remove(artifact_id))
        except ArtifactNotFound as error:
            _log.warning("%s", error)
