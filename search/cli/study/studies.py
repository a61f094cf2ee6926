"""`offkey studies`."""

from __future__ import annotations

from rich.table import Table

from search.cli.options import JsonOption
from search.cli.terminal import out, print_json


def studies(as_json: JsonOption = False) -> None:
    """Lists the study files that ship with Offkey. Commands take their names in place of a file."""
    from search.study.study_file import shipped_studies

    shipped = shipped_studies()
    if as_json:
        print_json({"studies": [{"study": name, "about": line} for name, line in shipped.items()]})
    else:
        table = Table("study", "about", box=None, padding=(0, 2), header_style="bold")
        for name, line in shipped.items():
            table.add_row(name, line)
        out.print(table)
