"""optuna-dashboard over Offkey's storage, behind a password and, if wanted, read-only.

optuna-dashboard itself has neither, and some of its actions break a study that has a ledger: ending a trial that a
worker holds, renaming (it copies the trials and deletes the study), adding studies without recordings, and deleting a
study while workers are at work on it.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

import bottle
import optuna_dashboard
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages._cached_storage import _CachedStorage

from features.errors import OffkeyError
from search.artifacts.artifact_store import open_artifacts, place_of, store_errors
from search.errors import StudyError
from search.storage.stored_study import artifact_places, load_stored
from search.storage.study_storage import StudyStorage
from search.storage.upkeep import delete_study

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger(__name__)

_READING = ("GET", "HEAD", "OPTIONS")

#: Routes that would break a study with a ledger, and what to do instead.
REFUSED = {
    ("POST", "/api/studies"): "`offkey search` makes studies: they need recordings.",
    ("POST", "/api/studies/<study_id:int>/rename"): "`offkey rename` does it: here it would copy the trials.",
    ("POST", "/api/trials/<trial_id:int>/tell"): "A trial is ended by its worker.",
    # It would remove the file, but could not remove it from the list of a trial that has ended.
    ("DELETE", "/api/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"): (
        "A trial's files are removed with its study."
    ),
}

_DELETING = ("DELETE", "/api/studies/<study_id:int>")

#: Files that people have uploaded are shown, and never run as a page of the dashboard's own.
_FILE_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


def dashboard_app(
    storage: StudyStorage, *, artifacts: str | None = None, password: str | None = None, read_only: bool = False
) -> WSGIApplication:
    """The WSGI application. `artifacts` is the folder or bucket of the exhibits; None: each study's own place."""
    cached, exhibits = _Cached(storage), _Exhibits(storage, artifacts)
    app = optuna_dashboard.wsgi(cached, artifact_store=exhibits)
    app.install(_Answers(app, storage, cached, exhibits))
    app = _guarded(app, read_only=read_only, only_here=password is None)
    return app if password is None else _with_password(app, password)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _with_password(app: WSGIApplication, password: str) -> WSGIApplication:
    """HTTP basic authentication (RFC 7617), whatever the user's name."""
    wanted = password.encode(errors="surrogateescape")  # the bytes of the environment variable, even if not UTF-8

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


def _guarded(app: WSGIApplication, *, read_only: bool, only_here: bool) -> WSGIApplication:
    """Refuses requests by their headers and method, not by their path: routes of newer versions are covered too."""

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reason = _refusal(environ, read_only=read_only, only_here=only_here)
        if reason is None:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": reason}).encode()]

    return respond


def _refusal(environ: WSGIEnvironment, *, read_only: bool, only_here: bool) -> str | None:
    host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
    if only_here and not _names_this_machine(host):
        # DNS rebinding: another site's name that resolves to this host. A browser takes that site's pages for ours.
        return f"Without a password this dashboard answers to localhost alone, not to {host!r}."
    if environ["REQUEST_METHOD"].upper() in _READING:
        return None
    if read_only:
        return "This dashboard is read-only."
    if environ.get("HTTP_SEC_FETCH_SITE") in ("cross-site", "same-site"):  # another port is the same site
        return "Another site's page may not write here."
    # Some browsers send no Sec-Fetch-Site, for example over plain HTTP.
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        return f"A page of {origin} may not write to {host}. A proxy between them must pass on the Host header."
    return None


def _names_this_machine(host: str) -> bool:
    match = re.fullmatch(r"(?:\[([^]]+)\]|([^:]*))(?::\d*)?", host)
    return match is not None and is_loopback((match[1] or match[2]).lower())


class _Cached(_CachedStorage):
    """Optuna's cache of finished trials: without it, each poll of the page would read every trial again."""

    def forget(self, study_id: int) -> None:
        """Drops a study that was deleted without this cache: SQLite may give the next study the same ID."""
        with self._lock:
            known = self._studies.pop(study_id, None)
            for number in known.trials if known is not None else ():
                trial_id = self._study_id_and_number_to_trial_id.pop((study_id, number))
                self._trial_id_to_study_id_and_number.pop(trial_id)


class _Answers:
    """A plugin of the router that replaces or extends some of optuna-dashboard's routes.

    It decides by the route, not by the request's path: the router has its own rules for paths, and a check of ours that
    differed from them could be bypassed.
    """

    name, api = "offkey", 2

    def __init__(self, app: Any, storage: StudyStorage, cached: _Cached, exhibits: _Exhibits) -> None:
        self._app, self._storage, self._cached, self._exhibits = app, storage, cached, exhibits

    def apply(self, callback: Callable[..., Any], route: Any) -> Callable[..., Any]:
        refusal = REFUSED.get((route.method, route.rule))
        if refusal is not None:
            return lambda **kwargs: _refused(403, refusal)
        if (route.method, route.rule) == _DELETING:
            return lambda study_id: self._deleted(study_id, _with_content(callback))
        if route.rule.startswith("/artifacts/"):
            return lambda **kwargs: _file(callback, **kwargs)
        return _with_content(callback)

    def _deleted(self, study_id: int, delete: Callable[..., Any]) -> Any:
        try:
            return self._delete(study_id, delete)
        finally:
            self._app._inmemory_cache.clear()  # see _Cached.forget

    def _delete(self, study_id: int, delete_foreign: Callable[..., Any]) -> Any:
        try:
            stored = load_stored(self._storage, self._storage.get_study_name_from_id(study_id))
        except (KeyError, StudyError):  # it has no ledger
            return delete_foreign(study_id=study_id)
        stored = replace(stored, artifacts=self._exhibits.place or stored.artifacts)
        try:
            # Deletes the exhibits too, whether or not the page's box is ticked.
            delete_study(self._storage, stored, exhibits_in=self._exhibits.places())
        except StudyError as error:
            return _refused(409, str(error))
        self._cached.forget(study_id)
        return {}


def _refused(status: int, reason: str) -> bottle.HTTPResponse:
    return bottle.HTTPResponse(json.dumps({"reason": reason}), status, {"Content-Type": "application/json"})


def _with_content(write: Callable[..., Any]) -> Callable[..., Any]:
    """Answers 200 instead of 204: optuna-dashboard's page expects JSON, and reports an answer without it as failed."""

    def answer(**kwargs: Any) -> Any:
        content = write(**kwargs)
        if bottle.response.status_code == 204:
            bottle.response.status = 200
        return content

    return answer


def _file(read: Callable[..., Any], **kwargs: Any) -> Any:
    try:
        answer = read(**kwargs)
    except ArtifactNotFound as error:
        return bottle.HTTPResponse(str(error), 404, {"Content-Type": "text/plain"})
    if isinstance(answer, bottle.HTTPResponse):
        answer.headers.update(_FILE_HEADERS)
    return answer


class _Exhibits:
    """The artifacts of all studies of a storage, each where its workers put them."""

    def __init__(self, storage: StudyStorage, place: str | None) -> None:
        self._storage, self.place = storage, place

    def places(self) -> list[str]:
        if self.place is not None:
            return [self.place]
        return list(dict.fromkeys(place_of(place) for place in (*artifact_places(self._storage), None)))

    def _first(self, action: Callable[[Any], Any]) -> Any:
        """Does the action at the first place that has the file: other places may be out of this host's reach."""
        places = self.places()
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
        open_artifacts(self.places()[0]).write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Removes a file. One that is gone, or on another host, is only logged: its study can still be deleted."""
        try:
            self._first(lambda store: store.remove(artifact_id))
        except ArtifactNotFound as error:
            _log.warning("%s", error)
