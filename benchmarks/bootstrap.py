"""Intervals of a figure: `Bootstrap` against a loop of scikit-learn's roc_auc_score over the same number of resamples.

    python -m benchmarks.bootstrap [--clips 1000] [--resamples 2000] [--rounds 5]

Both sides draw their resamples and compute the mean AUC of each, on one core, for one machine ID and for six. The loop
is what one writes by hand: of each ID and label as many clips as there are, drawn with replacement. Then, of our side
alone, what the other metrics take, with domains.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.sides import in_turn, machine_line, on_one_core, show
from models.scoring.scores import Scores
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.metrics import Metric
from search.evaluation.truth import Truth

METRICS: tuple[Metric, ...] = ("auc", "worst_id", "pauc", "official")


def scored(clips: int, ids: int) -> tuple[Scores, Truth]:
    """Clips of some machine IDs, half of them anomalies and half of each domain, that overlap."""
    rng = np.random.default_rng(0)
    labels = np.arange(clips) % 2
    truth = Truth(
        ids=tuple(f"fan/{clip // 4 % ids:02d}" for clip in range(clips)),
        labels=tuple(labels.tolist()),
        domains=tuple("source" if clip // 2 % 2 else "target" for clip in range(clips)),
    )
    return rng.standard_normal(clips) + labels, truth


def loop(scores: Scores, truth: Truth, resamples: int) -> Scores:
    rng = np.random.default_rng(0)
    ids, labels = np.array(truth.ids), np.array(truth.labels)
    strata = [[np.flatnonzero((ids == name) & (labels == label)) for label in (0, 1)] for name in sorted(set(ids))]
    aucs = np.empty(resamples)
    for resample in range(resamples):
        of_ids = []
        for of_labels in strata:
            drawn = np.concatenate([rng.choice(clips, len(clips)) for clips in of_labels])
            of_ids.append(roc_auc_score(labels[drawn], scores[drawn]))
        aucs[resample] = np.mean(of_ids)
    return aucs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    on_one_core()
    print(f"{machine_line()}; {arguments.clips} clips, {arguments.resamples} resamples, one core")
    for ids in (1, 6):
        scores, truth = scored(arguments.clips, ids)

        def ours(scores: Scores = scores, truth: Truth = truth) -> Scores:
            return Bootstrap(truth, resamples=arguments.resamples).aucs(scores)

        def by_hand(scores: Scores = scores, truth: Truth = truth) -> Scores:
            return loop(scores, truth, arguments.resamples)

        seconds = in_turn({"Bootstrap(truth).aucs(scores)": ours, "a loop": by_hand}, rounds=arguments.rounds)
        show(f"{ids} machine IDs", seconds, ours="Bootstrap(truth).aucs(scores)", unit=1e-3, unit_name="ms")
        bootstrap = Bootstrap(truth, resamples=arguments.resamples)
        seconds = in_turn(
            {metric: partial(bootstrap.metric, metric, scores) for metric in METRICS}, rounds=arguments.rounds
        )
        show(f"{ids} machine IDs, drawn once", seconds, ours="auc", unit=1e-3, unit_name="ms")


if __name__ == "__main__":
    main()
