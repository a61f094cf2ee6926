"""How well clip scores tell anomalies from normal clips.

scores : (clips,) float64, higher is more anomalous, in the order of the truth's clips.
AUC    : for each machine ID, then the mean over machine IDs. One with a single label has no AUC and is left out.
pooled : AUC over the clips of these machine IDs together: how well one threshold would do for all of them. It depends
         on the calibration.
folds  : of a cross-validation (search.validation.views): each fold has another model, and a clip may have a score in
         several folds. Scores of two folds have no common scale: AUC is computed within each fold, then averaged.
pAUC   : area below a false-positive rate of 0.1, standardised (McClish 1989); 0.1 is the p of DCASE Task 2.
metric : one number for a set of scores, from 0 to 1, higher is better:
         auc       mean AUC over machine IDs
         pauc      mean pAUC over machine IDs
         official  the challenge's score, by the rule of search.evaluation.official that fits the clips
         worst_id  the lowest AUC of a machine ID
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from features.clips.clip import ANOMALY, NORMAL, Domain
from features.clips.machine_id import MachineId
from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.official import Part, Year, official_score, parts_of
from search.evaluation.truth import Indices, Pairs, Truth, judged_ids

Metric = Literal["auc", "pauc", "official", "worst_id"]

MAX_FALSE_POSITIVE_RATE = 0.1
#: With fewer normal clips, a tenth of them is not one clip.
FEWEST_NORMALS_FOR_PAUC = 10


def mean_auc(scores: Scores, truth: Truth) -> float:
    """Return the mean AUC over machine IDs. Raises StudyError if no machine ID has both labels."""
    return float(np.mean(list(id_aucs(scores, truth).values())))


def id_aucs(scores: Scores, truth: Truth) -> dict[str, float]:
    """Return the AUC of each machine ID that has both labels. Raises StudyError if none has."""
    return {
        name: area_under_curve("auc", scores, pairs_of_part(Part(id_name=name, kind="auc"), truth))
        for name in judged_ids(truth)
    }


def metric_of(metric: Metric, scores: Scores, truth: Truth, *, year: Year | None = None) -> float:
    """Compute a metric of the scores; `year` chooses the official score's rule.

    Raises StudyError, with the reason, if the clips leave the metric undefined: no machine ID has both labels, there
    are too few normal clips for a pAUC, or clips have no domain although the rule needs one.
    """
    return float(metric_of_each(metric, scores[np.newaxis], truth, year=year)[0])


def metric_of_each(metric: Metric, scores: Scores, truth: Truth, *, year: Year | None = None) -> Scores:
    """Compute a metric of each set of scores (sets, clips); (sets,). Raises StudyError as `metric_of` does."""
    year = year or truth.year
    parts = parts_with_clips(metric, truth, year)
    values = np.array([areas_under_curve(part.kind, scores, pairs) for part, pairs in parts.items()])
    return combined(metric, year, list(parts), values)


def metric_of_machines(metric: Metric, values: Mapping[str, float], truth: Truth) -> float:
    """Compute a metric of all clips from its values for the clips of each machine type (machine type → value)."""
    parts = list(parts_with_clips(metric, truth, truth.year))
    of_parts = np.array([values[MachineId.parse(part.id_name).machine] for part in parts])
    return float(combined(metric, truth.year, parts, of_parts))


def domain_aucs(scores: Scores, truth: Truth, *, year: Year | None = None) -> dict[str, dict[str, float]]:
    """Return machine ID → domain → AUC, as that year's official score defines them; empty for 2020.

    Raises StudyError if the clips leave one of them undefined.
    """
    chosen = parts_of(year or truth.year, judged_ids(truth))
    aucs: dict[str, dict[str, float]] = {}
    for part in chosen:
        if part.kind == "auc" and part.normals is not None:
            aucs.setdefault(part.id_name, {})[part.normals] = area_under_curve(
                "auc", scores, pairs_of_part(part, truth)
            )
    return aucs


def standardised(area: Scores) -> Scores:
    """Scale a partial area so that chance is 1/2 and a perfect score is 1 (McClish 1989)."""
    chance = MAX_FALSE_POSITIVE_RATE**2 / 2
    return (1 + (area - chance) / (MAX_FALSE_POSITIVE_RATE - chance)) / 2


def area_under_curve(kind: Literal["auc", "pauc"], scores: Scores, pairs: Pairs) -> float:
    """Return the AUC or pAUC of each fold's clips, averaged over the folds."""
    return float(areas_under_curve(kind, scores[np.newaxis], pairs)[0])


def areas_under_curve(kind: Literal["auc", "pauc"], scores: Scores, pairs: Pairs) -> Scores:
    """Return the same of each set of scores (sets, clips); (sets,). Raises ValueError if a score is not finite."""
    of_fold = _aucs if kind == "auc" else _paucs
    return np.asarray(np.mean([of_fold(scores[:, normals], scores[:, anomalies]) for normals, anomalies in pairs], 0))


def _aucs(normals: Scores, anomalies: Scores) -> Scores:
    """Return the AUC of each set of scores, (sets,), from their ranks: all sets at once (Mann and Whitney 1947)."""
    from scipy.stats import rankdata

    scores = np.concatenate([anomalies, normals], axis=1)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    count = anomalies.shape[1]
    ranks = rankdata(scores, axis=1)[:, :count].sum(axis=1)
    return np.asarray((ranks - count * (count + 1) / 2) / (count * normals.shape[1]))


def _paucs(normals: Scores, anomalies: Scores) -> Scores:
    """Return the pAUC of each set of scores, (sets,)."""
    from sklearn.metrics import roc_auc_score  # here, so that a worker that waits for a trial stays small

    labels = np.repeat([NORMAL, ANOMALY], [normals.shape[1], anomalies.shape[1]])
    sets = np.concatenate([normals, anomalies], axis=1)
    return np.array([roc_auc_score(labels, scores, max_fpr=MAX_FALSE_POSITIVE_RATE) for scores in sets])


def parts_with_clips(metric: Metric, truth: Truth, year: Year) -> dict[Part, Pairs]:
    """Return the parts of a metric, each with its clips. Raises StudyError if a part is undefined."""
    names = judged_ids(truth)
    if metric == "official":
        parts = parts_of(year, names)
    else:
        parts = [Part(id_name=name, kind="pauc" if metric == "pauc" else "auc") for name in names]
    return {part: pairs_of_part(part, truth) for part in parts}


def pairs_of_part(part: Part, truth: Truth) -> Pairs:
    """Return the normal clips and the anomalies of a part. Raises StudyError if there are too few."""
    normals, anomalies = (
        _of_domain(part.id_name, label, domain, truth)
        for label, domain in ((NORMAL, part.normals), (ANOMALY, part.anomalies))
    )
    pairs = pairs_by_fold(normals, anomalies, truth)
    fewest = min(len(of_fold) for of_fold, _ in pairs)
    if part.kind == "pauc" and fewest < FEWEST_NORMALS_FOR_PAUC:
        of_domain = f" of the {part.normals} domain" if part.normals else ""
        in_a_fold = " in a fold" if truth.folds else ""
        raise StudyError(
            "pAUC is computed from the highest tenth of a machine ID's normal clips and needs "
            f"{FEWEST_NORMALS_FOR_PAUC} of them, but {part.id_name} has {fewest}{of_domain}{in_a_fold}. "
            "Add labelled normal clips, or use AUC."
        )
    return pairs


def pairs_by_fold(normals: Indices, anomalies: Indices, truth: Truth) -> Pairs:
    """Divide clips by fold; a fold without normal clips or without anomalies is left out."""
    if not truth.folds:
        return [(normals, anomalies)]
    folds = np.array(truth.folds)
    pairs = [
        (normals[folds[normals] == fold], anomalies[folds[anomalies] == fold]) for fold in range(truth.folds[-1] + 1)
    ]
    return [(of_fold, faulty) for of_fold, faulty in pairs if len(of_fold) and len(faulty)]


def by_label(clips: Indices, truth: Truth) -> tuple[Indices, Indices]:
    """Divide clips into normal ones and anomalies."""
    labels = np.array(truth.labels)[clips]
    return clips[labels == NORMAL], clips[labels == ANOMALY]


def _of_domain(name: str, label: int, domain: Domain | None, truth: Truth) -> Indices:
    """Return a machine ID's clips with this label, of one domain or of all.

    Raises StudyError if the domain of a clip is not known, or if no clip is of this domain.
    """
    ids, labels = np.array(truth.ids), np.array(truth.labels)
    clips = np.flatnonzero((ids == name) & (labels == label))
    if domain is None:
        return clips
    domains = np.array(truth.domains or (None,) * len(ids))[clips]
    what = "normal clips" if label == NORMAL else "anomalies"
    unknown = sum(of_clip is None for of_clip in domains)
    if unknown:
        raise StudyError(
            f"The official score since 2021 needs the domain (source or target) of all {what}, but {unknown} of the "
            f"{len(clips)} of {name} have none. Add it to the ground truth, or use AUC."
        )
    if not (domains == domain).any():
        raise StudyError(
            f"The official score since 2021 needs {what} of both domains of each machine ID, but {name} has none of "
            f"the {domain} domain. Add some, or use AUC."
        )
    return np.asarray(clips[domains == domain])


def combined(metric: Metric, year: Year, parts: Sequence[Part], values: Scores) -> Scores:
    """Combine the values (parts, …) of a metric's parts into one value; (…)."""
    if metric == "official":
        return official_score(year, parts, values)
    return np.asarray(values.min(axis=0) if metric == "worst_id" else values.mean(axis=0))
