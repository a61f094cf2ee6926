"""Standard output and standard error, and how commands write to them and to files."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from search.errors import StudyError
from search.rescue import kept_elsewhere

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
    """Opens a text file for writing row by row; standard output for None.

    A file that exists is replaced once the new one is whole. What was written before an error or Ctrl-C is kept beside
    it, and a line on standard error says where. Raises StudyError if it cannot be written.
    """
    if path is None:
        yield sys.stdout
        return
    with _replacing(path, kept_as=path.with_name(f"{path.name}.partial")) as file:
        yield file


@contextmanager
def _replacing(path: Path, *, kept_as: Path | None = None) -> Iterator[TextIO]:
    """Opens a new text file that takes the path once it is whole, and goes to `kept_as` if it never is."""
    with writing(path):
        path = path.resolve()  # a link stays one
        if not _can_be_replaced(path):
            with path.open("w", newline="", encoding="utf-8") as file:
                yield file
            return
        mode = path.stat().st_mode if path.exists() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
                yield file
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            if kept_as is None or os.stat(name).st_size == 0:
                os.unlink(name)
            else:
                os.replace(name, kept_as)
                err.print(f"What was written so far is kept in {shown(str(kept_as))}.")
            raise


def _can_be_replaced(path: Path) -> bool:
    """Whether the path is no terminal, pipe or the like, and new files can be made beside it."""
    return (path.is_file() or not path.exists()) and (os.access(path.parent, os.W_OK) or not path.exists())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises StudyError, which names the path, for an OSError within."""
    try:
        yield
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file.

    Raises StudyError if it cannot be written. The text is then kept beside it or in a temporary folder, and the error
    says where.
    """
    try:
        with _replacing(path) as file:
            file.write(text)
    except StudyError as error:

        def keep(folder: Path) -> Path:
            (folder / path.name).write_text(text, encoding="utf-8", newline="")
            return folder / path.name

        raise StudyError(f"{error}{kept_elsewhere('It', path, keep)}") from error


def shown(text: str) -> str:
    """A name with rich's markup escaped, and � for bytes that are not UTF-8 and cannot be printed."""
    return escape(os.fsencode(text).decode(errors="replace"))


def warn(text: str) -> None:
    """Prints a warning on standard error."""
    err.print(f"[yellow]warning:[/yellow] {escape(text)}")


def say_written(path: Path | str, next_command: str) -> None:
    """Prints on standard error what was written, and the command that comes next."""
    err.print(f"Wrote {escape(str(path))}. Next: [bold]{escape(next_command)}[/bold]")
