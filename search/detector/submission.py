"""Scores and decisions in the files that DCASE Task 2 asks for.

    anomaly_score_<machine>_section_<ID>_test.csv      file name, score        (2022 and later)
    decision_result_<machine>_section_<ID>_test.csv    file name, 0 or 1
    anomaly_score_<machine>_id_<ID>.csv                for clips named id_<ID>_…, as in 2020; decisions likewise

One pair of files for each machine ID, without a header: the challenge's submission rules. A clip without a score or a
decision has no line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from search.detector.scored_clips import ScoredClip
from search.errors import StudyError


class SubmissionFiles:
    """The files of a folder. Each is created with its first line; a file that exists already is never written to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = ExitStack()
        self._writers: dict[str, Any] = {}

    def __enter__(self) -> SubmissionFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._files.close()
        except OSError as failed:
            raise StudyError(f"The files of {self._folder} are not whole: {failed.strerror or failed}") from failed

    def add(self, clip: ScoredClip) -> None:
        """Writes a clip's lines. Raises StudyError if a file exists already or cannot be written."""
        name = Path(clip.path).name
        of_id = f"section_{clip.machine_id}_test" if name.startswith("section_") else f"id_{clip.machine_id}"
        for kind, value in (("anomaly_score", clip.score), ("decision_result", clip.decision)):
            if value is not None:
                file = f"{kind}_{clip.machine}_{of_id}.csv"
                with self._named(file):
                    self._writer(file).writerow([name, value])

    def _writer(self, name: str) -> Any:
        if name not in self._writers:
            path = self._folder / name
            if not self._folder.is_dir():
                self._folder.mkdir(parents=True)
            file = self._files.enter_context(path.open("x", newline="", encoding="utf-8"))
            self._writers[name] = csv.writer(file, lineterminator="\n")
        return self._writers[name]

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Raises StudyError, which names the file, for an OSError within."""
        path = self._folder / name
        try:
            yield
        except FileExistsError as error:
            there = path if self._folder.is_dir() else self._folder
            raise StudyError(f"{there} exists already, and is left as it is. Choose another folder.") from error
        except OSError as error:
            raise StudyError(f"{path} cannot be written: {error.strerror or error}") from error
