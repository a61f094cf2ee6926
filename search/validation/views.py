"""What steers a search: the recordings as its trainings see them, and what is made of the scores.

    validation.metric    auc, pauc, …: the validation part of the labelled test clips (search.validation.split)
                         proxy: normal training clips that were held out, and these with made faults
                         (search.validation.proxy_clips)
    validation.folds     as many views as folds: each model of a trial also scores a part of the training clips, which
                         it was not trained on. With few labelled clips, that gives many more normal ones.

No view has a label of a held-out test clip, so that nothing that a search does can depend on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from features.clips.clip import ANOMALY, NORMAL
from features.clips.corpus import Corpus
from search.evaluation.metrics import figure
from search.evaluation.truth import Scores, Truth
from search.study.objectives import METRICS
from search.study.proxies import OTHER_IDS, proxies_named
from search.study.recipe import TrainOn, ValidationSettings
from search.validation.proxy_clips import ProxyClip, proxy_clips
from search.validation.split import blind, folds_of, labelled_test_clips


@dataclass(frozen=True)
class Steering:
    """The recordings as a search sees them."""

    views: tuple[Corpus, ...]  # blinded; one for each model of a trial
    truth: Truth  # of the clips that steer, one view's after the other's

    def figure(self, objective: str, scores: Scores) -> float:
        """What a trial is worth by the scores of the views' clips, or of the first views'."""
        return figure(METRICS[objective], scores, self.truth.first(len(scores)))

    def last_models_figure(self, objective: str, scores: Scores) -> float:
        """The same of the model that was scored last, by itself."""
        truth = self.truth.first(len(scores))
        return figure(METRICS[objective], scores[truth.last_fold], truth.in_last_fold)


def steering_of(corpus: Corpus, validation: ValidationSettings, train_on: TrainOn = "development") -> Steering:
    """How a search sees a corpus. Raises StudyError, CorpusError or StoreError if it has no clips that could steer."""
    if validation.goes_by_proxies:
        if validation.proxies is None:
            raise ValueError("the proxies of a study are decided when it is prepared")
        proxies = proxies_named(validation.proxies)
        proxied = proxy_clips(corpus, share=validation.share, seed=validation.seed, train_on=train_on, proxies=proxies)
        return Steering((proxied.corpus,), _truth_of(proxied.clips))
    blinded = blind(corpus, validation)
    if validation.folds is None:
        return Steering((blinded,), Truth.of(labelled_test_clips(blinded)))
    views = folds_of(blinded, validation, train_on)
    return Steering(views, Truth.of_folds([labelled_test_clips(view) for view in views]))


def _truth_of(clips: Sequence[ProxyClip]) -> Truth:
    """The truth of proxies' clips: one with a made fault is no other recording than without it.

    One of another ID is: drawn with that ID's normal clips, an ID's anomalies might all be left out of a resample.
    """
    numbers = {clip.name: number for number, clip in enumerate(clips) if clip.proxy in (None, OTHER_IDS)}
    sources = [
        clip.name if clip.proxy in (None, OTHER_IDS) else clip.name.removeprefix(f"faults/{clip.proxy.name}/")
        for clip in clips
    ]
    return replace(Truth.of(clips), recordings=tuple(numbers[source] for source in sources))


def clips_in_words(validation: ValidationSettings, truth: Truth) -> str:
    """Which clips steer a search, in a sentence without its full stop."""
    normal, faulty = truth.count(NORMAL), truth.count(ANOMALY)
    if validation.goes_by_proxies:
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


def trained_on(tree: Any) -> TrainOn:
    """The sources that a study file with one value for them trains on."""
    return (tree.get("corpus") or {}).get("train_on", "development")  # type: ignore[no-any-return]
