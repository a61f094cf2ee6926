"""A study and its recordings, brought together: what one asks of the other is checked before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import CategoricalDistribution

from features.clips.corpus import Corpus, read_corpus
from features.errors import UnservedError
from features.progress import Progress
from search.errors import StudyError
from search.preparation.clip_checks import (
    require_figures,
    require_figures_of_folds,
    require_served,
    views_of,
    warnings_of,
)
from search.preparation.proxy_judgement import judged, used
from search.study.corners import recipes_around
from search.study.effects import idle_settings
from search.study.objectives import PROXY_CAUTION
from search.study.recipe import Recipe, ValidationSettings
from search.study.space import Tree, only_families
from search.study.study import Study
from search.study.study_file import study_of_tree
from search.validation.proxy_clips import proxy_clips
from search.validation.split import serves, training_clips
from search.validation.views import Steering, steering_of, trained_on


@dataclass(frozen=True)
class Prepared:
    """A study on its recordings, and what the user should know about the two."""

    study: Study
    corpus: Corpus  # with all labels
    steering: Steering  # how a search sees it
    warnings: tuple[str, ...]


def prepare(study: Study, *, default_root: str | None, progress: Progress | None = None) -> Prepared:
    """Reads the study's corpus and checks that it serves the study; `progress` is of clips with made faults.

    Raises StudyError or CorpusError if there is no corpus, a clip cannot be used, `train_on` or none of its choices
    can be served, no family can be trained on the clips that trials see, or these do not tell what is searched for.
    """
    corpus_settings = study.space.tree.get("corpus", {})
    root = corpus_settings.get("root") or default_root
    if root is None:
        raise StudyError(
            "corpus.root is missing: set it in the study file (on the command line with --set corpus.root=DIR, in a "
            "notebook with root=…), or $OFFKEY_DATA"
        )
    machines = study.first_recipe().corpus.machines
    corpus = read_corpus(Path(root)).for_study(machines)
    tree = study.tree
    tree["corpus"] = {**corpus_settings, "root": str(Path(root).resolve())}
    warnings = _drop_unserved_choices(study, tree, corpus)
    study = study_of_tree(tree, origin=f"study {study.name}")
    views = views_of(corpus, study.validation, trained_on(tree))
    warnings += warnings_of(corpus, study.validation, views)
    warnings += _drop_unserved_families(study, tree, corpus, views)
    study = study_of_tree(tree, origin=f"study {study.name}")
    warnings += idle_settings(study.space)
    validation, said = with_proxies(study.validation, corpus, study.first_recipe(), progress=progress)
    warnings += said
    if validation != study.validation:
        tree["validation"] = validation.model_dump(exclude_none=True)
        study = study_of_tree(tree, origin=f"study {study.name}")
    steering = steering_of(corpus, validation, trained_on(tree))
    require_figures(steering, study.objectives, study.search.constraints)
    require_figures_of_folds(steering, study.objectives[0], each_alone=study.search.pruner == "wilcoxon")
    return Prepared(study, corpus, steering, tuple(warnings))


def _drop_unserved_families(study: Study, tree: Tree, corpus: Corpus, views: Sequence[Corpus]) -> list[str]:
    """Leaves out the families that the recordings cannot serve. Raises UnservedError if there is no other."""
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
        tree.update(only_families(tree, kept))
    return warnings


def _require_served_somewhere(recipes: Iterator[Recipe], corpus: Corpus, views: Sequence[Corpus]) -> None:
    """Raises the first recipe's UnservedError if the clips serve none: if one is, others' trials may fail alone."""
    errors = []
    for recipe in recipes:
        try:
            require_served(recipe, corpus, views)
            return
        except UnservedError as error:
            errors.append(error)
    raise errors[0]


def _drop_unserved_choices(study: Study, tree: Tree, corpus: Corpus) -> list[str]:
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
    dropped = ", ".join(choice for choice in choices if choice not in kept)
    return [f"corpus.train_on: dropped {dropped}, since {corpus.root} has no such training clips"]


def with_proxies(
    validation: ValidationSettings, corpus: Corpus, recipe: Recipe, *, progress: Progress | None = None
) -> tuple[ValidationSettings, list[str]]:
    """What steers, with the proxies that tell better models from worse ones on these recordings, where it goes by any;
    and what the user should know of it. Raises StudyError if there are none."""
    if not validation.goes_by_proxies:
        return validation, []
    if validation.proxies is not None:
        return validation, [_goes_by(validation.proxies)]
    train_on = recipe.corpus.train_on
    proxied = proxy_clips(corpus, share=validation.share, seed=validation.seed, train_on=train_on, progress=progress)
    judgements = judged(proxied, recipe.members[0].features, train_on=train_on)
    names = [proxy.name for proxy in used(judgements)]
    left_out = [f"{judgement.proxy.name} ({judgement.fault})" for judgement in judgements if judgement.fault]
    said = [
        _goes_by(names),
        *([f"left out, since they would tell no model from another: {', '.join(left_out)}"] if left_out else []),
    ]
    return validation.model_copy(update={"proxies": names}), said


def _goes_by(proxies: Sequence[str]) -> str:
    return f"the search goes by {', '.join(proxies)} in place of recorded faults; {PROXY_CAUTION}"
