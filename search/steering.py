"""What steers a search: the recordings as its trainings see them, and what is made of the scores.

    validation.metric    auc, pauc, …: the validation part of the labelled test clips (search.split)
                         proxy: normal training clips that were held out, and these with made faults (search.proxy)
    validation.folds     as many views as folds: each model of a trial also scores a part of the training clips, which
                         it was not trained on. With few labelled clips, that gives many more normal ones.

No view has a label of a held-out test clip, so that nothing that a search does can depend on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from optuna.study import StudyDirection

from features.clip import ANOMALY, NORMAL
from features.corpus import Corpus
from search.evaluation import Metric, Scores, Truth, figure
from search.proxy import OTHER_IDS, ProxyClip, proxies_named, proxy_clips
from search.recipe import Cost, Figure, TrainOn, ValidationSettings
from search.split import blind, folds_of, labelled_test_clips

#: What an objective is called where people read it.
IN_WORDS: dict[Figure | Cost, str] = {
    "auc": "AUC",
    "pauc": "pAUC",
    "official": "official score",
    "worst_id": "lowest AUC of a machine ID",
    "proxy": "AUC on made faults",
    "parameters": "parameters",
    "latency_ms": "ms to score a clip",
}

#: What is computed of scores: that they are of made faults does not matter to it.
METRICS: dict[str, Metric] = {
    "auc": "auc",
    "pauc": "pauc",
    "official": "official",
    "worst_id": "worst_id",
    "proxy": "auc",
}

#: To be read wherever such a figure is.
PROXY_CAUTION = (
    "an AUC on made faults does not say how well real ones are found, and on real recordings it has not been shown to "
    "order the settings of a family better than chance"
)

#: To be read wherever an interval of such a figure is.
LOWEST_CAUTION = (
    "the lowest of several AUCs is pessimistic, and its interval still more: of machine IDs that are equally easy to "
    "tell, chance puts one behind the others"
)


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


def directions_of(objectives: Sequence[Figure | Cost]) -> list[StudyDirection]:
    """What Optuna is to do with each."""
    is_cost = [objective in get_args(Cost) for objective in objectives]
    return [StudyDirection.MINIMIZE if cost else StudyDirection.MAXIMIZE for cost in is_cost]


def trained_on(tree: Any) -> TrainOn:
    """The sources that a study file with one value for them trains on."""
    return (tree.get("corpus") or {}).get("train_on", "development")  # type: ignore[no-any-return]
