"""The replay of which variant a trial takes; benchmarks/variants.py shows it on a corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks import variants
from benchmarks.variants import RULES, Recorded, Taken, aucs_of, half, in_strata, in_the_mean, of_the_best, replay
from features.clips.corpus import read_corpus
from models.scoring.scores import Scores
from search.evaluation.truth import Truth
from search.validation.split import labelled_test_clips


def truth_of(*strata: tuple[str, int, int]) -> Truth:
    """The truth of machine IDs with so many normal clips and so many anomalies."""
    ids = [name for name, normal, anomalous in strata for _ in range(normal + anomalous)]
    labels = [label for _, normal, anomalous in strata for label in [0] * normal + [1] * anomalous]
    return Truth(tuple(ids), tuple(labels))


TRUTH = truth_of(("fan/00", 20, 20), ("fan/02", 20, 20))


def clips_with_auc(auc: float, rng: np.random.Generator) -> Scores:
    """Scores of a detector with about this AUC: each anomaly is above a normal clip with that probability."""
    return np.asarray(rng.standard_normal(len(TRUTH)) + np.array(TRUTH.labels) * np.sqrt(2) * norm.ppf(auc))


@pytest.mark.parametrize("seed", range(5))
def test_each_half_has_clips_of_each_id_and_label(seed: int) -> None:
    truth = truth_of(("fan/00", 4, 5), ("fan/02", 2, 3))
    chosen = half(truth, np.random.default_rng(seed))

    for side in (chosen, ~chosen):
        counts = [
            int((side & (np.array(truth.ids) == name) & (np.array(truth.labels) == label)).sum())
            for name, label in (("fan/00", 0), ("fan/00", 1), ("fan/02", 0), ("fan/02", 1))
        ]
        assert counts[0] == 2 and counts[1] in (2, 3) and counts[2] == 1 and counts[3] in (1, 2)


def test_an_id_that_cannot_be_halved_does_not_count() -> None:
    truth = truth_of(("fan/00", 2, 2), ("fan/02", 5, 1), ("fan/04", 3, 0))

    assert in_strata(truth).tolist() == [True] * 4 + [False] * 9


def test_every_second_split_swaps_the_halves() -> None:
    training = Recorded("ae", (0,), np.random.default_rng(0).standard_normal((1, len(TRUTH))))

    one, other = (replay([training], TRUTH, seed=seed)[0] for seed in (6, 7))
    assert (one.validation, one.held_out) == (other.held_out, other.validation)
    assert one.validation != one.held_out


def test_the_highest_is_never_below_and_the_default_is_the_first_that_has_scores() -> None:
    rng = np.random.default_rng(0)
    scores = np.stack([np.full(len(TRUTH), np.nan), *(clips_with_auc(0.7, rng) for _ in range(9))])
    alone = Recorded("ae", (0,), scores[1:2])

    taken = {one.rule: one for one in replay([Recorded("ae", (0, *[1] * 9), scores)], TRUTH, seed=0)}
    assert taken["highest"].validation == max(one.validation for one in taken.values())
    (default,) = (one for one in replay([alone], TRUTH, seed=0) if one.rule == "default")
    assert taken["default"] == default


def test_the_rule_counts_earlier_trainings_of_the_same_family_alone() -> None:
    """Chance makes another variant the highest in many trainings; in a family's mean it is the good one."""
    rng = np.random.default_rng(0)

    def training(family: str, good: int) -> Recorded:
        scores = np.stack([clips_with_auc(0.8 if number == good else 0.7, rng) for number in range(20)])
        return Recorded(family, tuple(range(20)), scores)

    trainings = [*(training("ae", 3) for _ in range(6)), *(training("vae", 5) for _ in range(6))]
    splits = [replay(trainings, TRUTH, seed=seed) for seed in range(4)]

    by_rule = {rule: aucs_of(splits, "all", rule, in_the_mean).mean(axis=0) for rule in RULES}
    optimism = {rule: validation - held_out for rule, (validation, held_out) in by_rule.items()}
    assert optimism["offkey"] < optimism["highest"]
    assert by_rule["default"][1] < by_rule["offkey"][1]


def test_a_study_ends_with_the_training_that_is_best_by_validation() -> None:
    taken = [Taken("ae", "default", 0.8, 0.9), Taken("ae", "default", 0.9, 0.6), Taken("vae", "default", 0.7, 0.9)]

    assert of_the_best(taken) == (0.9, 0.6)
    assert in_the_mean(taken) == pytest.approx((0.8, 0.8))
    assert aucs_of([taken], "vae", "default", of_the_best).tolist() == [[0.7, 0.9]]
    assert aucs_of([taken], "all", "default", of_the_best).tolist() == [[0.9, 0.6]]


def test_a_recorded_training_scores_every_labelled_clip_and_is_not_trained_again(
    corpus_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = read_corpus(corpus_root).for_study(None)
    study = variants.studies_of("best", ["ae"], ["training.epochs=1", "features.n_mels=32"])["ae"]

    first = variants.record(study, "ae", 0, corpus, tmp_path)
    monkeypatch.setattr(variants, "train_for_real", None)
    again = variants.record(study, "ae", 0, corpus, tmp_path)

    assert first is not None and again is not None
    assert first.scores.shape == (len(first.changes), len(labelled_test_clips(corpus)))
    assert first.changes[0] == 0 and len(first.changes) > 10
    assert np.array_equal(first.scores, again.scores, equal_nan=True)
