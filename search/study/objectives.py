"""The objectives of a study: the words for each, and the direction in which it is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from optuna.study import StudyDirection

from search.evaluation.metrics import Metric
from search.study.recipe import CostObjective, Objective

#: The name of each objective in texts for people.
IN_WORDS: dict[Objective, str] = {
    "auc": "AUC",
    "pauc": "pAUC",
    "official": "official score",
    "worst_id": "lowest AUC of a machine ID",
    "proxy": "AUC on synthetic faults",
    "parameters": "parameters",
    "latency_ms": "ms to score a clip",
}


#: The metric that is computed for an objective: on proxies it is the AUC.
METRICS: dict[str, Metric] = {
    "auc": "auc",
    "pauc": "pauc",
    "official": "official",
    "worst_id": "worst_id",
    "proxy": "auc",
}


#: Shown beside each AUC on proxies.
PROXY_CAUTION = (
    "an AUC on synthetic faults does not say how well a detector detects real ones, and on real recordings it has not "
    "been shown to order the settings of a family better than chance"
)


#: Shown beside each interval of the lowest AUC of a machine ID.
LOWEST_CAUTION = (
    "the lowest of several AUCs is pessimistic, and its interval even more so: of machine IDs whose faults are equally "
    "easy to detect, chance puts one behind the others"
)


def directions_of(objectives: Sequence[Objective]) -> list[StudyDirection]:
    """Return whether Optuna maximises or minimises each objective."""
    is_cost = [objective in get_args(CostObjective) for objective in objectives]
    return [StudyDirection.MINIMIZE if cost else StudyDirection.MAXIMIZE for cost in is_cost]
