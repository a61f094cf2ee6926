"""How high guessing reaches by chance: exact probabilities of few clips."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from features.clips.clip import ANOMALY, NORMAL
from search.evaluation.best_of_many import lead_over_guessing
from search.evaluation.guessing import highest_by_chance
from search.evaluation.truth import Truth


def truth_of(*counts: tuple[int, int]) -> Truth:
    """So many normal clips and anomalies of each machine ID."""
    labels = tuple(label for normal, faults in counts for label in [NORMAL] * normal + [ANOMALY] * faults)
    return Truth(tuple(f"fan/{number:02}" for number, both in enumerate(counts) for _ in range(sum(both))), labels)


@pytest.mark.parametrize(("normal", "faults"), [(3, 3), (5, 5), (4, 10)])
def test_all_clips_are_in_the_right_order_in_one_of_all_orders(normal: int, faults: int) -> None:
    truth, chance = truth_of((normal, faults)), 1 / comb(normal + faults, normal)

    assert highest_by_chance(truth, chance * 0.99) == 1
    below = highest_by_chance(truth, chance * 1.01)
    assert below is not None
    assert below == pytest.approx(1 - 1 / (normal * faults), abs=1 / 2000)


def test_of_one_machine_id_it_is_the_exact_test_of_mann_and_whitney() -> None:
    normal, anomalies = np.arange(12.0), np.array([5.5, 10.5, 11.5, 12.5, 13.5, 14.5, 15.5])
    test = mannwhitneyu(anomalies, normal, alternative="greater", method="exact")
    auc = test.statistic / (12 * 7)

    at_least = highest_by_chance(truth_of((12, 7)), test.pvalue * 0.999)
    less = highest_by_chance(truth_of((12, 7)), test.pvalue * 1.001)

    assert at_least is not None and less is not None
    assert at_least == pytest.approx(auc, abs=1 / 2000)
    assert less < auc


def test_the_mean_of_machine_ids_is_reached_as_often_as_by_random_scores() -> None:
    counts = [(4, 6), (8, 3)]
    rng = np.random.default_rng(0)
    aucs = [np.mean([(rng.random((n, 1)) < rng.random((1, m))).mean() for n, m in counts]) for _ in range(20_000)]
    highest = highest_by_chance(truth_of(*counts), 0.05)

    assert highest is not None
    assert np.mean(np.array(aucs) > highest + 1e-3) < 0.052
    assert np.mean(np.array(aucs) >= highest - 1e-3) > 0.045


@pytest.mark.parametrize(
    ("counts", "trials", "is_told"),
    [([(4, 10), (2, 5)], 20, True), ([(10, 10)], 100, True), ([(5, 5)], 2, True), ([(5, 5)], 20, False)],
)
def test_a_perfect_detector_is_better_than_guessing_unless_so_many_guesses_may_be_perfect(
    counts: list[tuple[int, int]], trials: int, is_told: bool
) -> None:
    truth = truth_of(*counts)
    scores = np.random.default_rng(0).random((trials, len(truth)))
    scores[0] = truth.labels

    assert lead_over_guessing(scores, truth, tried=trials).is_told == is_told


def test_many_clips_and_folds_are_left_to_the_normal_distribution() -> None:
    assert highest_by_chance(truth_of((60, 60)), 0.01) is None
    folded = Truth(("fan/00",) * 4, (0, 1, 0, 1), folds=(0, 0, 1, 1), recordings=(0, 1, 0, 1))
    assert highest_by_chance(folded, 0.01) is None
