"""`offkey dashboard`: who may see and change what, and what becomes of a study there.

In process where only answers matter; as a real process behind a real port where ports, signals and servers do.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import optuna
import optuna_dashboard
import psutil
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event, func, inspect, select

from search.artifacts.checkpoints import Checkpoints
from search.dashboard.app import REFUSED, dashboard_app, is_loopback
from search.dashboard.exhibits import Exhibit, upload
from search.storage.hold import Hold
from search.storage.stored_study import load_stored
from search.storage.study_storage import StudyStorage
from search.storage.tables import StudyRow, TrialRow
from tests.support.offkey_process import offkey_process, stand_in, until
from tests.support.served import Answer, basic, served

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.servers import PostgresServer
    from tests.support.tiny_study import TinyStudy

    Offkey = Callable[..., Ran]
    MakeStudy = Callable[..., TinyStudy]

on_both_databases = pytest.mark.parametrize("empty_url", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)

PICTURE = Exhibit("a.png", "image/png", b"\x89PNG\r\n\x1a\n a picture")


def ask(app: Any, method: str, path: str, document: Any = None, **environ: str) -> Answer:
    """One request to the application, without a server: `path` is as a server passes it on, percent-decoded."""
    content = b"" if document is None else json.dumps(document).encode()
    errors = io.StringIO()
    started: list[tuple[str, list[tuple[str, str]]]] = []
    body = app(
        {
            "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "here", "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(content),
            "wsgi.errors": errors, "CONTENT_LENGTH": str(len(content)), "CONTENT_TYPE": "application/json",
            "HTTP_ACCEPT_ENCODING": "", "HTTP_HOST": "localhost:8080", **environ,
        },
        lambda status, headers, error=None: started.append((status, headers)),
    )  # fmt: skip
    whole = b"".join(body)
    getattr(body, "close", lambda: None)()
    assert errors.getvalue() == "", errors.getvalue()  # a traceback
    ((status, headers),) = started
    return Answer(int(status.split()[0]), dict(headers), whole)


@pytest.fixture
def finished(tiny_study: MakeStudy) -> TinyStudy:
    """A study of two trials that cost nothing, the first of which has a file."""
    study = tiny_study(trials=2)
    worker = study.worker(quick=True)
    hold = study.ledger.claim("worker", first={})
    assert hold is not None
    exhibits = upload([PICTURE], worker.checkpoints.place, uid=study.stored.uid, number=0)
    hold.finish("complete", values=[0.5], scores=np.zeros(len(study.stored.truth)), exhibits=exhibits)
    worker.run()
    return study


def trials_of(study: TinyStudy) -> list[Any]:
    return study.storage.get_all_trials(study.stored.study_id)


def picture_of(study: TinyStudy) -> str:
    """The path of the first trial's file in the dashboard."""
    trial = trials_of(study)[0]
    (key,) = (key for key in trial._system_attrs if key.startswith("artifacts:"))
    return f"/artifacts/{study.stored.study_id}/{trial._trial_id}/{key.removeprefix('artifacts:')}"


# --- the password


@pytest.fixture
def storage(storage_url: str) -> StudyStorage:
    """A dashboard without a study."""
    return StudyStorage(storage_url)


@pytest.mark.parametrize("password", ["secret", "with:colon", "größer 音", " spaces ", "x" * 500])
def test_who_knows_the_password_is_let_in_under_any_name(storage: StudyStorage, password: str) -> None:
    app = dashboard_app(storage, password=password)
    for header in (basic(f":{password}"), basic(f"ann:{password}"), basic(f"ann:{password}").replace("B", "b", 1)):
        assert ask(app, "GET", "/api/studies", HTTP_AUTHORIZATION=header).status == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic c2VjcmV0",  # no colon: the password in the name's place
        "Basic größer",
        "Basic" + " " * 3 + base64.b64encode(b":secret").decode(),
        base64.b64encode(b":secret").decode(),
        "Bearer " + base64.b64encode(b":secret").decode(),
        "Digest username=ann",
        basic("secret:"),
        basic("ann:Secret"),
        basic("ann:secret "),
        basic("ann:secret\0"),
        basic("ann:größer", "latin-1"),
        basic(":"),
    ],
)
def test_nobody_else_learns_anything(storage: StudyStorage, header: str | None) -> None:
    app = dashboard_app(storage, password="secret")
    answers = [
        ask(app, method, path, **({} if header is None else {"HTTP_AUTHORIZATION": header}))
        for method in ("GET", "HEAD", "POST")
        for path in ("/", "/dashboard", "/api/studies", "/static/bundle.js", "/nowhere")
    ]

    assert {answer.status for answer in answers} == {401}
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {'Basic realm="Offkey", charset="UTF-8"'}
    assert len({answer.body for answer in answers}) == 1


@pytest.mark.parametrize("header", [{}, {"HTTP_AUTHORIZATION": "Basic"}, {"HTTP_AUTHORIZATION": basic("ann")}])
def test_no_password_given_is_not_an_empty_one(storage: StudyStorage, header: dict[str, str]) -> None:
    assert ask(dashboard_app(storage, password=""), "GET", "/api/studies", **header).status == 401


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.2", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_an_address_that_only_this_machine_can_reach_is_a_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


# --- what is refused


def routes(app: Any) -> list[tuple[str, str]]:
    """Every method and rule that optuna-dashboard registers."""
    return [(route.method, route.rule) for route in app.routes]


def example_of(rule: str, study: TinyStudy) -> str:
    """A path of a rule, for a study, a trial and a file that exist."""
    trial, artifact = trials_of(study)[0], picture_of(study).rpartition("/")[2]
    values = {
        "study_id": study.stored.study_id,
        "trial_id": trial._trial_id,
        "artifact_id": artifact,
        "history_id": "1",
        "plot_type": "contour",
        "filename": "bundle.js",
        "": "",
    }
    return re.sub(r"<(\w*)(?:[^<>]|\\.)*>", lambda found: str(values[found[1]]), rule.replace("<:re:(/.*)?>", ""))


#: All routes that write, of the version that is installed: whoever updates it looks at each new one. Those that do not
#: write have GET, which is taken at its word below.
WRITING = {
    ("POST", "/api/studies"),
    ("POST", "/api/studies/<study_id:int>/rename"),
    ("DELETE", "/api/studies/<study_id:int>"),
    ("PUT", "/api/studies/<study_id:int>/note"),
    ("POST", "/api/studies/<study_id:int>/preference"),
    ("PUT", "/api/studies/<study_id:int>/preference_feedback_component"),
    ("DELETE", "/api/studies/<study_id:int>/preference/<history_id>"),
    ("POST", "/api/studies/<study_id:int>/preference/<history_id>"),
    ("POST", "/api/trials/<trial_id:int>/tell"),
    ("POST", "/api/trials/<trial_id:int>/user-attrs"),
    ("POST", "/api/studies/<study_id:int>/<trial_id:int>/skip"),
    ("PUT", "/api/studies/<study_id:int>/<trial_id:int>/note"),
    ("POST", "/incompatible-rdb-schema"),
    ("POST", "/api/artifacts/<study_id:int>/<trial_id:int>"),
    ("POST", "/api/artifacts/<study_id:int>"),
    ("DELETE", "/api/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"),
    ("DELETE", "/api/artifacts/<study_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"),
    ("POST", "/api/llm/trial_filter_query"),
    ("POST", "/api/llm/generate_plotly_graph_query"),
    ("POST", "/api/llm/re_generate_plotly_graph_query"),
}


def test_every_route_that_writes_is_known(storage: StudyStorage) -> None:
    registered = routes(optuna_dashboard.wsgi(storage))

    assert {route for route in registered if route[0] not in ("GET", "HEAD", "OPTIONS")} == WRITING
    assert set(REFUSED) <= WRITING


def contents(storage: StudyStorage) -> dict[str, list[Any]]:
    """The rows of all tables."""
    tables = inspect(storage.engine).get_table_names()
    with storage.engine.connect() as connection:
        return {table: sorted(map(repr, connection.exec_driver_sql(f"SELECT * FROM {table}"))) for table in tables}


def test_read_only_refuses_every_route_that_writes_and_changes_nothing(finished: TinyStudy) -> None:
    before = contents(finished.storage)
    app = dashboard_app(finished.storage, read_only=True)
    for method, rule in routes(optuna_dashboard.wsgi(finished.storage)):
        answer = ask(app, method, example_of(rule, finished), {} if method != "GET" else None)
        if method == "GET":
            assert answer.status in (200, 302, 404), (rule, answer)
        else:
            assert (answer.status, answer.reason) == (403, "This dashboard is read-only."), rule
    for method in ("PATCH", "PROPFIND", "post", "TRACE"):
        assert ask(app, method, "/api/studies").status == 403

    assert contents(finished.storage) == before
    assert ask(app, "GET", picture_of(finished)).body == PICTURE.content


def spellings(path: str) -> list[str]:
    """Paths that the router takes for this one."""
    return [path, f"{path}/", f"{path}///", path.replace("/api", "/\xffapi"), f"{path}\n"]


@pytest.mark.parametrize(("method", "rule"), sorted(REFUSED))
def test_what_would_break_a_ledger_is_refused_however_it_is_spelt(finished: TinyStudy, method: str, rule: str) -> None:
    app, before = dashboard_app(finished.storage), contents(finished.storage)
    document = {"study_name": "new", "directions": ["maximize"], "state": "Fail"}
    for path in spellings(example_of(rule, finished)):
        answer = ask(app, method, path, document)
        assert answer.status in (403, 404), path
        if path == example_of(rule, finished):
            assert answer.reason == REFUSED[method, rule]

    assert contents(finished.storage) == before
    assert ask(app, "GET", picture_of(finished)).status == 200


@pytest.mark.parametrize(
    ("site", "status"),
    [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200), (None, 200)],
)
def test_another_sites_page_may_not_write(finished: TinyStudy, site: str | None, status: int) -> None:
    app = dashboard_app(finished.storage)
    sent = {} if site is None else {"HTTP_SEC_FETCH_SITE": site}
    path = f"/api/studies/{finished.stored.study_id}/note"
    version = ask(app, "GET", path.removesuffix("/note")).json["note"]["version"]

    assert ask(app, "PUT", path, {"version": version + 1, "body": "mine"}, **sent).status == status
    assert ask(app, "GET", "/api/studies", **sent).status == 200


def test_without_a_password_a_name_that_somebody_leads_here_is_refused(finished: TinyStudy) -> None:
    app, path = dashboard_app(finished.storage), f"/api/studies/{finished.stored.study_id}"
    asked = [("GET", path), ("GET", "/dashboard"), ("GET", picture_of(finished)), ("HEAD", path), ("DELETE", path)]
    for host in (
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "localhost:8080:evil.example",
        "192.168.1.2:8080",
        "0.0.0.0:8080",
        "[::]:8080",
        "[]:8080",
        "::1",
        "",
    ):
        sent = {"HTTP_HOST": host, "HTTP_SEC_FETCH_SITE": "same-origin"}  # what a browser says of a page of that name
        answers = [ask(app, method, at, **sent) for method, at in asked]

        assert [answer.status for answer in answers] == [403] * len(asked), host
        assert all("answers to localhost alone" in answer.reason for answer in answers), host
        assert rows_of(finished) == [1, 2], host


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.9.9.9", "127.0.0.1:8080", "[::1]", "[::1]:8080"])
def test_without_a_password_it_answers_on_this_machine(storage: StudyStorage, host: str) -> None:
    assert ask(dashboard_app(storage), "GET", "/api/studies", HTTP_HOST=host).status == 200


def test_with_a_password_it_answers_under_any_name(storage: StudyStorage) -> None:
    app = dashboard_app(storage, password="secret")
    knows = {"HTTP_AUTHORIZATION": basic(":secret")}

    assert ask(app, "GET", "/api/studies", HTTP_HOST="dashboard.example.org", **knows).status == 200


@pytest.mark.parametrize("password", [None, "secret"])
def test_only_its_own_page_may_write_where_a_browser_says_whose_it_is(
    finished: TinyStudy, password: str | None
) -> None:
    app = dashboard_app(finished.storage, password=password)
    path = f"/api/studies/{finished.stored.study_id}"
    knows = {"HTTP_HOST": "localhost:8080", "HTTP_AUTHORIZATION": basic(":secret")}
    for origin in (
        "http://localhost:8081",
        "http://localhost",
        "http://127.0.0.1:8080",
        "http://evil.example",
        "http://evil.example:8080",
        "http://localhost:8080.evil.example",
        "http://[",
        "null",
        "",
    ):
        assert ask(app, "GET", path, HTTP_ORIGIN=origin, **knows).status == 200, origin
        assert ask(app, "DELETE", path, HTTP_ORIGIN=origin, **knows).status == 403, origin
        assert rows_of(finished) == [1, 2], origin
    assert ask(app, "DELETE", path, HTTP_ORIGIN="http://localhost:8080", **knows).status == 200
    assert rows_of(finished) == [0, 0]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("LocalHost:8080", "http://localhost:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("localhost", "https://localhost"),  # TLS ends before it
    ],
)
def test_a_page_of_the_same_name_is_its_own(finished: TinyStudy, host: str, origin: str) -> None:
    path = f"/api/studies/{finished.stored.study_id}"
    deleted = ask(dashboard_app(finished.storage), "DELETE", path, HTTP_HOST=host, HTTP_ORIGIN=origin)
    assert deleted.status == 200
    assert rows_of(finished) == [0, 0]


# --- deleting


def rows_of(study: TinyStudy) -> list[int]:
    counts = [
        select(func.count()).select_from(table).where(table.study_id == study.stored.study_id)
        for table in (StudyRow, TrialRow)
    ]
    with study.storage.engine.connect() as connection:
        return [connection.execute(count).scalar_one() for count in counts]


def test_a_study_that_is_deleted_there_is_gone_with_its_ledger_and_files_and_can_be_made_again(
    finished: TinyStudy, tiny_study: MakeStudy
) -> None:
    app = dashboard_app(finished.storage)
    path, picture = f"/api/studies/{finished.stored.study_id}", picture_of(finished)
    assert ask(app, "GET", picture).body == PICTURE.content
    assert len(ask(app, "GET", path).json["trials"]) == 2
    assert rows_of(finished) == [1, 2]

    assert ask(app, "DELETE", path).status == 200

    assert rows_of(finished) == [0, 0]
    assert list((Path(os.environ["OFFKEY_CACHE"]) / "artifacts").iterdir()) == []
    assert ask(app, "GET", path).status == 404
    again = tiny_study(trials=3, model={"family": "vae", "context": {"low": 1, "high": 3}, "h_dim": 8}, baseline={})
    assert again.stored.study_id == finished.stored.study_id  # SQLite gives it the same ID
    assert again.stored.uid != finished.stored.uid
    assert ask(app, "GET", path).json["trials"] == []
    again.worker(quick=True).run()
    assert [trial.state for trial in trials_of(again)] == [TrialState.COMPLETE] * 3
    fresh = dashboard_app(again.storage)
    assert ask(fresh, "GET", path).json["union_search_space"][0]["name"] == "context"


def test_a_study_whose_files_are_gone_can_be_deleted_all_the_same(finished: TinyStudy) -> None:
    app = dashboard_app(finished.storage)
    shutil.rmtree(Path(os.environ["OFFKEY_CACHE"]) / "artifacts")

    assert ask(app, "DELETE", f"/api/studies/{finished.stored.study_id}").status == 200
    assert rows_of(finished) == [0, 0]


def files() -> list[Path]:
    place = Path(os.environ["OFFKEY_CACHE"]) / "artifacts"
    return sorted(place.iterdir()) if place.exists() else []


class Begun:
    """A training after its first epoch."""

    epoch = steps = 1

    def save(self, file: BinaryIO) -> None:
        file.write(b"weights")

    def resume(self, file: BinaryIO) -> None:
        raise NotImplementedError


def left_in_the_middle(study: TinyStudy) -> Hold:
    """A trial that a worker holds and has a checkpoint of."""
    checkpoints = Checkpoints(study.stored.artifacts, study.stored.uid)
    hold = study.ledger.claim("host:1", first={})
    assert hold is not None
    entry = checkpoints.write(Begun(), trial=hold.number, token=hold.token, beside=None)
    assert entry is not None
    hold.keep_checkpoint(entry)
    hold.enter_checkpoint()
    return hold


def test_a_study_that_workers_are_at_work_on_stays_and_the_answer_says_why(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    hold = left_in_the_middle(study)
    app, path, before = dashboard_app(study.storage), f"/api/studies/{study.stored.study_id}", contents(study.storage)
    (checkpoint,) = files()

    answer = ask(app, "DELETE", path)

    assert (answer.status, answer.headers["Content-Type"]) == (409, "application/json")
    assert "1 workers are at work on tiny (for example host:1). `offkey stop tiny` makes them leave" in answer.reason
    assert contents(study.storage) == before
    assert files() == [checkpoint]

    hold.release()

    assert ask(app, "DELETE", path).status == 200
    assert rows_of(study) == [0, 0]
    assert files() == []


def test_of_a_study_in_a_place_of_its_own_every_file_goes_those_that_were_uploaded_elsewhere_too(
    tiny_study: MakeStudy, tmp_path: Path
) -> None:
    study, place = tiny_study(), tmp_path / "shared"
    set_place(study, str(place))
    study = replace(study, stored=load_stored(study.storage, "tiny"))
    left_in_the_middle(study).release()
    app, path = dashboard_app(study.storage), f"/api/studies/{study.stored.study_id}"
    put_elsewhere = {"file": "data:text/plain;base64,SGk=", "filename": "hi.txt"}
    identifier = ask(app, "POST", f"/api/artifacts/{study.stored.study_id}", put_elsewhere).json["artifact_id"]
    cache = Path(os.environ["OFFKEY_CACHE"]) / "artifacts"
    cache.mkdir(parents=True)
    (place / identifier).rename(cache / identifier)  # where it would be had another study come first
    assert len(list(place.iterdir())) == 1  # the checkpoint

    assert ask(app, "DELETE", path).status == 200

    assert files() == list(place.iterdir()) == []


def test_where_the_place_is_given_files_are_removed_from_there(finished: TinyStudy, tmp_path: Path) -> None:
    study = finished
    put(study, tmp_path / "given", PICTURE.content)
    app = dashboard_app(study.storage, artifacts=str(tmp_path / "given"))

    assert ask(app, "DELETE", f"/api/studies/{study.stored.study_id}").status == 200
    assert list((tmp_path / "given").iterdir()) == []


def test_what_is_done_is_answered_with_the_json_that_the_page_waits_for(finished: TinyStudy) -> None:
    app, path = dashboard_app(finished.storage), f"/api/studies/{finished.stored.study_id}"
    version = ask(app, "GET", path).json["note"]["version"]
    done = [
        ask(app, "PUT", f"{path}/note", {"version": version + 1, "body": "mine"}),
        ask(app, "DELETE", path, {"remove_associated_artifacts": False}),  # the page's default
    ]

    assert [(answer.status, answer.json) for answer in done] == [(200, {})] * 2
    assert files() == []


def test_a_study_of_optunas_own_is_deleted_as_ever(storage: StudyStorage) -> None:
    plain = optuna.create_study(study_name="plain", storage=storage)
    plain.add_trial(optuna.trial.create_trial(value=1.0))
    app = dashboard_app(storage)

    assert ask(app, "DELETE", f"/api/studies/{plain._study_id}").status == 200
    assert storage.get_all_studies() == []


@pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
def test_the_others_of_a_storage_stay(finished: TinyStudy, tiny_study: MakeStudy) -> None:
    other = tiny_study(trials=1, study="other")
    other.worker(quick=True).run()

    assert ask(dashboard_app(finished.storage), "DELETE", f"/api/studies/{finished.stored.study_id}").status == 200
    assert rows_of(other) == [1, 1]
    assert len(trials_of(other)) == 1


# --- files


def put(study: TinyStudy, place: Path, content: bytes) -> None:
    """The first trial's file, in another place than its worker put it."""
    place.mkdir(parents=True, exist_ok=True)
    (place / picture_of(study).rpartition("/")[2]).write_bytes(content)


def set_place(study: TinyStudy, place: str | None) -> None:
    with study.storage.engine.begin() as connection:
        connection.execute(StudyRow.__table__.update().values(artifacts=place))  # type: ignore[attr-defined]


def test_files_are_found_where_each_studys_workers_put_them(finished: TinyStudy, tmp_path: Path) -> None:
    shutil.rmtree(Path(os.environ["OFFKEY_CACHE"]) / "artifacts")
    put(finished, tmp_path / "shared", b"shared")
    assert ask(dashboard_app(finished.storage), "GET", picture_of(finished)).status == 404
    set_place(finished, str(tmp_path / "shared"))

    answer = ask(dashboard_app(finished.storage), "GET", picture_of(finished))
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"shared", "image/png")


def test_a_place_that_is_given_is_the_only_one(finished: TinyStudy, tmp_path: Path) -> None:
    put(finished, tmp_path / "given", b"given")
    given = dashboard_app(finished.storage, artifacts=str(tmp_path / "given"))
    empty = dashboard_app(finished.storage, artifacts=str(tmp_path / "empty"))

    assert ask(given, "GET", picture_of(finished)).body == b"given"
    assert ask(empty, "GET", picture_of(finished)).status == 404
    assert not (tmp_path / "empty").exists()  # looking makes none


@pytest.mark.parametrize("level", ["study", "trial"])
def test_a_file_that_somebody_uploads_never_runs_as_a_page_of_the_dashboards(tiny_study: MakeStudy, level: str) -> None:
    study = tiny_study()
    hold = study.ledger.claim("worker", first={})
    assert hold is not None
    app, page = dashboard_app(study.storage), b"<script>fetch('/api/studies')</script>"
    place = f"{study.stored.study_id}" + (f"/{hold.trial_id}" if level == "trial" else "")
    uploaded = {"file": f"data:text/html;base64,{base64.b64encode(page).decode()}", "filename": "page.html"}
    identifier = ask(app, "POST", f"/api/artifacts/{place}", uploaded).json["artifact_id"]

    answer = ask(app, "GET", f"/artifacts/{place}/{identifier}")

    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, page, "text/html")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"


@pytest.mark.parametrize("place", ["/proc/nowhere/artifacts", "taken", "s3://nobody-made-this"])
def test_another_hosts_place_that_cannot_be_reached_hides_no_files_of_this_one(
    finished: TinyStudy, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "taken").write_text("a file")
    set_place(finished, place)

    assert ask(dashboard_app(finished.storage), "GET", picture_of(finished)).body == PICTURE.content


# --- polls


def test_a_later_poll_reads_no_trial_that_had_ended(tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study(trials=8)
    study.worker(quick=True).run()
    reading = StudyStorage(study.url)
    app, path = dashboard_app(reading), f"/api/studies/{study.stored.study_id}"
    read: list[Any] = []
    event.listen(reading.engine, "handle_error", lambda context: read.append(context))
    event.listen(reading.engine, "before_cursor_execute", lambda *given: read.append((given[2], given[3])))

    def poll() -> list[Any]:
        read.clear()
        assert len(ask(app, "GET", path).json["trials"]) == 8
        return [statement for statement, _ in read if "trial_intermediate_values" in statement]

    assert poll()  # all curves
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda **span: -1 * __import__("datetime").timedelta(1))
    assert poll() == poll() == []
    assert len(read) <= 12


def test_what_a_worker_adds_is_seen_by_a_later_poll(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    app, path = dashboard_app(StudyStorage(study.url)), f"/api/studies/{study.stored.study_id}"
    assert ask(app, "GET", path).json["trials"] == []
    study.worker(quick=True).run()

    until(lambda: len(ask(app, "GET", path).json["trials"]) == 2, seconds=20)
    assert [trial["state"] for trial in ask(app, "GET", path).json["trials"]] == ["Complete"] * 2


# --- the command


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_a_page_until_it_is_asked_to_end(finished: TinyStudy, end: signal.Signals) -> None:
    with served(finished.url) as site:
        page, studies = site.get("/"), site.get("/api/studies")
        assert (page.status, page.headers["Content-Type"].partition(";")[0]) == (200, "text/html")
        assert [study["study_name"] for study in studies.json["study_summaries"]] == ["tiny"]
        assert studies.headers["Server"] == "offkey"
        assert site.get(picture_of(finished)).body == PICTURE.content
        assert site.get("/api/studies", Host="evil.example:8080").status == 403
        assert site.get("/api/studies/1", method="DELETE", Origin="http://evil.example:8080").status == 403
        assert site.get("/api/studies/1", method="DELETE", **{"Sec-Fetch-Site": "cross-site"}).status == 403
        site.process.send(end)
        assert site.process.ended(within=20) == 0
    assert "studies can be changed and deleted there" in site.process.stderr
    assert "Traceback" not in site.process.stderr
    assert "Aborted" not in site.process.stderr


def test_the_process_asks_for_its_password_and_refuses_to_write(finished: TinyStudy) -> None:
    Path("password").write_text("größer 音\n", encoding="utf-8")
    named = {"OFFKEY_DASHBOARD_PASSWORD_FILE": "password"}
    with served(finished.url, "--read-only", "--host", "0.0.0.0", **named) as site:
        assert site.get("/api/studies").status == 401
        assert site.get("/api/studies", Authorization=basic("ann:größer")).status == 401
        knows = {"Authorization": basic("ann:größer 音")}
        assert site.get("/api/studies", **knows).status == 200
        refused = site.get(f"/api/studies/{finished.stored.study_id}", method="DELETE", **knows)
        assert (refused.status, refused.reason) == (403, "This dashboard is read-only.")
    assert "asks for the password, read-only" in site.process.stderr
    assert "größer" not in site.process.stderr
    assert rows_of(finished) == [1, 2]


@on_both_databases
def test_in_an_empty_database_it_makes_the_tables_first(empty_url: str) -> None:
    with served(empty_url) as site:
        assert site.get("/api/studies").json == {"study_summaries": []}
    storage = StudyStorage(empty_url)
    assert {"studies", "trials", "offkey_studies", "offkey_trials"} <= set(inspect(storage.engine).get_table_names())
    storage.engine.dispose()


@on_postgresql
def test_a_server_that_is_restarted_is_found_again_by_the_next_poll(
    finished: TinyStudy, postgres: PostgresServer
) -> None:
    path = f"/api/studies/{finished.stored.study_id}"
    with served(finished.url) as site:
        assert len(site.get(path).json["trials"]) == 2
        postgres.restart("immediate")
        assert site.get("/api/studies").status == 200
        postgres.stop()
        try:
            assert site.get("/api/studies").status == 500
        finally:
            postgres.start()
        until(lambda: site.get("/api/studies").status == 200, seconds=30)
        assert len(site.get(path).json["trials"]) == 2
        site.process.send(signal.SIGTERM)
        assert site.process.ended(within=20) == 0
    finished.storage.engine.dispose()


def test_a_slow_visitor_keeps_nobody_waiting(finished: TinyStudy) -> None:
    with served(finished.url) as site:
        port = int(site.address.rpartition(":")[2])
        visitors = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(20)]
        for visitor in visitors:
            visitor.connect()
            visitor.sock.sendall(b"GET /api/studies HTTP/1.1\r\nHost: x\r\n")  # and no more
        assert site.get("/api/studies").status == 200
        for visitor in visitors:
            visitor.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_beyond_this_machine_it_wants_a_password(offkey: Offkey, host: str) -> None:
    ran = offkey("dashboard", "--host", host, "--port", 0)

    assert ran.code == 2
    assert f"--host {host} lets other machines in, and there is no password" in ran.stderr
    assert "OFFKEY_DASHBOARD_PASSWORD_FILE" in ran.stderr
    assert not Path("offkey.db").exists()


@pytest.mark.parametrize(
    ("password", "file", "message"),
    [
        ("", None, "$OFFKEY_DASHBOARD_PASSWORD holds no password: it is empty"),
        (None, "nowhere", "nowhere ($OFFKEY_DASHBOARD_PASSWORD_FILE) cannot be read"),
        (None, ".", ". ($OFFKEY_DASHBOARD_PASSWORD_FILE) cannot be read"),
        (None, "empty", "empty ($OFFKEY_DASHBOARD_PASSWORD_FILE) holds no password: it is empty"),
        (None, "newline", "newline ($OFFKEY_DASHBOARD_PASSWORD_FILE) holds no password: it is empty"),
        (None, "binary", "binary ($OFFKEY_DASHBOARD_PASSWORD_FILE) cannot be read"),
    ],
)
def test_a_password_that_is_none_is_refused(
    offkey: Offkey, monkeypatch: pytest.MonkeyPatch, password: str | None, file: str | None, message: str
) -> None:
    for name, content in {"empty": b"", "newline": b"\r\n", "binary": b"\xff\xfe"}.items():
        Path(name).write_bytes(content)
    for name, value in {"OFFKEY_DASHBOARD_PASSWORD": password, "OFFKEY_DASHBOARD_PASSWORD_FILE": file}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    ran = offkey("dashboard", "--port", 0)

    assert ran.code == 2
    assert message in ran.stderr


def test_a_port_that_is_taken_is_named(offkey: Offkey) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = offkey("dashboard", "--port", port)

    assert ran.code == 1
    assert f"127.0.0.1:{port} cannot be listened on (Address already in use). --port names another." in ran.stderr


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_this_machines_is_named(
    offkey: Offkey, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("OFFKEY_DASHBOARD_PASSWORD", "secret")
    ran = offkey("dashboard", "--host", host, "--port", 0)

    assert ran.code == 2
    assert f"--host {host} is no address of this machine: it cannot be listened on." in ran.stderr
    assert "--port" not in ran.stderr


def browser_that_reads(into: Path) -> dict[str, str]:
    """The variables of a machine whose browser reads the page that it gets, notes its address down, and ends."""
    read = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]); open(sys.argv[2], 'w').write(sys.argv[1])"
    return {"BROWSER": stand_in(into.with_suffix(".sh"), f'exec {sys.executable} -c "{read}" "$1" {into}')}


def test_where_there_is_a_screen_a_browser_finds_the_page(finished: TinyStudy, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    with offkey_process("dashboard", "--port", 0, url=finished.url, variables=browser_that_reads(seen)) as process:
        until(lambda: seen.exists() and seen.read_text() != "")
        assert f"{seen.read_text()}  (" in process.stderr
        process.send(signal.SIGTERM)
        assert process.ended(within=20) == 0


def test_no_browser_opens_where_none_is_wanted(finished: TinyStudy, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    with served(finished.url, **browser_that_reads(seen)) as site:  # --no-browser
        assert site.get("/").status == 200
        assert psutil.Process(site.process.pid).children() == []
    assert not seen.exists()


def test_a_storage_that_cannot_be_opened_is_named(offkey: Offkey) -> None:
    ran = offkey("dashboard", "--storage", "sqlite:////proc/nowhere/offkey.db", "--port", 0)

    assert ran.code == 1
    assert "/proc/nowhere/offkey.db cannot be used" in ran.stderr


def test_another_optuna_study_in_the_same_database_is_shown_too(finished: TinyStudy) -> None:
    optuna.create_study(study_name="plain", storage=RDBStorage(finished.url)).optimize(lambda trial: 1.0, n_trials=1)
    shown = ask(dashboard_app(finished.storage), "GET", "/api/studies").json["study_summaries"]

    assert sorted(study["study_name"] for study in shown) == ["plain", "tiny"]
