"""`offkey settings`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from search.cli.options import JsonOption
from search.cli.terminal import out, print_json
from search.errors import MisuseError

if TYPE_CHECKING:
    from search.study.schema.settings_in_words import Described


def settings(
    block: Annotated[
        str | None,
        typer.Argument(
            metavar="[BLOCK|FAMILY]",
            help="a block of a study file, for example training, or a family of models, for example vae",
        ),
    ] = None,
    as_json: JsonOption = False,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="print the JSON Schema of study files, for editors")
    ] = False,
) -> None:
    """Lists every setting of a study file: its meaning, the values that it takes, and its default."""
    from search.study.schema.settings_in_words import blocks, described

    if json_schema:
        if block is not None:
            raise MisuseError(f"--json-schema describes a whole study file, not {block} alone: leave one of them out")
        from search.study.schema.json_schema import study_schema

        print_json(study_schema())
        return
    names = list(blocks()) if block is None else [block]
    settings_of = {name: described(name) for name in names}
    if as_json:
        print_json({"blocks": {name: [asdict(setting) for setting in of] for name, of in settings_of.items()}})
        return
    for name, of in settings_of.items():
        out.print(_table(name, of))


def _table(name: str, described: Sequence[Described]) -> Table:
    """The settings of a block or of a family."""
    table = Table("setting", "values", "default", "meaning", title=name, title_justify="left")
    for setting in described:
        table.add_row(*(escape(text) for text in (setting.name, setting.values, setting.default, setting.about)))
    return table
