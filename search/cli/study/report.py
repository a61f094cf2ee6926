"""`offkey report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from search.cli.options import StorageOption, StudyArgument, open_study
from search.cli.terminal import err, progress_bar, write_text

if TYPE_CHECKING:
    from search.storage.stored_study import StoredStudy
    from search.storage.study_storage import StudyStorage


def report(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="the page to write")] = Path("report.html"),
    storage: StorageOption = None,
) -> None:
    """Writes a study on one page: verdict, metrics, recipe. The page needs no network, and can be printed."""
    with open_study(study, storage) as (opened, stored):
        write_report(opened, stored, output)


def write_report(storage: StudyStorage, stored: StoredStudy, output: Path) -> None:
    """Writes the page of a study to a file."""
    from search.report.page import report as page

    with progress_bar("reading recordings") as advance:
        text = page(storage, stored, progress=advance)
    write_text(output, text)
    err.print(escape(f"Wrote {output}: {stored.name} on one page, for a browser or a printer"))
