"""The clips that each model of a trial trains on, and those that validate it.

    validation.metric    auc, pauc, …: validation on a part of the labelled test clips (search.validation.split)
                         proxy: validation on held-out normal training clips, and on synthetic faults added to them
                         (search.validation.proxy_clips)
    validation.folds     one view for each fold: each model of a trial is also validated on a part of the training
                         clips, which it was not trained on. This adds many normal clips where few are labelled.

No view has a label of a held-out test clip: nothing that a search does can depend on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from features.clips.clip import ANOMALY, NORMAL
from features.clips.corpus import Corpus
from models.scoring.scores import Scores
from search.evaluation.metrics import metric_of, metric_of_each
from search.evaluation.official import rule_of
from search.evaluation.truth import Truth
from search.study.objectives import METRICS
from search.study.proxies import OTHER_IDS, proxies_named
from search.study.recipe import TrainOn, ValidationSettings
from search.validation.proxy_clips import ProxyClip, ProxyCorpus, hold_out
from search.validation.split import blind, folds_of, labelled_test_clips


@dataclass(frozen=True)
class ValidationData:
    """The corpus as a search sees it."""

    views: tuple[Corpus, ...]  # one for each model of a trial, without labels of held-out test clips
    truth: Truth  # of the validation clips, one view after the other

    @property
    def machines(self) -> list[str]:
        """The machine types of all clips."""
        return sorted({clip.machine for view in self.views for clip in view.clips})

    def metric(self, objective: str, scores: Scores) -> float:
        """Compute an objective from the scores of the validation clips, of all views or of the first ones.

        Raises StudyError if these clips leave it undefined.
        """
        return metric_of(METRICS[objective], scores, self.truth.first(len(scores)))

    def metric_of_each(self, objective: str, scores: Scores) -> Scores:
        """Compute an objective from each set of scores (sets, clips); (sets,). Raises StudyError as `metric` does."""
        return metric_of_each(METRICS[objective], scores, self.truth.first(scores.shape[1]))

    def last_models_metric(self, objective: str, scores: Scores) -> float:
        """Compute an objective for the last model that was scored, from the clips of its own view alone."""
        truth = self.truth.first(len(scores))
        return metric_of(METRICS[objective], scores[truth.last_fold], truth.in_last_fold)


def validation_data_of(
    corpus: Corpus, validation: ValidationSettings, train_on: TrainOn = "development"
) -> ValidationData:
    """Return the corpus as a search sees it.

    With proxies, raises StudyError if no clip can be held out, and CorpusError or StoreError if a synthetic fault
    cannot be created.
    """
    if validation.uses_proxies:
        if validation.proxies is None:
            raise ValueError("the proxies of a study are chosen when it is prepared")
        proxies = proxies_named(validation.proxies)
        held_out = hold_out(corpus, share=validation.share, seed=validation.seed, train_on=train_on)
        return validation_data_by_proxies(held_out.with_proxies(proxies))
    blinded = blind(corpus, validation)
    rule = None if validation.year is None else rule_of(validation.year)
    if validation.folds is None:
        return ValidationData((blinded,), replace(Truth.of(labelled_test_clips(blinded)), rule=rule))
    views = folds_of(blinded, validation, train_on)
    return ValidationData(views, replace(Truth.of_folds([labelled_test_clips(view) for view in views]), rule=rule))


def validation_data_by_proxies(proxy_corpus: ProxyCorpus) -> ValidationData:
    """Return the validation data of a corpus in which proxies stand for faults."""
    return ValidationData((proxy_corpus.corpus,), _truth_of(proxy_corpus.clips))


def _truth_of(clips: Sequence[ProxyClip]) -> Truth:
    """Return the truth of proxy clips: a clip with a synthetic fault is the same recording as the clip without it.

    A clip of another machine ID counts as a recording of its own. If it were drawn together with the same clip of its
    own machine ID, a resample could leave out all anomalies of a machine ID.
    """
    numbers = {clip.name: number for number, clip in enumerate(clips) if clip.proxy in (None, OTHER_IDS)}
    sources = [
        clip.name if clip.proxy in (None, OTHER_IDS) else clip.name.removeprefix(f"faults/{clip.proxy.name}/")
        for clip in clips
    ]
    return replace(Truth.of(clips), recordings=tuple(numbers[source] for source in sources))


def clips_in_words(validation: ValidationSettings, truth: Truth) -> str:
    """Describe the validation clips in a sentence without its full stop."""
    normal, faulty = truth.count(NORMAL), truth.count(ANOMALY)
    if validation.uses_proxies:
        return (
            f"{normal} normal training clips, which no trial trains on, and {faulty} made from them in place of "
            f"recorded faults ({', '.join(validation.proxies or ())})"
        )
    part = (
        f"{validation.share:.0%} of each ID's labelled test clips"
        if validation.clips is None
        else f"all labelled test clips of the {validation.clips} set"
    )
    if validation.folds is not None:
        part += f", and each training clip for the model of one of {validation.folds} folds, which is not trained on it"
    return f"{normal} normal and {faulty} anomalous clips: {part}"
