"""Official scores by the rule of each year, against published means and cases worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.metrics import Metric, domain_aucs, metric_of
from search.evaluation.official import Part, Year, official_score, parts_of, year_for
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
