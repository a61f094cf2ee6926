"""How two systems differ on the same clips."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.interval import Interval
from search.evaluation.official import Year
from search.evaluation.score_truth import LabelledScores
from search.evaluation.system_differences import PairedDifference, differences
from search.evaluation.truth import Truth

IDS = ("fan/00",) * 60 + ("fan/02",) * 60
LABELS = (0, 1) * 60


def system(scores: Scores, *, ids: tuple[str, ...] = IDS, year: Year | None = 2020) -> LabelledScores:
    return LabelledScores(
        scores=scores,
        decisions=(None,) * len(ids),
        truth=Truth(ids=ids, labels=LABELS[: len(ids)]),
        without_scores=(),
        year=year,
        why_no_year="",
        warnings=(),
        of_corpus=False,
    )


def noisy(seed: int, gain: float) -> Scores:
    return np.random.default_rng(seed).normal(size=120) + gain * np.array(LABELS)


def test_each_difference_is_that_of_the_metrics_for_each_id_and_over_all() -> None:
    one, other = noisy(0, 2.0), noisy(1, 0.5)

    against = differences(system(one), system(other))

    labels, fan_00 = np.array(LABELS), np.array(IDS) == "fan/00"
    auc, pauc = (
        [roc_auc_score(labels[fan_00], of[fan_00], max_fpr=max_fpr) for of in (one, other)] for max_fpr in (None, 0.1)
    )
    of_id = against.per_id["fan/00"]
    assert of_id.auc.difference == pytest.approx(auc[0] - auc[1])
    assert of_id.pauc is not None
    assert of_id.official is not None
    assert (of_id.pauc.value, of_id.pauc.other) == pytest.approx(pauc)
    assert of_id.official.difference == pytest.approx((auc[0] + pauc[0] - auc[1] - pauc[1]) / 2)
    mean = np.mean([of.auc.difference for of in against.per_id.values()])
    assert against.overall.auc.difference == pytest.approx(mean)
    assert list(against.per_id) == ["fan/00", "fan/02"]


def test_clips_that_both_find_hard_do_not_widen_the_interval() -> None:
    one = noisy(0, 1.0)
    other = one + 0.1 * noisy(1, 0.0)  # hard clips are hard for both: the difference is known far better than the AUC
    clips = system(one)

    of_difference = differences(clips, system(other)).overall.auc.interval

    assert of_difference is not None
    of_auc = Interval.of(Bootstrap(clips.truth).aucs(one))
    assert of_difference.high - of_difference.low < (of_auc.high - of_auc.low) / 2


def test_what_is_undefined_is_none_and_the_rest_stands() -> None:
    against = differences(system(noisy(0, 1.0)[:12], ids=IDS[:12], year=None), system(noisy(1, 1.0)[:12], ids=IDS[:12]))

    assert (against.overall.pauc, against.overall.official) == (None, None)
    assert against.overall.auc.value > 0


def test_only_ids_that_both_scored_are_compared() -> None:
    against = differences(system(noisy(0, 1.0)), system(noisy(1, 1.0)[:60], ids=IDS[:60]))

    assert (list(against.per_id), against.of_one_alone) == (["fan/00"], ("fan/02",))
    assert against.overall.auc.value == against.per_id["fan/00"].auc.value


def test_a_system_against_itself_has_no_interval_but_is_said_to_be_the_same() -> None:
    against = differences(system(noisy(0, 1.0)), system(noisy(0, 1.0)))

    assert (against.overall.auc.difference, against.overall.auc.interval) == (0.0, None)
    assert against.overall.auc.in_words == "the same scores on every clip"


def test_systems_without_a_common_id_are_refused() -> None:
    with pytest.raises(StudyError, match="no machine ID in common, but fan/00 and fan/02: give scores of the same"):
        differences(system(noisy(0, 1.0)[:60], ids=IDS[:60]), system(noisy(1, 1.0)[:60], ids=IDS[60:]))


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(0.01, 0.2), "higher"),
        (Interval(-0.2, -0.01), "lower"),
        (Interval(-0.1, 0.1), "not told apart"),
        (Interval(0, 0.1), "not told apart"),
        (None, "too few clips to tell"),
    ],
)
def test_the_interval_says_what_the_clips_can_tell(interval: Interval | None, words: str) -> None:
    assert PairedDifference(value=0.8, other=0.7, interval=interval, are_same=False).in_words == words
