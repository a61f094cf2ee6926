"""`offkey init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.terminal import say_written, write_text
from search.errors import MisuseError


def init(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="folder of the clips")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the study file to write")] = Path("study.yaml"),
) -> None:
    """Writes a commented study file for the clips in ROOT."""
    from search.preparation.starter_study import starter_study

    if output.exists():
        raise MisuseError(f"{output} exists already, and is left as it is. Choose another file with -o.")
    text = starter_study(root, name=output.stem)
    write_text(output, text)
    say_written(output, f"offkey search {output}")
