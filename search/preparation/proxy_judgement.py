"""Finds the proxies that tell better models from worse ones on a corpus, by cheap detectors, before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from features.cleaning import features_of
from features.frames.feature_settings import FeatureSettings
from features.progress import Progress
from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth
from search.study.objectives import PROXY_CAUTION
from search.study.proxies import PROXIES, Proxy, proxies_named
from search.study.recipe import Recipe, TrainOn
from search.validation.proxy_clips import HeldOutClips, ProxyClip, ProxyCorpus

#: The lowest AUC with which a proxy counts as always detected, and the highest with which it counts as not detected.
ALWAYS_DETECTED, NOT_DETECTED = 0.98, 0.55

#: One cheap detector each (models.stat): decay 1 is by the mean level of each band, decay 0 by its highest level.
_REFERENCE_DECAYS = (1.0, 0.0)


@dataclass(frozen=True)
class ProxyJudgement:
    """How well the cheap detectors detect a proxy."""

    proxy: Proxy
    aucs: tuple[float, ...]  # of each detector, the mean over machine IDs

    @property
    def objection(self) -> str:
        """Why a search leaves the proxy out; empty if it does not."""
        if min(self.aucs) >= ALWAYS_DETECTED:
            return "always detected"
        return "not detected" if max(self.aucs) <= NOT_DETECTED else ""


def judge_proxies(
    proxy_corpus: ProxyCorpus, features: FeatureSettings, *, train_on: TrainOn = "development"
) -> list[ProxyJudgement]:
    """Measure how well the cheap detectors detect each proxy.

    They are densities of log-mel levels, framed as `features`, without training.
    """
    import torch  # here: it takes seconds to load

    from search.training.loop import Training

    of_detectors = []
    for decay in _REFERENCE_DECAYS:
        recipe = Recipe.model_validate(
            {
                "study": "reference",
                "corpus": {"train_on": train_on},
                "features": features_of("logmel", features).model_dump(),
                "model": {"family": "stat", "decay": decay},
                "training": {"seed": 0, "threads": 1},
            }
        )
        scores = Training(recipe, proxy_corpus.corpus, torch.device("cpu")).validation_scores()
        of_detectors.append(aucs_of(scores, proxy_corpus.clips))
    return [ProxyJudgement(proxy, tuple(aucs[proxy] for aucs in of_detectors)) for proxy in of_detectors[0]]


def useful_proxies(judgements: Sequence[ProxyJudgement]) -> tuple[Proxy, ...]:
    """Return the proxies that tell better models from worse ones. Raises StudyError if there are none."""
    kept = tuple(judgement.proxy for judgement in judgements if not judgement.objection)
    if not kept:
        objections = "; ".join(f"{judgement.proxy.name}: {judgement.objection}" for judgement in judgements)
        raise StudyError(
            "validation.metric is proxy, but no proxy tells a better model from a worse one on these recordings "
            f"({objections}). Search on labelled test clips (validation.metric: auc), or add training clips"
        )
    return kept


def choose_proxies(
    held_out: HeldOutClips,
    names: Sequence[str] | None,
    features: FeatureSettings,
    *,
    train_on: TrainOn,
    tell: Callable[[str], None],
    progress: Progress | None,
) -> tuple[ProxyCorpus, list[str]]:
    """Return the corpus with the clips of the chosen proxies, and the proxies' names.

    These are the proxies of the given names; for None, all useful ones, judged by log-mel levels framed as `features`.
    `tell` is called with which proxies are used and which are left out, `progress` with the number of synthetic faults
    that were created to judge them. Raises StudyError if no proxy is left.
    """
    if names is not None:
        tell(_choice_in_words(names))
        return held_out.with_proxies(proxies_named(names)), list(names)
    every = held_out.with_proxies(PROXIES, progress=progress)
    judgements = judge_proxies(every, features, train_on=train_on)
    chosen = useful_proxies(judgements)
    names = [proxy.name for proxy in chosen]
    left_out = [f"{judgement.proxy.name} ({judgement.objection})" for judgement in judgements if judgement.objection]
    tell(_choice_in_words(names))
    if left_out:
        tell(f"left out, since they cannot tell one model from another: {', '.join(left_out)}")
    return every.of_proxies(chosen), names


def _choice_in_words(proxies: Sequence[str]) -> str:
    return f"trials are validated by {', '.join(proxies)} in place of recorded faults; {PROXY_CAUTION}"


def aucs_of(scores: Scores, clips: Sequence[ProxyClip]) -> dict[Proxy, float]:
    """Return the AUC of each proxy of these clips, the mean over machine IDs; `scores` (clips,) in their order."""
    aucs = {}
    for proxy in dict.fromkeys(clip.proxy for clip in clips if clip.proxy is not None):
        members = [index for index, clip in enumerate(clips) if clip.proxy in (None, proxy)]
        aucs[proxy] = mean_auc(scores[members], Truth.of([clips[index] for index in members]))
    return aucs
