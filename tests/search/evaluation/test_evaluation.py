"""How well scores tell anomalies from normal clips: golden values, and what must hold of any scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from features.clips.clip import Clip
from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.evaluate import evaluate
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth


def truth_of(labels: Sequence[int], ids: Sequence[str] | None = None) -> Truth:
    return Truth(ids=tuple(["fan/00"] * len(labels) if ids is None else ids), labels=tuple(labels))


def array(values: Sequence[float]) -> Scores:
    return np.array(values, dtype=np.float64)


@st.composite
def scored_clips(draw: st.DrawFn) -> tuple[Scores, Truth]:
    """Clips of one to three IDs, each with both labels; scores are small integers, so that many tie."""
    ids, labels = [], []
    for machine_id in range(draw(st.integers(1, 3))):
        for label in (0, 1):
            count = draw(st.integers(1, 8))
            ids += [f"fan/0{machine_id}"] * count
            labels += [label] * count
    scores = draw(st.lists(st.integers(0, 12), min_size=len(ids), max_size=len(ids)))
    return array(scores), truth_of(labels, ids)


# Counted by hand: of the pairs of an anomaly and a normal clip, those in the right order, a tie counting half.
@pytest.mark.parametrize(
    ("labels", "scores", "auc"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 3 / 4),
        ([0, 0, 1, 1], [1, 2, 2, 3], 3.5 / 4),
        ([0, 0, 1, 1], [1, 2, 3, 4], 1.0),
        ([0, 0, 1, 1], [3, 4, 1, 2], 0.0),
        ([0, 0, 0, 1], [5, 5, 5, 5], 0.5),
        ([1, 0, 1, 0, 1], [2, 2, 1, 0, 9], 4.5 / 6),
        ([0, 1], [-1e300, 1e300], 1.0),
    ],
)
def test_auc_is_the_share_of_pairs_in_the_right_order(labels: list[int], scores: list[float], auc: float) -> None:
    assert mean_auc(array(scores), truth_of(labels)) == pytest.approx(auc, abs=1e-15)


def test_auc_is_averaged_over_machine_ids_and_never_pooled() -> None:
    # Each ID is told apart without a fault, on another level; pooled, 3 of 4 pairs would be in the right order.
    truth = truth_of([0, 1, 0, 1], ["fan/00", "fan/00", "fan/02", "fan/02"])
    scores = array([1, 2, 11, 12])

    assert mean_auc(scores, truth) == 1.0
    assert roc_auc_score(truth.labels, scores) == 0.75


def test_pooled_auc_takes_all_clips_together_of_the_ids_that_have_an_auc() -> None:
    truth = truth_of([0, 1, 0, 1, 0], ["fan/00", "fan/00", "fan/02", "fan/02", "fan/04"])

    metrics = evaluate(array([1, 2, 11, 12, 99]), truth)

    assert (metrics.auc, metrics.pooled) == (1.0, 0.75)  # 3 of 4 pairs, see above


def test_ids_count_alike_however_many_clips_they_have() -> None:
    truth = truth_of([0, 1] + [0] * 10 + [1] * 10, ["fan/00"] * 2 + ["fan/02"] * 20)

    assert mean_auc(array([2, 1] + [1] * 10 + [2] * 10), truth) == 0.5


@settings(max_examples=60, deadline=None, database=None)
@given(scored_clips())
def test_auc_equals_a_count_of_all_pairs(scored: tuple[Scores, Truth]) -> None:
    scores, truth = scored
    of_ids = []
    for name in sorted(set(truth.ids)):
        mine = [(score, label) for score, label, i in zip(scores, truth.labels, truth.ids, strict=True) if i == name]
        anomalies = [score for score, label in mine if label == 1]
        normals = [score for score, label in mine if label == 0]
        pairs = [(a > n) + (a == n) / 2 for a in anomalies for n in normals]
        of_ids.append(sum(pairs) / len(pairs))

    assert mean_auc(scores, truth) == pytest.approx(sum(of_ids) / len(of_ids), abs=1e-12)


@settings(max_examples=60, deadline=None, database=None)
@given(scored_clips(), st.sampled_from(["line", "power", "exponential", "logarithm"]))
def test_auc_depends_on_the_order_of_scores_alone(scored: tuple[Scores, Truth], kind: str) -> None:
    scores, truth = scored
    # Strictly rising, and no two of the integers 0…12 meet in floating point.
    rising = {"line": 3 * scores - 7, "power": scores**3, "exponential": np.exp(scores), "logarithm": np.log1p(scores)}

    assert mean_auc(rising[kind], truth) == mean_auc(scores, truth)


@settings(max_examples=60, deadline=None, database=None)
@given(scored_clips())
def test_reversed_scores_give_one_minus_the_auc(scored: tuple[Scores, Truth]) -> None:
    scores, truth = scored

    assert mean_auc(-scores, truth) == pytest.approx(1 - mean_auc(scores, truth), abs=1e-12)


@settings(max_examples=60, deadline=None, database=None)
@given(scored_clips())
def test_the_order_of_the_clips_changes_no_metric_but_the_interval(scored: tuple[Scores, Truth]) -> None:
    scores, truth = scored
    turned = Truth(ids=truth.ids[::-1], labels=truth.labels[::-1])

    assert mean_auc(scores[::-1], turned) == pytest.approx(mean_auc(scores, truth), abs=1e-12)
    assert evaluate(scores[::-1], turned).per_id == evaluate(scores, truth).per_id


def test_pauc_by_hand() -> None:
    # Ten normals, 1 to 10, and anomalies 11 and 5.5. Up to a false-positive rate of 0.1 one of two anomalies is found:
    # area 0.5 · 0.1 = 0.05. McClish: (1 + (0.05 − 0.1²/2) / (0.1 − 0.1²/2)) / 2 = (1 + 0.045 / 0.095) / 2 = 14/19.
    metrics = evaluate(array([*range(1, 11), 11, 5.5]), truth_of([0] * 10 + [1, 1]))

    assert metrics.pauc == pytest.approx(14 / 19)
    assert metrics.auc == pytest.approx((10 + 5) / 20)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.integers(0, 30), min_size=10, max_size=25), st.lists(st.integers(0, 30), min_size=1, max_size=10))
def test_pauc_is_scikit_learn_s(normals: list[int], anomalies: list[int]) -> None:
    labels = [0] * len(normals) + [1] * len(anomalies)

    pauc = evaluate(array(normals + anomalies), truth_of(labels)).pauc

    assert pauc == roc_auc_score(labels, normals + anomalies, max_fpr=0.1)


@pytest.mark.parametrize(("normals", "is_defined"), [(9, False), (10, True)])
def test_pauc_is_undefined_below_ten_normal_clips(normals: int, is_defined: bool) -> None:
    metrics = evaluate(array(range(normals + 5)), truth_of([0] * normals + [1] * 5))

    assert (metrics.pauc is not None) == is_defined
    assert (metrics.per_id["fan/00"].pauc is not None) == is_defined


def test_one_id_with_too_few_normal_clips_leaves_the_mean_pauc_undefined() -> None:
    truth = truth_of([0] * 10 + [1] + [0] * 9 + [1], ["fan/00"] * 11 + ["fan/02"] * 10)

    metrics = evaluate(array(range(21)), truth)

    assert metrics.pauc is None
    assert metrics.per_id["fan/00"].pauc == 1.0


def test_the_metrics_of_each_id_count_its_clips() -> None:
    truth = truth_of([0, 0, 1, 0, 1, 1], ["fan/00"] * 3 + ["pump/02"] * 3)

    metrics = evaluate(array([1, 2, 3, 5, 4, 6]), truth)

    assert {name: (of_id.auc, of_id.normal, of_id.anomaly) for name, of_id in metrics.per_id.items()} == {
        "fan/00": (1.0, 2, 1),
        "pump/02": (0.5, 1, 2),
    }
    assert metrics.auc == 0.75


@pytest.mark.parametrize("labels_of_02", [[0, 0], [1, 1]])
def test_an_id_with_one_label_is_left_out_of_the_mean(labels_of_02: list[int]) -> None:
    truth = truth_of([0, 0, 1, 1, *labels_of_02], ["fan/00"] * 4 + ["fan/02"] * 2)
    scores = array([1, 2, 2, 3, 7, 0])

    assert mean_auc(scores, truth) == 3.5 / 4
    assert list(evaluate(scores, truth).per_id) == ["fan/00"]


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_without_both_labels_of_an_id_auc_is_undefined(labels: list[int]) -> None:
    for compute in (mean_auc, evaluate, lambda scores, truth: Bootstrap(truth).aucs(scores)):
        with pytest.raises(StudyError, match="AUC is undefined: no machine ID has both"):
            compute(array([1.0] * len(labels)), truth_of(labels))


def test_the_truth_of_clips_is_their_ids_and_labels() -> None:
    clips = [
        Clip(
            path=Path(name), name=name, machine="fan", machine_id=machine_id, split="test", label=label,
            source="development", domain=None, attributes="", sample_rate=16000, samples=1, digest="",
        )
        for name, machine_id, label in (("a", "00", 1), ("b", "02", 0))
    ]  # fmt: skip

    assert Truth.of(clips) == Truth(ids=("fan/00", "fan/02"), labels=(1, 0))


def overlapping(clips: int) -> tuple[Scores, Truth]:
    """As many anomalies as normal clips, of two normal distributions a standard deviation apart."""
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(0, 1, clips), rng.normal(1, 1, clips)])
    return scores, truth_of([0] * clips + [1] * clips)


@settings(max_examples=60, deadline=None, database=None)
@given(scored_clips())
def test_two_scorings_of_the_same_clips_are_resampled_alike(scored: tuple[Scores, Truth]) -> None:
    scores, truth = scored

    forwards, backwards = (Bootstrap(truth, resamples=50).aucs(scoring) for scoring in (scores, -scores))

    # The same draws: what one scoring loses in a resample, its reversal wins.
    assert forwards + backwards == pytest.approx(np.ones(50), abs=1e-12)
    assert Bootstrap(truth, resamples=50).aucs(2 * scores + 1).tolist() == forwards.tolist()


def test_a_bootstrap_drawn_once_serves_every_scoring_of_its_clips() -> None:
    scores, truth = overlapping(20)
    bootstrap = Bootstrap(truth, resamples=50)

    for scoring in (scores, -scores, scores):
        assert bootstrap.aucs(scoring).tolist() == Bootstrap(truth, resamples=50).aucs(scoring).tolist()


def test_a_paired_difference_varies_less_than_the_difference_of_two_intervals() -> None:
    scores, truth = overlapping(60)
    rng = np.random.default_rng(2)
    slightly_worse = scores + rng.normal(0, 0.3, len(scores))

    one, other = (Bootstrap(truth).aucs(scoring) for scoring in (scores, slightly_worse))

    assert np.std(one - other) < np.std(one) / 2


def test_resampled_aucs_lie_around_the_auc() -> None:
    scores, truth = overlapping(50)
    auc = mean_auc(scores, truth)

    resampled = Bootstrap(truth).aucs(scores)

    # Hanley and McNeil (1982): the standard error of an AUC of 0.76 with 50 and 50 clips is about 0.048.
    assert auc == pytest.approx(normal_cdf(1 / math.sqrt(2)), abs=0.1)
    assert resampled.mean() == pytest.approx(auc, abs=0.005)
    assert resampled.std() == pytest.approx(0.048, abs=0.01)
    interval = evaluate(scores, truth).interval
    assert interval is not None
    low, high = interval
    # 95 % of a normal distribution, and a little more: scores may be distributed in another way than in the model.
    assert 1 <= (high - low) / (2 * 1.96 * resampled.std()) < 1.15


def normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize("clips", [5, 20, 100])
def test_the_interval_contains_the_auc_and_narrows_with_more_clips(clips: int) -> None:
    metrics, of_more = evaluate(*overlapping(clips)), evaluate(*overlapping(4 * clips))

    assert metrics.interval is not None and of_more.interval is not None
    assert metrics.interval[0] < metrics.auc < metrics.interval[1]
    assert of_more.interval[1] - of_more.interval[0] < metrics.interval[1] - metrics.interval[0]


def test_few_clips_have_no_interval_and_it_says_why() -> None:
    metrics = evaluate(array([0, 1, 2, 3]), truth_of([0, 0, 1, 1]))

    assert (metrics.auc, metrics.interval) == (1.0, None)
    assert "has 2 and 2" in metrics.why_no_interval


def test_the_same_clips_and_scores_have_the_same_interval() -> None:
    assert evaluate(*overlapping(20)) == evaluate(*overlapping(20))
