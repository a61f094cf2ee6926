"""Removes what the recordings cannot serve from a study: sources of training clips, families, entries of `first`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optuna.distributions import CategoricalDistribution

from features.clips.corpus import Corpus
from features.errors import UnservedError
from search.errors import StudyError
from search.preparation.clip_checks import require_served
from search.study.corners import recipes_around
from search.study.machine_types import parameter_of
from search.study.portfolio import Values, cheapest_first, closed, in_words, named_for_nothing, values_by_number
from search.study.recipe import Recipe
from search.study.space import Tree, only_families
from search.study.study import Study
from search.validation.split import serves, training_clips


def drop_unserved_sources(study: Study, tree: Tree, corpus: Corpus) -> list[str]:
    """Remove choices of `corpus.train_on` without any clips from the study's tree; return warnings.

    Raises StudyError if no choice is left.
    """
    opened = next((s for s in study.space.settings if s.path == ("corpus", "train_on")), None)
    if opened is None:
        training_clips(corpus, study.first_recipe())  # refuses what the corpus does not have
        return []
    assert isinstance(opened.distribution, CategoricalDistribution)
    choices = [str(choice) for choice in opened.distribution.choices]
    kept = [choice for choice in choices if serves(corpus, choice)]
    if not kept:
        raise StudyError(f"corpus.train_on: {corpus.root} has training clips for none of {', '.join(choices)}")
    if kept == choices:
        return []
    tree["corpus"]["train_on"] = {"choices": kept}
    if tree["baseline"].get(opened.name) not in (None, *kept):
        del tree["baseline"][opened.name]
    without: list[str] = []
    for entry in tree["search"].get("first", ()):
        if entry.get(opened.name) not in (None, *kept):
            without.append(_left_out(entry, f"{corpus.root} has no such training clips"))
            entry.clear()
    dropped = ", ".join(choice for choice in choices if choice not in kept)
    return [f"corpus.train_on: dropped {dropped}, since {corpus.root} has no such training clips", *without]


def _restore_budget(study: Study, tree: Tree) -> None:
    """Give a tree the budget of the study's file: without scoring for each machine type, more trials may differ."""
    in_file = (study.document.tree.get("search") or {}) if study.document is not None else {}
    tree["search"].pop("trials", None)
    if "trials" in in_file:
        tree["search"]["trials"] = in_file["trials"]


def drop_scoring_for_each(study: Study, tree: Tree, corpus: Corpus) -> list[str]:
    """Remove `search.scoring_for` from the study's tree if there is one machine type; return warnings.

    Raises StudyError if a machine type's parameters would have the names of others.
    """
    machines = sorted({clip.machine for clip in corpus.clips})
    if study.search.scoring_for is None:
        return []
    if len(machines) == 1:
        del tree["search"]["scoring_for"]
        _restore_budget(study, tree)
        return [f"search.scoring_for: left out, since {corpus.root} has one machine type, {machines[0]}"]
    known = study.space.distributions()
    for machine in machines:
        for name in known:
            if parameter_of(machine, name) in known:
                raise StudyError(
                    f"search.scoring_for: {parameter_of(machine, name)} would be a parameter of the machine type "
                    f"{machine}, but it is one of {machine} in the study file: give that another name"
                )
    return []


def drop_unserved_families(study: Study, tree: Tree, corpus: Corpus, views: Sequence[Corpus]) -> list[str]:
    """Remove families that the recordings cannot serve from the study's tree; return warnings.

    Raises UnservedError if no family is left.
    """
    kept, warnings = [], []
    for branch, family in enumerate(study.space.families):
        try:
            _require_served_somewhere(recipes_around(study.space, branch), corpus, views)
            kept.append(branch)
        except UnservedError as error:
            if len(study.space.families) == 1:
                raise
            warnings.append(f"model: dropped {family}: {error}")
    if not kept:
        raise UnservedError("; ".join(warnings))
    if warnings:
        families = [study.space.families[branch] for branch in kept]
        for entry in tree["search"].get("first", ()):
            if entry.get("family") not in (None, *families):
                warnings.append(_left_out(entry, f"the family {entry['family']} was dropped"))
        tree.update(only_families(tree, kept))
    return warnings


def drop_unserved_entries(study: Study, tree: Tree, corpus: Corpus, views: Sequence[Corpus]) -> list[str]:
    """Bring the entries of `search.first` into their order, without those that the recordings cannot serve.

    Returns warnings: of values without effect, of entries that are left out, and of those that the budget ends before.
    """
    warnings, entries = named_for_nothing(study.space, study.baseline, study.search.first), []
    for values in study.search.first or ():
        try:
            _require_served_somewhere(recipes_around(closed(study.space, values), 0), corpus, views)
            entries.append(values)
        except UnservedError as error:
            warnings.append(_left_out(values, str(error)))
    first = cheapest_first(study.space, entries, baseline=study.baseline, is_grid=study.search.sampler == "grid")
    tree["search"].pop("first", None)
    if first:
        tree["search"]["first"] = first
    count = len(values_by_number(study.baseline, first))
    if first and count > study.search.trials:
        warnings.append(
            f"search.trials: the budget of {study.search.trials} ends before the {count} trials that are tried first "
            "(baseline and search.first); raise it to try them all"
        )
    return warnings


def _left_out(values: Values, why: str) -> str:
    return f"search.first: left out {in_words(values)}: {why}"


def _require_served_somewhere(recipes: Iterator[Recipe], corpus: Corpus, views: Sequence[Corpus]) -> None:
    """Raise the first recipe's UnservedError if the clips serve no recipe.

    If they serve one, trials with the others' settings fail by themselves.
    """
    errors = []
    for recipe in recipes:
        try:
            require_served(recipe, corpus, views)
            return
        except UnservedError as error:
            errors.append(error)
    raise errors[0]
