"""The detectors of one training, in a stored study: when they are scored, which one a trial takes, what is kept."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from optuna.trial import TrialState

from search.study.recipe import Recipe
from search.training.protocols import VariantScores
from tests.support.faulty_worker import faulty
from tests.support.quick import QuickTraining
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

#: Three variants of each training: max changes one setting from the default, max with z two.
BLOCKS: dict[str, Any] = {
    "model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 2},
    "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": 5, "threads": 1, "calibration_share": 0.4},
    "scoring": {"pooling": {"choices": ["mean", "max"]}},
    "baseline": {},
}

#: Trial → pooling → how many of the anomalies score above all normal clips; the rest below.
DETECTED = {0: {"mean": 0.0, "max": 1.0}, 1: {"mean": 0.0, "max": 1.0}, 2: {"mean": 0.6, "max": 0.5}}


def scores_that_detect(share: float, labels: Any) -> Any:
    """Scores of which the AUC is this share."""
    anomalies = np.flatnonzero(labels == 1)
    scores = np.where(labels == 1, -1.0, 0.0) + 0.001 * np.arange(len(labels))
    scores[anomalies[: round(share * len(anomalies))]] = 1.0
    return scores


@pytest.fixture
def known_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that detect as `DETECTED` says, whatever is trained."""

    def scores(training: QuickTraining, recipes: list[Recipe]) -> list[VariantScores]:
        labels = np.array([clip.label for clip in training.validation_clips])
        detected = DETECTED[training._seed]
        return [scores_that_detect(detected[recipe.scoring.pooling], labels) for recipe in recipes]

    monkeypatch.setattr(QuickTraining, "scores_of_variants", scores)


def test_a_trial_is_judged_at_rungs_and_at_its_end_and_shows_the_variant_that_it_takes(
    tiny_study: MakeStudy, known_variants: None
) -> None:
    study = tiny_study(trials=1, **BLOCKS)

    study.worker(quick=True).run()

    (trial,) = trials_of(study)
    assert trial.params.keys() == {"h_dim", "pooling"}
    assert trial.params["pooling"] == "max"
    assert trial.intermediate_values == {1: 1.0, 3: 1.0, 5: 1.0}
    assert trial.value == 1.0
    assert trial.system_attrs["variants:5"]["values"] == [0.0, 1.0]


def test_a_trial_takes_what_its_family_s_trainings_like_and_not_what_it_is_lucky_with(
    tiny_study: MakeStudy, known_variants: None
) -> None:
    study = tiny_study(trials=3, **BLOCKS)

    study.worker(quick=True).run()

    trials = trials_of(study)
    assert [trial.params["pooling"] for trial in trials] == ["max"] * 3
    assert trials[2].value == pytest.approx(0.5, abs=0.2)
    assert trials[2].value < max(trials[2].system_attrs["variants:5"]["values"])


def test_a_trial_whose_variants_are_others_is_no_evidence(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(training: QuickTraining, recipes: list[Recipe]) -> list[VariantScores]:
        labels = np.array([clip.label for clip in training.validation_clips])
        is_first = len({recipe.scoring.pooling for recipe in recipes}) == 1
        wanted = [r.scoring.calibration == "none" if is_first else r.scoring.pooling == "max" for r in recipes]
        return [scores_that_detect(float(each), labels) for each in wanted]

    monkeypatch.setattr(QuickTraining, "scores_of_variants", scores)
    scoring = {"pooling": {"choices": ["mean", "max"]}, "calibration": {"choices": ["none", "z"]}}
    first = [{"pooling": "mean"}, {"calibration": "none"}]  # each leaves two variants
    study = tiny_study(**{**BLOCKS, "scoring": scoring, "search": {"trials": 2, "first": first}})

    study.worker(quick=True).run()

    assert [(trial.params["calibration"], trial.params["pooling"]) for trial in trials_of(study)] == [
        ("none", "mean"),
        ("none", "max"),
    ]


def test_a_curve_is_of_one_variant_although_another_led_at_first(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(training: QuickTraining, recipes: list[Recipe]) -> list[VariantScores]:
        labels = np.array([clip.label for clip in training.validation_clips])
        late = training.epoch == 5
        return [scores_that_detect(float((r.scoring.pooling == "max") == late), labels) for r in recipes]

    monkeypatch.setattr(QuickTraining, "scores_of_variants", scores)
    study = tiny_study(trials=1, **BLOCKS)

    study.worker(quick=True).run()

    (trial,) = trials_of(study)
    assert trial.params["pooling"] == "max"
    assert trial.intermediate_values == {1: 0.0, 3: 0.0, 5: 1.0}


@pytest.mark.parametrize(
    ("storage_url", "moment"),
    [("sqlite", "in the second epoch"), ("postgresql", "between ledger and value")],
    indirect=["storage_url"],
)
def test_a_trial_that_is_taken_over_ends_with_the_curve_and_the_variant_of_an_undisturbed_one(
    tiny_study: MakeStudy, moment: str
) -> None:
    undisturbed = tiny_study(trials=1, study="undisturbed", **BLOCKS)
    undisturbed.worker().run()
    study = tiny_study(trials=1, **BLOCKS)
    with faulty(study, moment, signal.SIGKILL, lease=0.3, real=True) as killed:
        killed.join(timeout=60)
        assert killed.exitcode == -signal.SIGKILL

    study.worker().run()

    (trial,), (expected,) = trials_of(study), trials_of(undisturbed)
    assert trial.state == TrialState.COMPLETE
    assert (trial.params, trial.intermediate_values) == (expected.params, expected.intermediate_values)
    np.testing.assert_array_equal(study.ledger.scores()[0], undisturbed.ledger.scores()[0])
