"""A study and its recordings, brought together: what one asks of the other is checked before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.distributions import CategoricalDistribution

from features.corpus import Corpus, Progress, read_corpus
from features.errors import UnservedError
from features.inspection import leaks
from features.windows import require_length
from models.calibration import require_normals, require_withheld
from models.labels import Labels
from search.corners import recipes_around
from search.errors import StudyError
from search.proxy import judged, proxy_clips, used
from search.recipe import Recipe, ValidationSettings
from search.space import Tree, only_families
from search.split import blind, held_out_clips, labelled_test_clips, serves, training_clips, undefined_ids
from search.steering import METRICS, PROXY_CAUTION, Steering, steering_of, trained_on
from search.study_checks import idle_settings
from search.study_file import Study, study_of_tree


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
    can be served, or no machine ID has both labels among the clips that steer the search.
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
    warnings = [*corpus.warnings, *_leaks(corpus), *_copies_across(corpus, study.validation)]
    warnings += _drop_unserved_choices(study, tree, corpus)
    warnings += check_labels(corpus, study.first_recipe().validation)
    study = study_of_tree(tree, origin=f"study {study.name}")
    warnings += _drop_unserved_families(study, tree, corpus)
    study = study_of_tree(tree, origin=f"study {study.name}")
    warnings += idle_settings(study.space)
    validation, said = with_proxies(study.validation, corpus, study.first_recipe(), progress=progress)
    if said:
        tree["validation"] = validation.model_dump(exclude_none=True)
        study, warnings = study_of_tree(tree, origin=f"study {study.name}"), [*warnings, *said]
    steering = steering_of(corpus, validation, trained_on(tree))
    require_figures(steering, study)
    return Prepared(study, corpus, steering, tuple(warnings))


def _leaks(corpus: Corpus) -> list[str]:
    found = leaks(corpus)
    if not found:
        return []
    trained, tested = found[0]
    return [
        f"{len(found)} test clips are training clips too, {tested.name} ({trained.name}) for one: their scores say "
        f"nothing. `offkey corpus {corpus.root}` lists them, and those that are nearly the same"
    ]


def _copies_across(corpus: Corpus, validation: ValidationSettings) -> list[str]:
    """Warns of contents that steer the search and are held out from it at once, under two names."""
    steering = {clip.digest: clip for clip in labelled_test_clips(blind(corpus, validation))}
    found = [clip for clip in held_out_clips(corpus, validation) if clip.digest in steering]
    if not found:
        return []
    one = found[0]
    return [
        f"{len(found)} held-out test clips have the same contents as clips that steer the search, {one.name} "
        f"({steering[one.digest].name}) for one: the final figure flatters. `offkey corpus {corpus.root}` lists them"
    ]


def _drop_unserved_families(study: Study, tree: Tree, corpus: Corpus) -> list[str]:
    """Leaves out the families that the recordings cannot serve. Raises UnservedError if there is no other."""
    kept, warnings = [], []
    for branch, family in enumerate(study.space.families):
        try:
            _require_served_somewhere(recipes_around(study.space, branch), corpus)
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


def _require_served_somewhere(recipes: Iterator[Recipe], corpus: Corpus) -> None:
    """Raises the first recipe's UnservedError if the corpus serves none: if one is, others' trials may fail alone."""
    errors = []
    for recipe in recipes:
        try:
            require_served(recipe, corpus)
            return
        except UnservedError as error:
            errors.append(error)
    raise errors[0]


def require_served(recipe: Recipe, corpus: Corpus) -> None:
    """Raises UnservedError for what a recipe asks of the corpus in vain."""
    clips = training_clips(corpus, recipe)
    labels = Labels.of((clip.id_name, clip.attributes) for clip in clips.train)
    recipe.model.require(labels, {clip.id_name for clip in labelled_test_clips(corpus)})
    if recipe.scoring.calibration != "none":
        require_withheld([clip.id_name for clip in clips.withheld], [clip.id_name for clip in clips.train], labels)
    if recipe.model.ensemble:
        require_normals([clip.id_name for clip in (*clips.train, *clips.withheld)], labels)
    for member in recipe.members:
        member.features.require(corpus)
        shortest = min(corpus.clips, key=member.features.frames_of)
        require_length(
            member.features.frames_of(shortest),
            member.model.excerpt_frames(member.features.bins),
            shortest.path,
            setting=member.model.excerpt_setting,
        )


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
    if not validation.goes_by_proxies or validation.proxies is not None:
        return validation, []
    train_on = recipe.corpus.train_on
    proxied = proxy_clips(corpus, share=validation.share, seed=validation.seed, train_on=train_on, progress=progress)
    judgements = judged(proxied, recipe.members[0].features, train_on=train_on)
    names = [proxy.name for proxy in used(judgements)]
    left_out = [f"{judgement.proxy.name} ({judgement.fault})" for judgement in judgements if judgement.fault]
    said = [
        f"the search goes by {', '.join(names)} in place of recorded faults; {PROXY_CAUTION}",
        *([f"left out, since they would tell no model from another: {', '.join(left_out)}"] if left_out else []),
    ]
    return validation.model_copy(update={"proxies": names}), said


def require_figures(steering: Steering, study: Study) -> None:
    """Raises StudyError if the clips that steer do not tell an objective: before any training, not after."""
    for objective in study.objectives:
        if objective in METRICS:
            steering.figure(objective, np.zeros(len(steering.truth)))
    if study.search.constraints is not None and study.search.constraints.min_worst_id is not None:
        steering.figure("worst_id", np.zeros(len(steering.truth)))


def check_labels(corpus: Corpus, validation: ValidationSettings) -> list[str]:
    """Warnings of machine IDs that cannot be judged. Raises StudyError if none can."""
    if validation.goes_by_proxies:
        undefined = undefined_ids(held_out_clips(corpus, validation))
        return [f"{', '.join(undefined)}: too few labelled clips for a held-out test"] if undefined else []
    steering = labelled_test_clips(blind(corpus, validation))
    if validation.clips is not None:
        _require_both_sets(corpus, validation)
    if not steering:
        raise StudyError(
            f"AUC is undefined: {corpus.root} has no labelled test clips to validate on. Without any recorded fault, "
            "`validation.metric: proxy` goes by made ones."
        )
    undefined = undefined_ids(steering)
    if len(undefined) == len({clip.id_name for clip in steering}):
        labels = {clip.label for clip in steering}
        have = "normal clips only" if labels == {0} else "anomalies only" if labels == {1} else "one label each"
        raise StudyError(
            f"AUC is undefined: the test clips of every machine ID ({', '.join(undefined)}) have {have}. "
            "It takes normal and anomalous ones of an ID to tell them apart; without any recorded fault, "
            "`validation.metric: proxy` goes by made ones."
        )
    warnings = []
    if undefined:
        warnings.append(f"{', '.join(undefined)}: one label only in validation, AUC undefined, left out of the mean")
    undefined_later = sorted(set(undefined_ids(held_out_clips(corpus, validation))) - set(undefined))
    if undefined_later:
        warnings.append(f"{', '.join(undefined_later)}: too few labelled clips for a held-out test")
    return warnings


def _require_both_sets(corpus: Corpus, validation: ValidationSettings) -> None:
    for name, clips in (
        ("development", labelled_test_clips(blind(corpus, validation))),
        ("evaluation", held_out_clips(corpus, validation)),
    ):
        if not clips:
            raise StudyError(
                f"validation.clips is {validation.clips}, but {corpus.root} has no labelled test clips of the {name} "
                "set: they lie in dev_data/<machine>/test and eval_data/<machine>/test, the latter labelled by the "
                "challenge's ground-truth tables. Without validation.clips a share of all steers."
            )
