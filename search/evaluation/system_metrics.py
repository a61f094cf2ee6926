"""All metrics of one system's scores of labelled clips: what `offkey evaluate` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.clips.clip import DOMAINS
from search.errors import StudyError
from search.evaluation.evaluate import Metrics, evaluate
from search.evaluation.metrics import domain_aucs, metric_of
from search.evaluation.official import Year, harmonic_mean
from search.evaluation.score_truth import LabelledScores
from search.evaluation.system_differences import SystemDifferences, differences


@dataclass(frozen=True)
class DecisionMetrics:
    """Precision, recall and F1 of decisions, from 0 to 1."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class IdDecisions(DecisionMetrics):
    """The metrics of a machine ID's decisions: of all, and of each domain, as the challenge reports them since 2021."""

    domains: Mapping[str, DecisionMetrics]  # empty if clips have no domain


@dataclass(frozen=True)
class SystemMetrics:
    """All metrics of one system's scores."""

    metrics: Metrics
    harmonic_auc: float  # over machine IDs
    harmonic_pauc: float | None
    of_domains: Mapping[str, Mapping[str, float]]  # machine/ID → domain → AUC; empty if the rule has none
    decided: Mapping[str, IdDecisions]  # by machine/ID; empty without decisions
    year: Year | None  # the first year of the official score's rule; None if nothing states it
    official: float | None
    unofficial: str  # why there is no official score
    without_scores: tuple[str, ...]  # machine IDs of the truth that have no score and are left out
    against: SystemDifferences | None  # the differences from another system; None if there is none

    def as_json(self) -> dict[str, Any]:
        """Return the document that `offkey evaluate --json` prints."""
        metrics = self.metrics
        return {
            "auc": metrics.auc,
            "pauc": metrics.pauc,
            "pooled": metrics.pooled,
            "interval": None if metrics.interval is None else list(metrics.interval),
            "harmonic": {"auc": self.harmonic_auc, "pauc": self.harmonic_pauc},
            "official": {"year": self.year, "score": self.official, "reason": self.unofficial or None},
            "per_id": {
                name: asdict(of_id)
                | {"domains": dict(self.of_domains.get(name, {}))}
                | ({"decisions": asdict(self.decided[name])} if name in self.decided else {})
                for name, of_id in metrics.per_id.items()
            },
            "without_scores": list(self.without_scores),
            **({} if self.against is None else {"against": self.against.as_json()}),
        }


def measure(clips: LabelledScores, *, against: LabelledScores | None = None) -> SystemMetrics:
    """Compute all metrics, and the differences from another system's.

    Raises StudyError if no machine ID has both labels, or if the systems have none in common.
    """
    metrics = evaluate(clips.scores, clips.truth)
    official, unofficial = None, clips.why_no_year
    of_domains: dict[str, dict[str, float]] = {}
    if clips.year is not None:
        try:
            of_domains = domain_aucs(clips.scores, clips.truth, year=clips.year)
            official = metric_of("official", clips.scores, clips.truth, year=clips.year)
        except StudyError as error:
            unofficial = str(error)
    paucs = [of_id.pauc for of_id in metrics.per_id.values() if of_id.pauc is not None]
    return SystemMetrics(
        metrics=metrics,
        harmonic_auc=float(harmonic_mean(np.array([of_id.auc for of_id in metrics.per_id.values()]))),
        harmonic_pauc=None if metrics.pauc is None else float(harmonic_mean(np.array(paucs))),
        of_domains=of_domains,
        decided=_decided(clips, metrics),
        year=clips.year,
        official=official,
        unofficial=unofficial,
        without_scores=clips.without_scores,
        against=None if against is None else differences(clips, against),
    )


def _decided(clips: LabelledScores, metrics: Metrics) -> dict[str, IdDecisions]:
    """Return the decision metrics of each machine ID whose clips all have a decision."""
    ids = np.array(clips.truth.ids)
    domains = np.array(clips.truth.domains or (None,) * len(ids))
    decided = {}
    for name in metrics.per_id:
        of_id = ids == name
        if all(clips.decisions[place] is not None for place in np.flatnonzero(of_id)):
            of_domains = {domain: of_id & (domains == domain) for domain in DOMAINS}
            decided[name] = IdDecisions(
                *_precision_recall_f1(clips, of_id),
                domains={
                    domain: DecisionMetrics(*_precision_recall_f1(clips, chosen))
                    for domain, chosen in of_domains.items()
                    if chosen.any()
                },
            )
    return decided


def _precision_recall_f1(clips: LabelledScores, chosen: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of the chosen clips; 0 where one is undefined, as in the challenge."""
    from sklearn.metrics import precision_recall_fscore_support

    places = np.flatnonzero(chosen)
    labels, decisions = ([of[place] for place in places] for of in (clips.truth.labels, clips.decisions))
    precision, recall, f1, _ = precision_recall_fscore_support(labels, decisions, average="binary", zero_division=0.0)
    return float(precision), float(recall), float(f1)
