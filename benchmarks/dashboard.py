"""What a look at a large study costs: a poll of `offkey dashboard` against one of plain optuna-dashboard.

    python -m benchmarks.dashboard [--trials 5000] [--databases sqlite,postgresql]

The page asks for its study every ten seconds. Both sides answer the same request for the same study, each through its
WSGI application: optuna-dashboard on Optuna's storage, as its own command and its documentation's examples for WSGI
have it, and Offkey's. Between polls both forget the trials that optuna-dashboard itself keeps for ten seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna_dashboard
from optuna.storages import RDBStorage
from rich.console import Console
from rich.table import Table

from benchmarks.coordination import EPOCHS, _fill
from benchmarks.sides import machine_line
from features.clips.synthetic_corpus import make_corpus
from search.cli.study.dashboard import READING_SECONDS
from search.dashboard.app import dashboard_app
from search.preparation.prepared import prepare
from search.storage import database
from search.storage.stored_study import create_or_join
from search.storage.study_storage import StudyStorage
from search.study.study_file import study_of_tree
from tests.support.quick import quick_study
from tests.support.servers import PostgresServer

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--databases", default="sqlite,postgresql")
    arguments = parser.parse_args()
    table = Table(
        "", "", "first poll, s", "later polls, s, median", "range", "times ours",
        title=f"{arguments.trials} trials of {EPOCHS} epochs ({machine_line()})", title_justify="left",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        os.environ["OFFKEY_CACHE"] = f"{folder}/cache"
        make_corpus(Path(folder, "corpus"), train_clips=6, test_clips=6, seconds=1.0)
        for kind in arguments.databases.split(","):
            url = server.new_database() if kind == "postgresql" else f"sqlite:///{folder}/polled.db"
            study_id = _filled(url, f"{folder}/corpus", arguments.trials)
            full_url = database.parse_url(url).render_as_string(hide_password=False)
            plain = optuna_dashboard.wsgi(RDBStorage(full_url))
            ours_inside = StudyStorage(url, lease=READING_SECONDS)
            ours = 0.0
            for name, app in (("offkey dashboard", dashboard_app(ours_inside)), ("optuna-dashboard", plain)):
                first, *later = (_poll(app, study_id, arguments.trials) for _ in range(1 + ROUNDS))
                median = statistics.median(later)
                ours = ours or median
                cells = (f"{first:.2f}", f"{median:.2f}", f"{min(later):.2f}–{max(later):.2f}", f"{median / ours:.1f}")
                table.add_row(kind, name, *cells)
    Console(width=110).print(table)


def _filled(url: str, root: str, trials: int) -> int:
    """The ID of a stored study with so many finished trials."""
    tree = quick_study(
        root,
        name="polled",
        training={
            "epochs": EPOCHS,
            "threads": 1,
            "precision": "float32",
            "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        },
        search={"trials": trials},
    )
    prepared = prepare(study_of_tree(tree, origin="benchmark"), default_root=None)
    storage = StudyStorage(url, create=True)
    study_id = create_or_join(storage, prepared.study, prepared.corpus, prepared.validation_data.truth).study_id
    _fill(storage, study_id, prepared.study, trials, ledger=True)
    storage.engine.dispose()
    return study_id


def _poll(app: Any, study_id: int, trials: int) -> float:
    """Seconds until the answer to a page that has all trials but the last is complete."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET", "PATH_INFO": f"/api/studies/{study_id}", "QUERY_STRING": f"after={trials - 1}",
        "HTTP_HOST": "localhost", "SERVER_NAME": "here", "SERVER_PORT": "80",
        "wsgi.url_scheme": "http", "wsgi.errors": None,
    }  # fmt: skip
    statuses: list[str] = []
    began = time.perf_counter()
    body = b"".join(app(environ, lambda status, headers, error=None: statuses.append(status)))
    seconds = time.perf_counter() - began
    assert statuses == ["200 OK"], body
    _inner(app)._inmemory_cache._trials_last_fetched_at.clear()
    return seconds


def _inner(app: Any) -> Any:
    """optuna-dashboard's own application, inside of what guards it."""
    while not hasattr(app, "_inmemory_cache"):
        app = next(cell.cell_contents for cell in app.__closure__ if callable(cell.cell_contents))
    return app


if __name__ == "__main__":
    main()
