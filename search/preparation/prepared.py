"""Checks a study or a recipe against its recordings, before any work.

A search and a final training take the same steps: read the recordings, compute the views of a trial's models
(search.validation.views), warn, refuse what the clips cannot serve, choose proxies, and refuse metrics that the clips
leave undefined. The result is passed on, so that a process computes views once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from features.clips.corpus import Corpus, read_corpus
from features.progress import Progress
from search.errors import StudyError
from search.evaluation.bootstrap import fewest_recordings
from search.preparation.clip_checks import require_metrics, require_metrics_of_folds, require_served, warnings_of
from search.preparation.narrowing import (
    drop_scoring_for_each,
    drop_unserved_entries,
    drop_unserved_families,
    drop_unserved_sources,
)
from search.preparation.proxy_judgement import choose_proxies
from search.study.effects import idle_settings
from search.study.recipe import Recipe, TrainOn, ValidationSettings
from search.study.study import Study, trained_on
from search.study.study_file import study_of_tree
from search.validation.proxy_clips import hold_out
from search.validation.views import ValidationData, validation_data_by_proxies, validation_data_of


@dataclass(frozen=True)
class PreparedCorpus:
    """Recordings that serve a study or a recipe."""

    corpus: Corpus  # with all labels
    validation: ValidationSettings  # with the chosen proxies, if it uses proxies
    validation_data: ValidationData  # the corpus as a search sees it


@dataclass(frozen=True)
class Prepared(PreparedCorpus):
    """A study that its recordings serve, ready to be stored, with warnings for the user."""

    study: Study
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PreparedRecipe(PreparedCorpus):
    """A recipe that its recordings serve, ready for its final training."""

    recipe: Recipe  # with the chosen proxies


def prepare(study: Study, *, default_root: str | None, progress: Progress | None = None) -> Prepared:
    """Read a study's recordings and narrow the study to what they serve; `progress` counts synthetic faults.

    Raises StudyError or CorpusError if there is no corpus, a clip cannot be used, no value of `train_on` can be served,
    no family can be trained on the clips that trials see, or the validation clips leave an objective undefined.
    """
    origin, tree, settings = f"study {study.name}", study.tree, study.space.tree.get("corpus", {})
    in_file = study.first_in_file
    root = _root_of(
        settings.get("root"),
        default_root,
        "set it in the study file (on the command line with --set corpus.root=DIR, in a notebook with root=…)",
    )
    corpus = read_corpus(root).for_study(study.first_recipe().corpus.machines)
    tree["corpus"] = {**settings, "root": str(root.resolve())}
    warnings = drop_scoring_for_each(study, tree, corpus) + drop_unserved_sources(study, tree, corpus)
    study = study_of_tree(tree, origin=origin)

    def narrowed(views: Sequence[Corpus]) -> Recipe:
        nonlocal study
        warnings.extend(drop_unserved_families(study, tree, corpus, views))
        study = study_of_tree(tree, origin=origin)
        warnings.extend(drop_unserved_entries(study, tree, corpus, views))
        study = study_of_tree(tree, origin=origin)
        warnings.extend(idle_settings(study.space))
        return study.first_recipe()

    prepared = _prepared(
        corpus, study.validation, trained_on(tree), serve=narrowed, tell=warnings.append, progress=progress
    )
    if prepared.validation != study.validation:
        tree["validation"] = prepared.validation.model_dump(exclude_none=True)
        study = study_of_tree(tree, origin=origin)
    require_metrics(prepared.validation_data, study.objectives, study.search.constraints)
    require_metrics_of_folds(
        prepared.validation_data, study.objectives[0], each_alone=study.search.pruner == "wilcoxon"
    )
    if study.search.stop == "told_apart" and fewest_recordings(prepared.validation_data.truth) < 2:
        warnings.append(
            "search.stop: told_apart has no effect: with a single validation clip of a machine ID and label, nothing "
            "is known of how far another clip would change the AUC"
        )
    return Prepared(**vars(prepared), study=replace(study, first_in_file=in_file), warnings=tuple(warnings))


def prepare_recipe(
    recipe: Recipe, *, default_root: str | None, tell: Callable[[str], None], progress: Progress | None = None
) -> PreparedRecipe:
    """Read a recipe's recordings and check that they serve it; `progress` counts synthetic faults.

    `tell` is called with each warning at once: creating synthetic faults may take minutes.
    Raises StudyError, CorpusError or UnservedError if the recordings cannot serve the recipe.
    """
    root = _root_of(recipe.corpus.root, default_root, "set it (on the command line with --set corpus.root=DIR)")
    corpus = read_corpus(root).for_study(recipe.corpus.machines)

    def served(views: Sequence[Corpus]) -> Recipe:
        require_served(recipe, corpus, views)
        return recipe

    prepared = _prepared(corpus, recipe.validation, recipe.corpus.train_on, serve=served, tell=tell, progress=progress)
    require_metrics(prepared.validation_data, prepared.validation.objectives[:1])
    return PreparedRecipe(**vars(prepared), recipe=recipe.model_copy(update={"validation": prepared.validation}))


def _root_of(root: str | None, default_root: str | None, remedy: str) -> Path:
    """Return the folder or table of the recordings. Raises StudyError, with the remedy, if none is given."""
    chosen = root or default_root
    if chosen is None:
        raise StudyError(f"corpus.root is missing: {remedy}, or $OFFKEY_DATA")
    return Path(chosen)


def _prepared(
    corpus: Corpus,
    validation: ValidationSettings,
    train_on: TrainOn,
    *,
    serve: Callable[[Sequence[Corpus]], Recipe],
    tell: Callable[[str], None],
    progress: Progress | None,
) -> PreparedCorpus:
    """Take the steps from a corpus to a prepared one.

    `serve` is called with the views without synthetic faults. It raises an error if they cannot serve; otherwise it
    returns a recipe that they serve. Proxies are judged with the features of this recipe.
    """

    def check(views: Sequence[Corpus]) -> Recipe:
        for line in warnings_of(corpus, validation, views):
            tell(line)
        return serve(views)

    if not validation.uses_proxies:
        validation_data = validation_data_of(corpus, validation, train_on)
        check(validation_data.views)
        return PreparedCorpus(corpus, validation, validation_data)
    held_out = hold_out(corpus, share=validation.share, seed=validation.seed, train_on=train_on)
    recipe = check((held_out.with_proxies(()).corpus,))
    proxy_corpus, names = choose_proxies(
        held_out, validation.proxies, recipe.members[0].features, train_on=train_on, tell=tell, progress=progress
    )
    validation = validation.model_copy(update={"proxies": names})
    return PreparedCorpus(corpus, validation, validation_data_by_proxies(proxy_corpus))
