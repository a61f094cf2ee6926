"""`offkey export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from search.cli.options import StorageOption, StudyArgument, open_study
from search.cli.terminal import err, warn, write_text
from search.errors import MisuseError, StudyError

if TYPE_CHECKING:
    from search.storage.stored_study import StoredStudy
    from search.storage.study_storage import StudyStorage
    from search.study.recipe import Recipe


def export(
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option(help="number of the trial; default: the best complete one")] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="the recipe of the mean of the study's leading trials, unlike each other")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="file to write; default, or -: standard output")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Writes the best trial's recipe, or that of an ensemble: a study file without ranges."""
    if ensemble and trial is not None:
        raise MisuseError(f"--ensemble chooses its trials itself, but --trial {trial} names one: leave one of them out")
    with open_study(study, storage) as (opened, stored):
        if ensemble:
            from search.results.ensemble import export_ensemble

            _write(export_ensemble(opened, stored, tell=warn), stored, output)
        else:
            write_recipe(opened, stored, trial, output)


def write_recipe(storage: StudyStorage, stored: StoredStudy, trial: int | None, output: Path | None) -> Recipe:
    """Writes the recipe of a trial, the best one for None, to a file or to standard output, and returns it."""
    from optuna.trial import TrialState

    from search.results.export import export_recipe

    recipe = export_recipe(storage, stored, number=trial)
    if trial is not None and storage.get_trial(_trial_id(storage, stored, trial)).state == TrialState.PRUNED:
        warn(f"trial {trial} was pruned: its metric after all of its epochs is not known")
    _write(recipe, stored, output)
    return recipe


def _write(recipe: Recipe, stored: StoredStudy, output: Path | None) -> None:
    from search.study.study_file import to_yaml

    text = to_yaml(recipe.tree())
    if output in (None, Path("-")):
        sys.stdout.write(text)
    else:
        assert output is not None and recipe.from_ is not None
        _require_export(output)
        write_text(output, text)
        err.print(escape(f"Wrote {output}: {recipe.from_.in_words} of {stored.name}"))


def _trial_id(storage: StudyStorage, stored: StoredStudy, number: int) -> int:
    return storage.get_trial_id_from_study_id_trial_number(stored.study_id, number)


def _require_export(file: Path) -> None:
    """Raises StudyError for an existing file that is no exported recipe: somebody may have written it by hand."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not file.exists():
        return
    try:
        tree = YAML(typ="safe").load(file)
    except (OSError, UnicodeDecodeError, YAMLError):
        tree = None
    if not isinstance(tree, dict) or "from" not in tree:
        raise StudyError(f"{file} exists and is no exported recipe: it is left as it is. Choose another name with -o.")
