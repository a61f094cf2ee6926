"""The statements that a storage sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from search.storage.study_storage import StudyStorage


@contextmanager
def statements(storage: StudyStorage) -> Iterator[list[str]]:
    """The statements sent within this context, and the commits of transactions begun in it: each is a round trip."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        sent.append(statement)

    def note_commit(connection: Any) -> None:
        begun = sum(statement.startswith("BEGIN") for statement in sent)
        if begun > sent.count("COMMIT"):
            sent.append("COMMIT")

    event.listen(storage.engine, "before_cursor_execute", note)
    event.listen(storage.engine, "commit", note_commit)
    try:
        yield sent
    finally:
        event.remove(storage.engine, "before_cursor_execute", note)
        event.remove(storage.engine, "commit", note_commit)
