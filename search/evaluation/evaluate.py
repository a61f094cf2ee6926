"""All metrics of one set of scored clips, for each machine ID and over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.scoring.scores import Scores
from search.evaluation.confidence import interval_of, why_no_interval
from search.evaluation.interval import Interval
from search.evaluation.metrics import FEWEST_NORMALS_FOR_PAUC, area_under_curve, by_label, pairs_by_fold, pairs_of_part
from search.evaluation.official import Part
from search.evaluation.truth import Truth, count_clips, judged_ids


@dataclass(frozen=True)
class IdMetrics:
    """The metrics of one machine ID."""

    auc: float
    pauc: float | None
    normal: int  # clips
    anomaly: int


@dataclass(frozen=True)
class Metrics:
    """All metrics of one set of scored clips."""

    auc: float  # mean over machine IDs
    pauc: float | None  # mean over machine IDs; None where one has too few normal clips
    interval: Interval | None  # of auc; None where there are too few clips
    pooled: float  # AUC over the same clips, whatever their machine ID
    per_id: Mapping[str, IdMetrics]
    why_no_interval: str = ""  # empty if there is an interval


def evaluate(scores: Scores, truth: Truth) -> Metrics:
    """Compute all metrics of one set of scored clips. Raises StudyError if no machine ID has both labels."""
    per_id = {}
    for name, members in judged_ids(truth).items():
        pairs = pairs_of_part(Part(id_name=name, kind="auc"), truth)
        enough = all(len(normals) >= FEWEST_NORMALS_FOR_PAUC for normals, _ in pairs)
        normals, anomalies = by_label(members, truth)
        per_id[name] = IdMetrics(
            auc=area_under_curve("auc", scores, pairs),
            pauc=area_under_curve("pauc", scores, pairs) if enough else None,
            normal=count_clips(normals, truth),
            anomaly=count_clips(anomalies, truth),
        )
    paucs = [of_id.pauc for of_id in per_id.values() if of_id.pauc is not None]
    judged = np.flatnonzero(np.isin(truth.ids, list(per_id)))
    return Metrics(
        auc=float(np.mean([of_id.auc for of_id in per_id.values()])),
        pauc=float(np.mean(paucs)) if len(paucs) == len(per_id) else None,
        interval=interval_of(scores, truth),
        pooled=area_under_curve("auc", scores, pairs_by_fold(*by_label(judged, truth), truth)),
        per_id=per_id,
        why_no_interval=why_no_interval(truth),
    )
