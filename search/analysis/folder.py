"""The folder of an analysis: written whole or not at all; an earlier analysis is overwritten, and nothing else.

A folder that exists already may be a mount point: its files are replaced one by one, each from a complete one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from search.errors import MisuseError, StudyError
from search.rescue import kept_elsewhere

PAGE, TABLE = "index.html", "separability.csv"

#: A mark near the beginning of an analysis's page, which no other page has.
MARK = '<meta name="generator" content="offkey analyze">'

_PARTIAL = ".offkey-analysis-"


def require_free(folder: Path) -> None:
    """Raises MisuseError unless the folder is missing, empty or holds an earlier analysis and nothing else."""
    try:
        if not folder.exists():
            return
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(_PARTIAL))
        page = folder / PAGE
        is_earlier = page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")[:2000]
    except OSError as error:
        raise MisuseError(f"{folder} is not a folder that can be written: {error.strerror}") from error
    strange = [name for name in others if name not in (PAGE, TABLE)] or ([] if is_earlier else others)
    if strange:
        raise MisuseError(
            f"{folder} must be new, empty or hold an earlier analysis and nothing else, but it has {strange[0]}. "
            "Nothing was written; choose another folder with -o."
        )


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Writes these texts as files of the folder.

    Raises StudyError if they cannot be written. They are then kept in a temporary folder, and the error names it.
    """
    is_new = not folder.exists()
    partial = None
    try:
        parent = folder.parent if is_new else folder
        parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=parent))
        partial.chmod(0o755)
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        if is_new:
            partial.rename(folder)
        else:
            for name in files:
                os.replace(partial / name, folder / name)
    except OSError as error:

        def keep(elsewhere: Path) -> Path:
            for name, text in files.items():
                (elsewhere / name).write_text(text, encoding="utf-8")
            return elsewhere

        kept = kept_elsewhere("The analysis", folder, keep)
        raise StudyError(f"{folder} cannot be written: {error.strerror or error}{kept}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
