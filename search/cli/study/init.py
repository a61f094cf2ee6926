"""`offkey init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.terminal import err, say_written, shown, write_text
from search.errors import MisuseError


def init(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="folder of the clips")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the study file to write")] = Path("study.yaml"),
) -> None:
    """Writes a commented study file for the clips in ROOT."""
    from search.preparation.starter_study import MINUTES, TRIALS, starter_study

    if output.exists():
        raise MisuseError(f"{output} exists already, and is left as it is. Choose another file with -o.")
    proposed = starter_study(root, name=output.stem)
    write_text(output, proposed.text)
    for note in proposed.notes:
        err.print(shown(note), soft_wrap=True)
    err.print(
        f"Its search ends after {MINUTES} minutes or {TRIALS} trials: raise search.hours and search.trials for more."
    )
    say_written(output, f"offkey search {output}")
