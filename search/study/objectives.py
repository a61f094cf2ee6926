"""What a study searches for: the words for each objective, and the direction in which it is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from optuna.study import StudyDirection

from search.evaluation.metrics import Metric
from search.study.recipe import CostObjective, Objective

#: What an objective is called where people read it.
IN_WORDS: dict[Objective, str] = {
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


def directions_of(objectives: Sequence[Objective]) -> list[StudyDirection]:
    """What Optuna is to do with each."""
    is_cost = [objective in get_args(CostObjective) for objective in objectives]
    return [StudyDirection.MINIMIZE if cost else StudyDirection.MAXIMIZE for cost in is_cost]
