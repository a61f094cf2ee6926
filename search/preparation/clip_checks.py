"""Checks that the recordings suffice for a search and for a detector, before any work.

views : the corpus as the models of a trial see it (search.validation.views), but without synthetic faults, which may
        take minutes to create. With folds or proxies, a model has fewer training clips than the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath

import numpy as np

from features.clips.corpus import Corpus
from features.clips.inspection import leaks
from features.errors import UnservedError
from features.frames.feature_settings import is_framed
from features.windows.excerpts import require_length
from models.scoring.calibration import require_normals, require_withheld
from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.official import rule_in_words, year_for
from search.evaluation.official_year import rule_stated_by
from search.study.objectives import METRICS
from search.study.recipe import Objective, Recipe, ValidationSettings
from search.study.search_settings import ConstraintSettings
from search.validation.split import (
    has_defined_id,
    held_out_clips,
    labelled_test_clips,
    training_clips,
    undefined_ids,
    validation_clips,
)
from search.validation.views import ValidationData


def warnings_of(corpus: Corpus, validation: ValidationSettings, views: Sequence[Corpus]) -> list[str]:
    """Return warnings about the recordings. Raises StudyError if no machine ID can be used for validation."""
    return [
        *corpus.warnings,
        *_leaks(corpus),
        *_leaks_of_views(corpus, views),
        *_copies_across(corpus, validation),
        *_check_labels(corpus, validation, views),
        *_another_rule(corpus, validation),
    ]


def _another_rule(corpus: Corpus, validation: ValidationSettings) -> list[str]:
    """Warn if the official score that validates trials is not that of the year which the clips state."""
    if "official" not in validation.objectives or validation.year is not None:
        return []
    clips = labelled_test_clips(corpus)
    stated, _ = rule_stated_by([PurePath(clip.name)] for clip in clips)
    used = year_for(clip.domain for clip in clips)
    if stated in (None, used):
        return []
    return [
        f"metric official validates trials by the rule of {rule_in_words(used)}, which goes by the clips' domains, but "
        f"by their names these clips are of {rule_in_words(stated)}: `offkey evaluate` measures by that year's rule. "
        f"With validation.year: {stated} trials are scored by it, too"
    ]


def _leaks(corpus: Corpus) -> list[str]:
    pairs = leaks(corpus)
    if not pairs:
        return []
    trained, tested = pairs[0]
    return [
        f"{len(pairs)} test clips are training clips too, for example {tested.name} ({trained.name}): their scores "
        f"mean nothing. `offkey corpus {corpus.root}` lists them, and those that are nearly the same"
    ]


def _leaks_of_views(corpus: Corpus, views: Sequence[Corpus]) -> list[str]:
    """Warn of training clips that validate models which are trained on the same contents."""
    training = {clip.name for clip in corpus.clips if clip.split == "train"}
    copies = {clip.name: trained.name for view in views for trained, clip in leaks(view) if clip.name in training}
    if not copies:
        return []
    one, trained = next(iter(copies.items()))
    return [
        f"{len(copies)} training clips validate models that are trained on the same contents, for example {one} "
        f"({trained}): the validation metric is too high. `offkey corpus {corpus.root}` lists them"
    ]


def _copies_across(corpus: Corpus, validation: ValidationSettings) -> list[str]:
    """Warn of contents that are both in validation and held out, under two names."""
    validating = {clip.digest: clip for clip in validation_clips(corpus, validation)}
    copies = [clip for clip in held_out_clips(corpus, validation) if clip.digest in validating]
    if not copies:
        return []
    one = copies[0]
    return [
        f"{len(copies)} held-out test clips have the same contents as validation clips, for example {one.name} "
        f"({validating[one.digest].name}): the test metric is too high. `offkey corpus {corpus.root}` lists them"
    ]


def _check_labels(corpus: Corpus, validation: ValidationSettings, views: Sequence[Corpus]) -> list[str]:
    """Return warnings of machine IDs without an AUC. Raises StudyError if no machine ID has one."""
    if validation.uses_proxies:
        undefined = undefined_ids(held_out_clips(corpus, validation))
        return [f"{', '.join(undefined)}: too few labelled clips for a held-out test"] if undefined else []
    if validation.clips is not None:
        _require_both_sets(corpus, validation)
    if not validation_clips(corpus, validation):
        raise StudyError(
            f"AUC is undefined: {corpus.root} has no labelled test clips to validate on. If you have recorded no "
            "fault, use `validation.metric: proxy`: it validates by synthetic faults."
        )
    validating = [clip for view in views for clip in labelled_test_clips(view)]
    undefined = undefined_ids(validating)
    if not has_defined_id(validating):
        labels = {clip.label for clip in validating}
        have = "normal clips only" if labels == {0} else "anomalies only" if labels == {1} else "one label each"
        raise StudyError(
            f"AUC is undefined: the test clips of every machine ID ({', '.join(undefined)}) have {have}. "
            "An AUC needs normal and anomalous clips of the same machine ID. If you have recorded no fault, "
            "use `validation.metric: proxy`: it validates by synthetic faults."
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
        ("development", validation_clips(corpus, validation)),
        ("evaluation", held_out_clips(corpus, validation)),
    ):
        if not clips:
            raise StudyError(
                f"validation.clips is {validation.clips}, but {corpus.root} has no labelled test clips of the {name} "
                "set: they lie in dev_data/<machine>/test and eval_data/<machine>/test, the latter labelled by the "
                "challenge's ground-truth tables. Without validation.clips, a share of all of them is for validation."
            )


def require_served(recipe: Recipe, corpus: Corpus, views: Sequence[Corpus]) -> None:
    """Raise UnservedError if the clips cannot serve the recipe, for its detector or for its trial's models."""
    _require_training_clips(recipe, corpus)
    for member in recipe.members:
        member.features.require(corpus)
        shortest = min(corpus.clips, key=member.features.frames_of)
        require_length(
            member.features.frames_of(shortest),
            member.model.excerpt_frames(member.features.bins),
            shortest.path,
            setting=member.model.excerpt_setting,
            is_framed=is_framed(member.features.kind),
        )
    if recipe.validation.holds_out_training_clips:
        why = "metric: proxy" if recipe.validation.uses_proxies else f"folds: {recipe.validation.folds}"
        for view in views:
            try:
                _require_training_clips(recipe, view)
            except UnservedError as error:
                raise UnservedError(
                    f"of the clips that `validation.{why}` leaves a trial to train on: {error}"
                ) from error


def _require_training_clips(recipe: Recipe, corpus: Corpus) -> None:
    """Raise UnservedError if the training clips cannot serve the recipe."""
    clips = training_clips(corpus, recipe)
    labels = clips.labels
    recipe.member.require(labels, {clip.id_name for clip in labelled_test_clips(corpus)})
    if any(each.scoring.calibration != "none" for each in recipe.member.scored_by):
        require_withheld([clip.id_name for clip in clips.withheld], [clip.id_name for clip in clips.train], labels)
    if recipe.ensemble:
        require_normals([clip.id_name for clip in (*clips.train, *clips.withheld)], labels)


def require_metrics(
    validation_data: ValidationData, objectives: Sequence[Objective], limits: ConstraintSettings | None = None
) -> None:
    """Raise StudyError if an objective or a limit is undefined on the validation clips: before any training."""
    needed: list[str] = [objective for objective in objectives if objective in METRICS]
    if limits is not None and limits.min_worst_id is not None:
        needed.append("worst_id")
    for objective in needed:
        validation_data.metric(objective, np.zeros(len(validation_data.truth)))


def require_metrics_of_folds(validation_data: ValidationData, objective: str, *, each_alone: bool) -> None:
    """Raise StudyError if the objective is undefined after a fold: trials are compared after each one.

    `each_alone`: trials are compared by each fold's own metric, instead of by that of all folds so far.
    """
    folds = validation_data.truth.folds
    for fold in dict.fromkeys(folds):
        scores = np.zeros(np.searchsorted(folds, fold, side="right"))
        error = _refusal(validation_data.last_models_metric, objective, scores)
        where = f"fold {fold + 1} alone"
        # A metric that is defined on the last fold alone is defined on all folds so far, too. To compute the latter
        # after each fold would take minutes.
        if error is not None and not each_alone:
            error, where = _refusal(validation_data.metric, objective, scores), f"the first {fold + 1}"
        if error is not None:
            raise StudyError(
                f"With validation.folds trials are compared after each fold, but {where} of "
                f"{len(validation_data.views)} cannot compare them: use fewer folds, with more clips each. {error}"
            ) from error


def _refusal(metric: Callable[[str, Scores], float], objective: str, scores: Scores) -> StudyError | None:
    try:
        metric(objective, scores)
    except StudyError as error:
        return error
    return None
