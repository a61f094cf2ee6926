"""Which proxies tell better models from worse ones on some recordings: judged by cheap detectors, before any work."""

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
from search.validation.proxy_clips import HeldOut, Proxied, ProxyClip

#: AUC from which on a detector tells a proxy every time, and up to which it does not tell it at all.
TOLD_ALWAYS, NOT_TOLD = 0.98, 0.55


#: The cheap detectors: by each band's mean level, and by its highest (models.stat).
_REFERENCE_DECAYS = (1.0, 0.0)


@dataclass(frozen=True)
class ProxyJudgement:
    """What cheap detectors make of a proxy."""

    proxy: Proxy
    aucs: tuple[float, ...]  # of each detector, means over machine IDs

    @property
    def fault(self) -> str:
        """Why it is left out of a search; empty if it is not."""
        if min(self.aucs) >= TOLD_ALWAYS:
            return "told every time"
        return "told by none" if max(self.aucs) <= NOT_TOLD else ""


def judge_proxies(
    proxied: Proxied, features: FeatureSettings, *, train_on: TrainOn = "development"
) -> list[ProxyJudgement]:
    """What cheap detectors make of each proxy: densities of log-mel levels, framed as `features`, nothing trained."""
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
        scores = Training(recipe, proxied.corpus, torch.device("cpu")).validation_scores()
        of_detectors.append(aucs_of(scores, proxied.clips))
    return [ProxyJudgement(proxy, tuple(aucs[proxy] for aucs in of_detectors)) for proxy in of_detectors[0]]


def useful(judgements: Sequence[ProxyJudgement]) -> tuple[Proxy, ...]:
    """The proxies that steer a search. Raises StudyError if none can."""
    kept = tuple(judgement.proxy for judgement in judgements if not judgement.fault)
    if not kept:
        found = "; ".join(f"{judgement.proxy.name}: {judgement.fault}" for judgement in judgements)
        raise StudyError(
            "validation.metric is proxy, but no altered clip would tell a better model from a worse one here "
            f"({found}). Search on labelled test clips (validation.metric: auc), or add training clips"
        )
    return kept


def choose_proxies(
    held_out: HeldOut,
    names: Sequence[str] | None,
    features: FeatureSettings,
    *,
    train_on: TrainOn,
    tell: Callable[[str], None],
    progress: Progress | None,
) -> tuple[Proxied, list[str]]:
    """The validation clips of some proxies, and the proxies' names.

    These are the proxies of the given names; for None all that tell better models from worse ones, judged by features
    framed as `features`. `tell` gets which they are and which were left out, `progress` the synthetic faults that are
    made to judge them. Raises StudyError if no proxy is left.
    """
    if names is not None:
        tell(_goes_by(names))
        return held_out.with_proxies(proxies_named(names)), list(names)
    every = held_out.with_proxies(PROXIES, progress=progress)
    judgements = judge_proxies(every, features, train_on=train_on)
    chosen = useful(judgements)
    names = [proxy.name for proxy in chosen]
    left_out = [f"{judgement.proxy.name} ({judgement.fault})" for judgement in judgements if judgement.fault]
    tell(_goes_by(names))
    if left_out:
        tell(f"left out, since they would tell no model from another: {', '.join(left_out)}")
    return every.of_proxies(chosen), names


def _goes_by(proxies: Sequence[str]) -> str:
    return f"the search goes by {', '.join(proxies)} in place of recorded faults; {PROXY_CAUTION}"


def aucs_of(scores: Scores, clips: Sequence[ProxyClip]) -> dict[Proxy, float]:
    """AUC of each proxy that the clips are of, the mean over machine IDs; `scores` (clips,) in their order."""
    found = {}
    for proxy in dict.fromkeys(clip.proxy for clip in clips if clip.proxy is not None):
        members = [index for index, clip in enumerate(clips) if clip.proxy in (None, proxy)]
        found[proxy] = mean_auc(scores[members], Truth.of([clips[index] for index in members]))
    return found
