"""What many tests share: a small corpus of made sounds, a cache of their own, the command line in process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from features.clips.synthetic_corpus import make_corpus
from search.cli.app import main
from search.workers import draining
from tests.support.command import Ran

#: The longest test, for the others to run beside it, and those that share a cluster, for one process to have them all.
FIRST = ("test_wheel.py", "test_ray.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache folder and working directory for each test; one thread, since tests run beside each other."""
    monkeypatch.setenv("OFFKEY_CACHE", str(tmp_path / "cache"))
    for name in ("OFFKEY_STORAGE", "OFFKEY_DATA", "OFFKEY_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _a_cpu_without_bfloat16() -> Iterator[None]:
    """Numbers of `training.precision: auto` are then the same on every host. Processes of their own ask their CPU."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("torch.cpu.get_capabilities", dict, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_list_of_fonts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Made once (it takes seconds), not in each test's cache folder."""
    with pytest.MonkeyPatch.context() as patched:
        shared = tmp_path_factory.getbasetemp()
        shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
        patched.setenv("MPLCONFIGDIR", str(shared / "matplotlib"))
        yield


@pytest.fixture(scope="session")
def corpus_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One machine, IDs 00, 02, 04; 6 training and 6 + 6 test clips of 1 s each. Shared: never write to it."""
    root = tmp_path_factory.mktemp("corpus") / "sounds"
    make_corpus(root, train_clips=6, test_clips=6, seconds=1.0)
    return root


def _forget_the_log() -> None:
    """Undoes what a command set up for its process: a worker logs to a stream that the test closes."""
    for name in ("", "features", "models", "search"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING if name == "" else logging.NOTSET)
        for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
            logger.removeHandler(handler)


@pytest.fixture
def offkey(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs `offkey ARGUMENTS…` in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["offkey", *map(str, arguments)])
        # A worker ends its process when it is asked to leave: not this one.
        for name in ("drain_on_signals", "drain_without", "leave_in_time"):
            monkeypatch.setattr(draining, name, lambda *arguments: None)
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            _forget_the_log()
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
