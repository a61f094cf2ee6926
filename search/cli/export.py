"""`offkey export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from search.cli.options import StorageOption, StudyArgument, open_study, storage_errors, stored_name, url_of
from search.cli.terminal import err, write_text

if TYPE_CHECKING:
    from search.recipe import Recipe
    from search.storage import StudyStorage
    from search.stored_study import StoredStudy


def export(
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option(help="this trial instead of the best complete one")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="file; standard output if left out, or -")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Writes the best trial's recipe: a study file with every range closed."""
    url = url_of(storage)
    with storage_errors(url):
        opened, stored = open_study(url, stored_name(study))
        write_recipe(opened, stored, trial, output)


def write_recipe(storage: StudyStorage, stored: StoredStudy, trial: int | None, output: Path | None) -> Recipe:
    from search.export import export_recipe
    from search.study_file import to_yaml

    recipe = export_recipe(storage, stored, number=trial)
    text = to_yaml(recipe.tree())
    if output in (None, Path("-")):
        sys.stdout.write(text)
    else:
        assert output is not None
        write_text(output, text)
        assert recipe.from_ is not None
        err.print(escape(f"Wrote {output}: trial {recipe.from_.trial} of {stored.name}"))
    return recipe
