"""Official scores by the rule of each year, against published means and cases worked by hand."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.metrics import Metric, domain_aucs, metric_of
from search.evaluation.official import Part, Year, official_score, parts_of, rule_of, year_for
from search.evaluation.truth import Truth

# The autoencoder of the DCASE 2020 Task 2 baseline on the development set, AUC and pAUC in per cent, averages over
# machine IDs as published with it: Koizumi et al. (2020), and their averages over machine types.
BASELINE_2020 = {
    "ToyCar": (78.77, 67.58),
    "ToyConveyor": (72.53, 60.43),
    "fan": (65.83, 52.45),
    "pump": (72.89, 59.99),
    "slider": (84.76, 66.53),
    "valve": (66.28, 50.98),
}
AVERAGE_2020 = (73.51, 59.66)


def test_2020_averages_over_machine_ids_then_over_machines() -> None:
    parts = parts_of(2020, [f"{machine}/00" for machine in BASELINE_2020])
    values = np.array([value / 100 for pair in BASELINE_2020.values() for value in pair])

    assert official_score(2020, parts, values) == pytest.approx(sum(AVERAGE_2020) / 200, abs=5e-5)


# What the challenge's evaluators print as an example in their README: for each machine type the AUC of source and
# target domain and the pAUC, and the official score of all.
EVALUATORS = {
    "nttcslab/dcase2023_task2_evaluator, baseline_MSE": (
        {
            "bandsaw": (0.6667348190554078, 0.48287671232876717, 0.5091087658743451),
            "grinder": (0.706837186424004, 0.5516569200779727, 0.5846166760294185),
            "shaker": (0.69428983714698, 0.5604118104118104, 0.5491654428600755),
            "ToyDrone": (0.7968000000000001, 0.561, 0.5368421052631579),
            "ToyNscale": (0.77, 0.4716, 0.5178947368421053),
            "ToyTank": (0.7212000000000001, 0.6468, 0.5826315789473684),
            "Vacuum": (0.8816, 0.45320000000000005, 0.5947368421052631),
        },
        0.5925469043549957,
    ),
    "nttcslab/dcase2023_task2_evaluator, baseline_MAHALA": (
        {
            "bandsaw": (0.836434267021059, 0.5885844748858448, 0.5753594967896497),
            "grinder": (0.7409411378914575, 0.50682261208577, 0.5955291246149972),
            "shaker": (0.8476602762317048, 0.6299533799533801, 0.6233307541280444),
            "ToyDrone": (0.8130000000000001, 0.4622, 0.5142105263157895),
            "ToyNscale": (0.6678000000000002, 0.409, 0.5089473684210526),
            "ToyTank": (0.8011999999999999, 0.4532, 0.5384210526315789),
            "Vacuum": (0.8383999999999999, 0.9006, 0.653157894736842),
        },
        0.6105082186925268,
    ),
    "nttcslab/dcase2024_task2_evaluator, DCASE2024_baseline_task2_MSE": (
        {
            "3DPrinter": (0.7912, 0.47959999999999997, 0.4942105263157895),
            "AirCompressor": (0.65, 0.4824, 0.5547368421052632),
            "Scanner": (0.6916, 0.5374000000000001, 0.5010526315789474),
            "ToyCircuit": (0.7658, 0.5266000000000001, 0.5),
            "HoveringDrone": (0.8601999999999999, 0.43879999999999997, 0.5021052631578947),
            "HairDryer": (0.6224000000000001, 0.4598, 0.5163157894736842),
            "ToothBrush": (0.7504000000000001, 0.6948, 0.5273684210526316),
            "RoboticArm": (0.6596, 0.4152, 0.511578947368421),
            "BrushlessMotor": (0.7070000000000001, 0.6352, 0.5557894736842105),
        },
        0.5650830191796572,
    ),
}


@pytest.mark.parametrize("example", EVALUATORS)
def test_2022_and_later_equal_the_published_evaluators_on_their_examples(example: str) -> None:
    of_machines, published = EVALUATORS[example]
    parts = parts_of(2022, [f"{machine}/00" for machine in of_machines])

    score = official_score(2022, parts, np.array([value for values in of_machines.values() for value in values]))

    assert score == pytest.approx(published, rel=1e-12)


def test_2022_equals_the_published_totals() -> None:
    """Kota-Dohi/dcase2022_evaluator: the README has the harmonic means over all AUCs and over all pAUCs alone.

    There are two AUCs, of source and target, for each pAUC.
    """
    parts = parts_of(2022, ["fan/00"])

    score = official_score(2022, parts, np.array([0.5301047626828244, 0.5301047626828244, 0.5280441052754629]))

    assert score == pytest.approx(0.5294160921841315, rel=1e-12)


# y-kawagu/dcase2021_task2_evaluator, README: of section and domain AUC and pAUC, and their harmonic means.
EVALUATOR_2021 = {
    "fan": (
        [(0.6669, 0.5273684210526316), (0.7014, 0.52), (0.5834, 0.5352631578947369)],
        [(0.5229, 0.49315789473684213), (0.5357, 0.5063157894736842), (0.448452380952381, 0.4805764411027569)],
        (0.5634700058286667, 0.5097204125946903),
    ),
    "pump": (
        [(0.7691000000000001, 0.5810526315789474), (0.6904, 0.52), (0.6524000000000001, 0.5326315789473685)],
        [(0.5727, 0.5273684210526316), (0.5555, 0.521578947368421), (0.6652, 0.5468421052631579)],
        (0.6430137021761633, 0.5374559270729756),
    ),
}


def test_2021_equals_the_published_evaluator_on_its_example() -> None:
    """The official score is the harmonic mean of all values: that of the published means, each of six values."""
    parts = parts_of(2021, [f"{machine}/{section}" for machine in EVALUATOR_2021 for section in ("03", "04", "05")])
    values = [
        value
        for sources, targets, _ in EVALUATOR_2021.values()
        for of_source, of_target in zip(sources, targets, strict=True)
        for value in (*of_source, *of_target)
    ]

    score = official_score(2021, parts, np.array(values))

    means = [mean for _, _, of_machine in EVALUATOR_2021.values() for mean in of_machine]
    assert score == pytest.approx(len(means) / sum(1 / mean for mean in means), rel=1e-12)


# y-kawagu/dcase2020_task2_evaluator, README: AUC and pAUC of three machine IDs, and their averages.
EVALUATOR_2020 = {
    "fan": [
        (0.7939877300613497, 0.6181788827897966),
        (0.8663687150837989, 0.6768597471331961),
        (0.869850950290476, 0.7075731309293712),
    ],
    "valve": [
        (0.57725, 0.5109649122807017),
        (0.5424166666666665, 0.5166666666666667),
        (0.551825, 0.49144736842105263),
    ],
}
AVERAGES_2020 = [0.8434024651452082, 0.6675372536174548, 0.5571638888888889, 0.506359649122807]


def test_2020_equals_the_published_evaluator_on_its_example() -> None:
    parts = parts_of(2020, [f"{machine}/{number}" for machine in EVALUATOR_2020 for number in ("01", "03", "05")])
    values = [value for of_ids in EVALUATOR_2020.values() for of_id in of_ids for value in of_id]

    assert official_score(2020, parts, np.array(values)) == pytest.approx(np.mean(AVERAGES_2020), rel=1e-12)


def test_a_part_of_zero_leaves_what_the_evaluators_floor_leaves_of_it() -> None:
    """They replace 0 by sys.float_info.epsilon before the harmonic mean."""
    floored = 3 / (1 / sys.float_info.epsilon + 1 / 0.5 + 1 / 0.5)

    score = official_score(2022, parts_of(2022, ["fan/00"]), np.array([0.0, 0.5, 0.5]))

    assert score == pytest.approx(floored, abs=1e-14)


def test_2020_counts_machines_alike_however_many_ids_they_have() -> None:
    parts = parts_of(2020, ["fan/00", "pump/00", "pump/02"])
    values = np.array([0.6, 0.6, 0.8, 0.8, 1.0, 1.0])  # AUC and pAUC of each

    assert official_score(2020, parts, values) == pytest.approx((0.6 + (0.8 + 1.0) / 2) / 2)


def test_later_years_take_the_harmonic_mean_of_all_parts() -> None:
    # By hand: 2 / (1 / 0.5 + 1 / 1) = 2/3; one part without merit leaves none.
    parts = [Part(id_name="fan/00", kind="auc"), Part(id_name="fan/00", kind="pauc")]

    assert official_score(2022, parts, np.array([0.5, 1.0])) == pytest.approx(2 / 3)
    assert official_score(2021, parts, np.array([0.0, 1.0])) == 0


@pytest.mark.parametrize(
    ("year", "kinds"),
    [
        (2020, ["auc", "pauc"]),
        (2021, ["auc source source", "pauc source source", "auc target target", "pauc target target"]),
        (2022, ["auc source", "auc target", "pauc"]),
    ],
)
def test_each_year_has_its_parts_of_a_machine_id(year: Year, kinds: list[str]) -> None:
    parts = parts_of(year, ["fan/00"])

    assert [" ".join(filter(None, (part.kind, part.normals, part.anomalies))) for part in parts] == kinds


def test_the_year_follows_from_the_domains() -> None:
    assert year_for(["source", None]) == 2022
    assert year_for([None]) == year_for([]) == 2020


# Two normal clips and one anomaly in each domain, of one ID: scores of normal ones, of the anomaly.
TWO_DOMAINS = Truth(ids=("fan/00",) * 6, labels=(0, 0, 1, 0, 0, 1), domains=("source",) * 3 + ("target",) * 3)
SCORES = np.array([1.0, 3.0, 2.0, 4.0, 6.0, 5.0])


@pytest.mark.parametrize(
    ("year", "source", "target"),
    [
        (2021, 1 / 2, 1 / 2),  # of each domain one pair of two is in the right order
        (2022, 3 / 4, 1 / 4),  # source: 2 > 1, 5 > 1, 5 > 3, not 2 > 3; target: 5 > 4 alone
    ],
)
def test_a_domain_s_auc_since_2022_takes_the_anomalies_of_both(year: Year, source: float, target: float) -> None:
    assert domain_aucs(SCORES, TWO_DOMAINS, year=year) == {"fan/00": {"source": source, "target": target}}


# Of one ID: ten normal clips of the source domain (score 0), ten of the target domain (2), an anomaly of each (1, 3).
BY_HAND = Truth(
    ids=("fan/00",) * 22,
    labels=(0,) * 20 + (1, 1),
    domains=("source",) * 10 + ("target",) * 10 + ("source", "target"),
)
#: The ROC curve finds half of the anomalies at no false alarm, and no more up to a rate of 0.1; standardised.
PAUC_BY_HAND = (1 + (0.1 * 0.5 - 0.005) / (0.1 - 0.005)) / 2


@pytest.mark.parametrize(
    ("year", "score"),
    [
        (2020, (30 / 40 + PAUC_BY_HAND) / 2),
        (2021, 1.0),  # within each domain the anomaly is above all normal clips
        # Source: both anomalies are above its normal clips; target: one of the two is.
        *((year, 3 / (1 / 1.0 + 1 / 0.5 + 1 / PAUC_BY_HAND)) for year in (2022, 2023, 2024, 2025, 2026)),
    ],
)
def test_each_year_s_score_as_worked_by_hand(year: int, score: float) -> None:
    scores = np.array([0.0] * 10 + [2.0] * 10 + [1.0, 3.0])

    assert metric_of("official", scores, BY_HAND, year=rule_of(year)) == pytest.approx(score, rel=1e-12)


def case(clips: int, *, ids: int = 1, domains: bool = False) -> tuple[Scores, Truth]:
    rng = np.random.default_rng(clips)
    labels = np.arange(clips) % 2
    return rng.integers(0, 9, clips) + labels * 2.0, Truth(
        ids=tuple(f"fan/{clip // 4 % ids:02d}" for clip in range(clips)),
        labels=tuple(labels.tolist()),
        domains=tuple("source" if clip // 2 % 2 else "target" for clip in range(clips)) if domains else (),
    )


@pytest.mark.parametrize("metric", ["auc", "pauc", "official", "worst_id"])
@pytest.mark.parametrize("domains", [False, True])
def test_a_resample_s_metric_is_that_of_its_clips(metric: Metric, domains: bool) -> None:
    scores, truth = case(96, ids=2, domains=domains)
    bootstrap = Bootstrap(truth, resamples=20)

    resampled = bootstrap.metric(metric, scores)

    for resample, counts in enumerate(bootstrap._drawn.T):
        drawn = np.repeat(np.arange(96), counts)
        of_drawn = Truth(
            ids=tuple(truth.ids[clip] for clip in drawn),
            labels=tuple(truth.labels[clip] for clip in drawn),
            domains=tuple(truth.domains[clip] for clip in drawn) if domains else (),
        )
        assert resampled[resample] == pytest.approx(metric_of(metric, scores[drawn], of_drawn), abs=1e-12)


@settings(max_examples=30, deadline=None, database=None)
@given(st.lists(st.integers(-9, 9), min_size=48, max_size=48), st.sampled_from(["auc", "pauc", "official", "worst_id"]))
def test_any_increasing_map_of_scores_leaves_every_metric_as_it_is(values: list[int], metric: Metric) -> None:
    _, truth = case(48, domains=True)
    scores = np.array(values, dtype=np.float64)

    assert metric_of(metric, np.exp(scores / 3) - 5, truth) == metric_of(metric, scores, truth)


def test_the_worst_id_is_the_one_with_the_lowest_auc() -> None:
    truth = Truth(ids=("fan/00",) * 2 + ("fan/02",) * 4, labels=(0, 1, 0, 1, 0, 1))

    assert metric_of("worst_id", np.array([1.0, 2.0, 1.0, 2.0, 3.0, 0.0]), truth) == 0.25


@pytest.mark.parametrize(
    ("metric", "year", "changes", "message"),
    [
        ("pauc", None, {}, "needs 10 of them, but fan/00 has 4"),
        ("official", 2020, {}, "needs 10 of them, but fan/00 has 4"),
        ("official", 2022, {"domains": ()}, "4 of the 4 of fan/00 have none"),
        ("official", 2022, {"domains": ("source",) * 8}, "has none of the target domain"),
    ],
)
def test_an_undefined_metric_is_an_error_with_the_reason(
    metric: Metric, year: Year | None, changes: dict[str, Any], message: str
) -> None:
    labels = (0, 0, 0, 0, 1, 1, 1, 1)
    truth = Truth(**{"ids": ("fan/00",) * 8, "labels": labels, "domains": ("source", "target") * 4, **changes})

    with pytest.raises(StudyError, match=message):
        metric_of(metric, np.arange(8.0), truth, year=year)
