"""What recordings contribute to a metric: it adds up to the metric, and varies as the metric does."""

from __future__ import annotations

import numpy as np
import pytest

from features.clips.clip import Domain
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.contributions import contributions_if_guessing, contributions_of
from search.evaluation.metrics import Metric, metric_of
from search.evaluation.truth import Truth

DOMAINS: tuple[Domain, ...] = ("source", "target")


def truth_of(clips: int) -> Truth:
    return Truth(
        ids=("fan/00",) * 2 * clips + ("fan/02",) * 2 * clips,
        labels=(0, 1) * 2 * clips,
        domains=tuple(DOMAINS[number // 2 % 2] for number in range(4 * clips)),
    )


@pytest.mark.parametrize("metric", ["auc", "pauc", "worst_id", "official"])
def test_the_difference_of_two_metrics_varies_as_the_contributions_do(metric: Metric) -> None:
    truth = truth_of(100)
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, len(truth))) + 1.5 * np.array(truth.labels)

    values, contributions = contributions_of(metric, np.stack([one, other]), truth)

    assert values == pytest.approx([metric_of(metric, one, truth), metric_of(metric, other, truth)])
    difference = contributions[0] - contributions[1]
    bootstrap = Bootstrap(truth, resamples=1000)
    resampled = bootstrap.metric(metric, one) - bootstrap.metric(metric, other)
    # In the lowest of two IDs, resamples of either may be the lowest.
    assert np.linalg.norm(difference) == pytest.approx(resampled.std(), rel=0.4 if metric == "worst_id" else 0.15)


def test_those_of_one_label_add_up_to_the_auc() -> None:
    truth = truth_of(30)
    scores = np.random.default_rng(0).standard_normal((2, len(truth))).round(1)  # with ties
    labels = np.array(truth.labels)

    values, contributions = contributions_of("auc", scores, truth)

    for label in (0, 1):
        sums = contributions[:, labels == label].sum(axis=1)
        assert sums[0] - sums[1] == pytest.approx(values[0] - values[1])


def test_a_recording_of_several_folds_contributes_once() -> None:
    alone = truth_of(20)
    scores = np.random.default_rng(0).standard_normal((2, len(alone)))
    twice = Truth(
        ids=alone.ids * 2,
        labels=alone.labels * 2,
        folds=(0,) * len(alone) + (1,) * len(alone),
        recordings=tuple(range(len(alone))) * 2,
    )

    for of in (lambda *a: contributions_of("auc", *a), contributions_if_guessing):
        assert of(np.tile(scores, 2), twice)[1] == pytest.approx(of(scores, alone)[1])


def test_where_trials_guess_they_vary_as_mann_and_whitney_say() -> None:
    truth = Truth(ids=("fan/00",) * 60, labels=(0,) * 40 + (1,) * 20)
    scores = np.random.default_rng(0).standard_normal((1, 60))

    _, contributions = contributions_if_guessing(scores, truth)

    assert np.linalg.norm(contributions) == pytest.approx((61 / (12 * 40 * 20)) ** 0.5, rel=0.1)
