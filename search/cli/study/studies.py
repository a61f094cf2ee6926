"""`offkey studies`."""

from __future__ import annotations

from search.cli.options import JsonOption
from search.cli.terminal import out, print_json


def studies(as_json: JsonOption = False) -> None:
    """Lists the study files that ship with Offkey. Commands take their names in place of a file."""
    from search.cli.detector import detector_tables
    from search.study.study_file import shipped_studies

    shipped = shipped_studies()
    if as_json:
        print_json({"studies": [{"study": name, "about": line} for name, line in shipped.items()]})
    else:
        out.print(detector_tables.studies(shipped))
