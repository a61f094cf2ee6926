"""A study so small that a trial takes a fraction of a second, on SQLite or on a real PostgreSQL server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.storage import _VersionManager
from sqlalchemy import make_url

from features.clips.corpus import Corpus, read_corpus
from search.storage.study_storage import StudyStorage
from tests.support.s3_service import s3_environment, s3_server
from tests.support.servers import PostgresServer
from tests.support.tiny_study import TinyStudy, made


@pytest.fixture(autouse=True)
def _pictures_only_where_they_are_tested(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these trainings."""
    if request.path.name != "test_exhibits.py":
        monkeypatch.setattr("search.dashboard.exhibits.exhibits_of", lambda training, scores: ())


@pytest.fixture(scope="session", autouse=True)
def _what_stays_the_same_is_read_once(corpus_root: Path) -> Iterator[None]:
    """The shared corpus, and which of Optuna's migrations is the newest: most of the time of making a tiny study."""
    newest: list[str] = []
    head_version = _VersionManager.get_head_version

    def newest_version(self: _VersionManager) -> str:
        newest.extend([] if newest else [head_version(self)])
        return newest[0]

    read = cache(read_corpus)

    def read_once(root: Path, **options: Any) -> Corpus:
        return read(root) if root == corpus_root else read_corpus(root, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_VersionManager, "get_head_version", newest_version)
        for module in ("search.preparation.prepared", "search.workers.worker"):
            patched.setattr(f"{module}.read_corpus", read_once)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of this process; each makes a database of its own."""
    with PostgresServer() as server:
        # Servers are crashed here, never hosts: a recovery need not wait for the disk.
        server.execute("ALTER SYSTEM SET fsync = off")
        server.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables: copied, not made anew for each test."""
    path = tmp_path_factory.mktemp("template") / "tables.db"
    StudyStorage(f"sqlite:///{path}", create=True).engine.dispose()
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a database with all tables."""
    url = postgres.new_database()
    StudyStorage(url, create=True).engine.dispose()
    return str(make_url(url).database)


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage: SQLite, or what `on_both_databases` asks for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "tiny.db")
        return f"sqlite:///{tmp_path / 'tiny.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database(template=request.getfixturevalue("postgres_template"))


@pytest.fixture(scope="session")
def s3_service() -> Iterator[str]:
    """The address of a service that speaks S3."""
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(s3_service: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of that service, which everything in this process takes for Amazon's."""
    import boto3  # type: ignore[import-untyped]

    for name, value in s3_environment(s3_service).items():
        monkeypatch.setenv(name, value)
    return boto3.client("s3")


@pytest.fixture
def tiny_study(storage_url: str, corpus_root: Path) -> Callable[..., TinyStudy]:
    """Makes a stored study: 3 epochs, h_dim open, no pruner; `changes` replace top-level blocks."""
    return partial(made, storage_url, corpus_root)
