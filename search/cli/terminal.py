"""Standard output and standard error, and how commands write to them and to files."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from search.errors import StudyError

out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class LogOnTerminal(logging.Handler):
    """Writes the log to standard error, above the progress bars there."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(escape(self.format(record)))


@contextmanager
def progress_bar(what: str, *, quiet: bool = False) -> Iterator[Any]:
    """Shows a progress bar on a terminal; yields a function that takes how many are done, and of how many."""
    with _bar(quiet=quiet) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def progress_of_stages() -> Iterator[Callable[[str, int, int], None]]:
    """Shows a progress bar on a terminal; yields a function that takes the stage at work as its first argument."""
    with _bar(quiet=False) as bar:
        task = bar.add_task("", total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield progress


def _bar(*, quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal)


def print_json(document: Any) -> None:
    """Prints one JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


@contextmanager
def open_output(path: Path | None) -> Iterator[Any]:
    """Opens a text file for writing; standard output for None. Raises StudyError if it cannot be written."""
    if path is None:
        yield sys.stdout
        return
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
        yield file


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises StudyError, which names the path, for an OSError within."""
    try:
        yield
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file. Raises StudyError if it cannot be written."""
    with open_output(path) as file:
        file.write(text)


def shown(text: str) -> str:
    """A name with rich's markup escaped, and � for bytes that are not UTF-8 and cannot be printed."""
    return escape(os.fsencode(text).decode(errors="replace"))


def warn(text: str) -> None:
    """Prints a warning on standard error."""
    err.print(f"[yellow]warning:[/yellow] {escape(text)}")


def say_written(path: Path | str, next_command: str) -> None:
    """Prints on standard error what was written, and the command that comes next."""
    err.print(f"Wrote {escape(str(path))}. Next: [bold]{escape(next_command)}[/bold]")
