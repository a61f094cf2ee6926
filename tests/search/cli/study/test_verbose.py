"""The log: loggers are named after their modules, and `--verbose` shows what is else only kept quiet."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.house import HOUSE
from tests.support.offkey_process import Quick, Terminal, offkey_process
from tests.support.quick import QUICK

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

#: When, which process, what: as workers' logs have had it from the start.
LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \d+ "

FEW_EPOCHS = {"learning_rate": 0.01, "batch_size": 16, "epochs": 2, "threads": 1}


def lines(text: str, message: str) -> list[str]:
    """The lines of a log with a message that matches."""
    return re.findall(f"^{LINE}{message}$", text, re.MULTILINE)


@pytest.mark.parametrize("package", ["features", "models", "search"])
def test_loggers_are_named_after_their_modules(package: str) -> None:
    named = {
        str(file.relative_to(HOUSE)): set(re.findall(r"getLogger\((.*?)\)", file.read_text()))
        for file in (HOUSE / package).rglob("*.py")
    }

    assert {file: names for file, names in named.items() if names - {"__name__"}} == (
        {"search/logs.py": {"package"}} if package == "search" else {}
    )


def worker_log() -> str:
    return Path("offkey-logs/tiny/worker-0.log").read_text()


def test_a_verbose_search_shows_its_log_and_its_workers_write_theirs(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1, **QUICK, training=FEW_EPOCHS)
    with offkey_process("search", "tiny", "--workers", "1", "--verbose", url=study.url) as search:
        assert search.ended(within=60) == 0

    assert len(lines(search.stderr, r"worker 0: process \d+ on cpu, its log is \S+/worker-0\.log")) == 1
    assert len(lines(search.stderr, r"worker 0: process \d+ ended with code 0")) == 1
    assert len(lines(worker_log(), "trial 0: claimed, attempt 1")) == 1
    assert len(lines(worker_log(), r"trial 0: settings \{'width': 16, 'depth': 4\}, tried 0 times before")) == 1
    assert len(lines(worker_log(), r"trial 0: auc [01]\.\d{4} at step [12]")) == 2


def test_a_search_that_is_not_verbose_shows_no_log_and_its_workers_write_what_happens_to_trials(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=1, **QUICK, training=FEW_EPOCHS)
    with offkey_process("search", "tiny", "--workers", "1", url=study.url) as search:
        assert search.ended(within=60) == 0

    assert lines(search.stderr, ".*") == []
    assert len(lines(worker_log(), "trial 0: claimed, attempt 1")) == 1
    assert len(lines(worker_log(), r"trial 0: complete, AUC [01]\.\d{4}")) == 1
    assert lines(worker_log(), ".*(settings|at step).*") == []


def test_on_a_terminal_the_log_stands_above_what_is_redrawn(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1, **QUICK, training=FEW_EPOCHS)
    terminal = Terminal(columns=200)
    with offkey_process(
        "search", "tiny", "--workers", "1", "-v", url=study.url, quick=Quick(pause=0.6), terminal=terminal
    ) as search:
        assert search.ended(within=60) == 0

    assert re.search(f"{LINE}worker 0: process \\d+ ended with code 0\\s", terminal.shown)
    assert re.search(r"tiny +[━╸╺]+ +[01]/1 trials", terminal.shown)
    assert "[bold]" not in terminal.shown


def test_a_verbose_worker_shows_its_log(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1, **QUICK, training=FEW_EPOCHS)
    with offkey_process("worker", "tiny", "-v", url=study.url) as worker:
        assert worker.ended(within=60) == 0

    assert len(lines(worker.stderr, "trial 0: claimed, attempt 1")) == 1
    assert len(lines(worker.stderr, r"trial 0: auc [01]\.\d{4} at step [12]")) == 2
