"""What a metric leaves open where few clips of a label carry most of its error: five faults among a hundred clips.

Two ends, neither of which supposes how scores are distributed:

The error of a metric by its contributions (search.evaluation.contributions), which differ as much as the clips of each
label do. So few clips leave their spread uncertain: the error counts as Student's t distribution does, with the degrees
of freedom of Welch (1947), and on the logit scale, which keeps the ends between 0 and 1.

Clips that were not recorded have no contribution. Perhaps a share of the clips of a label sounds like the other one,
and is not among them: a share of 1 − 0.025^(1/k) goes unseen by k clips in one set of forty (Clopper and Pearson 1934,
for 0 of k). Such clips are ranked by chance, which takes the metric so much nearer to 0.5.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from models.scoring.scores import Scores
from search.evaluation.bootstrap import strata_of
from search.evaluation.contributions import contributions_of
from search.evaluation.metrics import Metric
from search.evaluation.official import Year
from search.evaluation.truth import Indices, Truth, judged_ids

#: The probability beyond one end.
_TAIL = 0.025


def ends_by_contributions(metric: Metric, year: Year, scores: Scores, truth: Truth) -> Scores:
    """Return the lowest and the highest value of a metric that the spread of its contributions leaves open; (2,).

    Raises StudyError as `metric_of` does.
    """
    from scipy.special import expit, logit
    from scipy.stats import t

    values, contributions = contributions_of(metric, scores[np.newaxis], truth, year=year)
    value = float(values[0])
    unseen = value - _unseen(metric, truth) * max(value - 0.5, 0.0)
    groups = [contributions[0, members] for members in _recordings(truth).values() if len(members) > 1]
    variances = np.array([len(of_group) * of_group.var(ddof=1) for of_group in groups])
    variance = float(variances.sum())
    if not 0 < value < 1 or variance == 0:
        return np.array([unseen, value])
    freedom = variance**2 / sum(
        of_group**2 / (len(group) - 1) for of_group, group in zip(variances, groups, strict=True)
    )
    reach = t.isf(_TAIL, freedom) * np.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-reach, reach]))
    return np.array([min(low, unseen), high])


def _recordings(truth: Truth) -> dict[tuple[str, int], Indices]:
    """Return the recordings of each machine ID and label, of the IDs that have both labels."""
    judged = judged_ids(truth)
    found: dict[tuple[str, int], Indices] = {}
    for (name, label, _), recordings in strata_of(truth)[0].items():
        if name in judged:
            found[name, label] = np.concatenate([found.get((name, label), np.empty(0, dtype=np.int64)), recordings])
    return found


def _unseen(metric: Metric, truth: Truth) -> float:
    """Return the share of the rarer label's clips that may sound like the other label, and that no clip shows."""
    counts: Counter[int] = Counter()
    for (_, label), recordings in _recordings(truth).items():
        counts[label] += len(recordings)
    fewest = min(map(len, _recordings(truth).values())) if metric == "worst_id" else min(counts.values())
    return float(1 - _TAIL ** (1 / fewest))
