"""Pruners, and the decisions of the noise-aware one on curves and clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.pruners import MedianPruner, NopPruner, WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from models.scoring.scores import Scores
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.metrics import metric_of
from search.evaluation.noise import noise_of
from search.evaluation.truth import Truth
from search.sampling.pruning import FEWEST_OTHERS, MARGIN, NoisePruner, noise_key
from search.sampling.rungs import Hyperband, WithinFamily, first_rung, is_on_curve, is_rung
from search.sampling.samplers import pruner_for
from search.storage.study_storage import FAILED
from search.study.search_settings import SearchSettings

Curve = Mapping[int, float]


def truth_of(clips: int) -> Truth:
    """`clips` normal and `clips` anomalous clips of each of two machine IDs."""
    ids = tuple(name for name in ("fan/00", "fan/02") for _ in range(2 * clips))
    return Truth(ids=ids, labels=(0, 1) * (2 * clips))


def scored(truth: Truth, *, ability: float, seed: int, like: Scores | None = None, share: float = 0.0) -> Scores:
    """Scores that raise anomalies by `ability` standard deviations; the rest shares `share` with `like`."""
    rest = np.random.default_rng(seed).standard_normal(len(truth.labels))
    if like is not None:
        rest = math.sqrt(1 - share**2) * rest + share * like
    return np.asarray(rest + ability * np.array(truth.labels))


def trial_of(
    curve: Curve,
    *,
    noise: Sequence[float] | None,
    state: TrialState = TrialState.COMPLETE,
    failed: bool = False,
) -> FrozenTrial:
    """A trial that reported a curve, with this noise at each epoch."""
    known: dict[str, Any] = {} if noise is None else {noise_key(epoch): list(noise) for epoch in curve}
    ended = state in (TrialState.COMPLETE, TrialState.PRUNED) and not failed
    return create_trial(
        state=state,
        value=list(curve.values())[-1] if ended else None,
        intermediate_values=dict(curve),
        system_attrs=known | ({f"constraints:{FAILED}": 1.0} if failed else {}),
    )


def is_stopped(others: Sequence[FrozenTrial], trial: FrozenTrial, *, margin: float = MARGIN) -> bool:
    """Whether the pruner stops a trial that comes after these."""
    study = optuna.create_study(direction="maximize")
    study.add_trials([*others, trial])
    return NoisePruner(margin=margin).prune(study, study.get_trials()[-1])


#: Two trials' noise of standard error 0.03 each; of their difference 0.03·√2 = 0.042 if they share none of it.
NOISE, OTHER_NOISE = [0.03, 0.0, 0.0], [0.0, 0.03, 0.0]

#: At their first epoch 0.81 to 0.89: of nine others the third best, 0.87, is the reference.
OTHERS = [trial_of({1: 0.80 + 0.01 * place, 2: 0.9}, noise=NOISE) for place in range(1, 10)]


@pytest.mark.parametrize(
    ("curve", "noise", "stopped"),
    [
        ({1: 0.79}, OTHER_NOISE, True),  # 0.08 behind, more than 1.645 · 0.042 = 0.070
        ({1: 0.81}, OTHER_NOISE, False),  # 0.06 behind
        ({1: 0.81}, [0.025, 0.0, 0.0], True),  # as far behind, but most of the noise is the same: 1.645 · 0.005
        ({1: 0.81}, [-0.03, 0.0, 0.0], False),  # clips that make one look good make the other look bad: 0.06
        ({1: 0.869}, NOISE, True),  # the same clips, the same mistakes but one more: nothing is left to chance
        ({1: 0.80 + 0.01 * 7}, NOISE, False),  # level with the reference
        ({1: 0.95}, OTHER_NOISE, False),
        ({1: 0.95, 2: 0.2}, OTHER_NOISE, False),  # the second epoch is no rung
        ({1: math.nan}, OTHER_NOISE, False),
        ({1: 0.2}, None, False),
        ({}, OTHER_NOISE, False),
    ],
)
def test_a_trial_is_stopped_if_it_is_further_behind_the_best_third_than_chance_explains(
    curve: Curve, noise: Sequence[float] | None, stopped: bool
) -> None:
    running = trial_of(curve, noise=noise, state=TrialState.RUNNING)

    assert is_stopped(OTHERS, running) == stopped


@pytest.mark.parametrize("clips", [6, 200])
def test_a_difference_that_few_clips_leave_to_chance_is_certain_with_many(clips: int) -> None:
    truth = truth_of(clips)
    good = scored(truth, ability=1.4, seed=0)
    others = [trial_of({1: 0.84, 2: 0.9}, noise=noise_of(good, truth))] * FEWEST_OTHERS
    weaker = scored(truth, ability=1.0, seed=1)

    assert is_stopped(others, trial_of({1: 0.76}, noise=noise_of(weaker, truth))) == (clips == 200)


@pytest.mark.parametrize(
    ("others", "stopped"),
    [
        ([], False),
        (OTHERS[: FEWEST_OTHERS - 1], False),
        (OTHERS[:FEWEST_OTHERS], True),
        ([trial_of({1: 0.9}, noise=NOISE, state=TrialState.PRUNED)] * FEWEST_OTHERS, True),  # stopped there
        ([trial_of({1: 0.9, 2: 0.9}, noise=NOISE, state=TrialState.RUNNING)] * FEWEST_OTHERS, True),  # further on
        ([trial_of({1: 0.9, 2: 0.9}, noise=NOISE, state=TrialState.WAITING)] * FEWEST_OTHERS, True),  # given back
        ([trial_of({1: 0.9}, noise=NOISE, state=TrialState.RUNNING)] * FEWEST_OTHERS, False),  # perhaps its last epoch
        ([trial_of({1: 0.9}, noise=NOISE)] * FEWEST_OTHERS, False),  # a family without epochs
        ([trial_of({1: 0.9, 2: 0.9}, noise=NOISE, state=TrialState.PRUNED, failed=True)] * FEWEST_OTHERS, False),
        ([trial_of({1: 0.9, 2: 0.9}, noise=NOISE, state=TrialState.FAIL)] * FEWEST_OTHERS, False),  # given up
        ([trial_of({1: math.nan, 2: 0.9}, noise=NOISE)] * FEWEST_OTHERS, False),
        ([trial_of({1: 0.9, 2: 0.9}, noise=None)] * FEWEST_OTHERS, False),
        ([trial_of({3: 0.9, 4: 0.9}, noise=NOISE)] * FEWEST_OTHERS, False),  # not seen at this rung
    ],
)
def test_a_trial_is_stopped_only_at_a_rung_that_enough_others_have_passed(
    others: Sequence[FrozenTrial], stopped: bool
) -> None:
    assert is_stopped(others, trial_of({1: 0.5}, noise=OTHER_NOISE, state=TrialState.RUNNING)) == stopped


@settings(max_examples=30, deadline=None, database=None)
@given(order=st.permutations(range(len(OTHERS))), auc=st.floats(0.7, 0.9))
def test_the_order_of_the_others_changes_nothing(order: list[int], auc: float) -> None:
    running = trial_of({1: auc}, noise=OTHER_NOISE, state=TrialState.RUNNING)

    assert is_stopped([OTHERS[place] for place in order], running) == is_stopped(OTHERS, running)


@settings(max_examples=30, deadline=None, database=None)
@given(auc=st.floats(0.0, 1.0), margin=st.floats(0.0, 3.0))
def test_a_wider_margin_stops_no_more_trials(auc: float, margin: float) -> None:
    running = trial_of({1: auc}, noise=OTHER_NOISE, state=TrialState.RUNNING)

    assert is_stopped(OTHERS, running, margin=margin) >= is_stopped(OTHERS, running, margin=margin + 0.5)


@pytest.mark.parametrize(("first", "rungs"), [(1, [1, 3, 9, 27, 81]), (3, [3, 9, 27, 81]), (27, [27, 81])])
def test_rungs_are_the_powers_of_three_from_the_first_on(first: int, rungs: list[int]) -> None:
    assert [epoch for epoch in range(101) if is_rung(epoch, first=first)] == rungs


def test_a_curve_has_the_first_nine_steps_then_six_in_each_tripling_and_every_rung() -> None:
    on_curve = [step for step in range(1, 110) if is_on_curve(step)]

    assert on_curve == [*range(1, 10), 12, 15, 18, 21, 24, 27, 36, 45, 54, 63, 72, 81, 108]
    assert all(is_on_curve(step) for step in range(1, 3**7 + 1) if is_rung(step))


@pytest.mark.parametrize(
    ("steps", "first"),
    [(1, 1), (5, 1), (9, 1), (10, 3), (18, 3), (27, 3), (28, 9), (50, 9), (81, 9), (82, 27), (100, 27), (1000, 243)],
)
def test_the_first_rung_is_the_first_one_that_is_a_ninth_of_the_steps_or_more(steps: int, first: int) -> None:
    assert first_rung(steps) == first


FAMILIES = CategoricalDistribution(("slow", "quick"))


def asked(
    pruner: str, *, others: Mapping[str, Curve], family: str, curve: Curve, max_steps: int, families: int = 2
) -> list[int]:
    """The steps after which a trial of a family would be stopped, beside twelve of each of the others' curves."""
    study = optuna.create_study(
        study_name="any",
        direction="maximize",
        pruner=pruner_for(
            SearchSettings.model_validate({"pruner": pruner}), max_steps=max_steps, families=families, name="any"
        ),
    )

    def begun(family: str) -> optuna.Trial:
        study.enqueue_trial({"family": family})
        return study.ask({"family": FAMILIES})

    def report(trial: optuna.Trial, step: int, value: float) -> None:
        study._storage.set_trial_system_attr(trial._trial_id, noise_key(step), NOISE)
        trial.report(value, step)

    for place in range(12):
        for name, others_curve in others.items():
            trial = begun(name)
            for step, value in others_curve.items():
                report(trial, step, value + 1e-3 * place)
                trial.should_prune()
            study.tell(trial, value)
    trial, stopped = begun(family), []
    for step, value in curve.items():
        report(trial, step, value)
        if trial.should_prune():
            stopped.append(step)
    return stopped


def rising(last: int, *, to: float) -> Curve:
    return {step: 0.5 + (to - 0.5) * step / last for step in range(1, last + 1)}


@pytest.mark.parametrize("pruner", ["hyperband", "median", "noise"])
@pytest.mark.parametrize("max_steps", [9, 27])
def test_a_trial_is_compared_with_trials_of_its_family_alone(pruner: str, max_steps: int) -> None:
    others = {"slow": rising(max_steps, to=0.7), "quick": dict.fromkeys(range(1, max_steps + 1), 0.9)}
    good_of_its_family, bad = rising(max_steps, to=0.85), dict.fromkeys(range(1, max_steps + 1), 0.4)
    given: Any = {"others": others, "family": "slow", "max_steps": max_steps}

    assert asked(pruner, curve=good_of_its_family, **given) == []
    assert asked(pruner, curve=good_of_its_family, families=1, **given) != [], "the others are better"
    assert asked(pruner, curve=bad, **given) != []


@pytest.mark.parametrize("pruner", ["hyperband", "median", "noise"])
@pytest.mark.parametrize("families", [1, 2])
@pytest.mark.parametrize(("max_steps", "first"), [(9, 1), (18, 3), (50, 9), (100, 27)])
def test_no_trial_is_judged_before_it_had_its_share_of_epochs(
    pruner: str, families: int, max_steps: int, first: int
) -> None:
    others = {"quick": dict.fromkeys(range(1, max_steps + 1), 0.9)}
    bad = dict.fromkeys(range(1, max_steps + 1), 0.2)

    stopped = asked(pruner, others=others, family="quick", curve=bad, max_steps=max_steps, families=families)

    rungs = [step for step in range(1, max_steps + 1) if is_rung(step, first=first)]
    assert min(stopped) in rungs, "Hyperband's later brackets begin at later rungs"
    if pruner != "hyperband":
        assert min(stopped) == first


@pytest.mark.parametrize("pruner", ["hyperband", "median", "noise"])
def test_the_first_trials_of_a_family_are_not_stopped_by_other_families(pruner: str) -> None:
    others = {"quick": dict.fromkeys(range(1, 10), 0.9)}

    assert asked(pruner, others=others, family="slow", curve=dict.fromkeys(range(1, 10), 0.2), max_steps=9) == []


@pytest.mark.parametrize("metric", ["auc", "worst_id"])
def test_noise_gives_the_bootstrap_s_standard_errors_also_of_differences(metric: Any) -> None:
    truth = truth_of(12)
    one = scored(truth, ability=1.5, seed=0)
    akin = scored(truth, ability=1.3, seed=1, like=scored(truth, ability=0.0, seed=0), share=0.9)
    bootstrap = Bootstrap(truth)
    first, second = (bootstrap.metric(metric, scores) for scores in (one, akin))
    noise, other = (np.array(noise_of(scores, truth, metric=metric)) for scores in (one, akin))

    assert np.linalg.norm(noise) == pytest.approx(first.std(ddof=1), rel=0.15)
    assert np.linalg.norm(noise - other) == pytest.approx((first - second).std(ddof=1), rel=0.15)
    assert np.linalg.norm(noise - other) < 0.8 * math.hypot(np.linalg.norm(noise), np.linalg.norm(other))


def test_noise_is_the_deviation_of_an_auc_over_other_clips_of_the_same_machines() -> None:
    truth = truth_of(15)
    draws = [scored(truth, ability=1.0, seed=seed) for seed in range(80)]
    aucs = [metric_of("auc", scores, truth) for scores in draws]
    errors = [np.linalg.norm(noise_of(scores, truth) or []) for scores in draws[:8]]

    assert np.mean(errors) == pytest.approx(np.std(aucs), rel=0.2)


@pytest.mark.parametrize(
    ("labels", "more", "has_noise"),
    [
        ((0, 0, 1, 1, 1), {}, True),
        ((0, 0, 1, 1, 1, 0, 0, 1), {"ids": ("fan/00",) * 5 + ("fan/02",) * 3}, False),
        ((0, 0, 1, 1, 1, 0), {"ids": ("fan/00",) * 5 + ("fan/02",)}, True),  # the other ID has no AUC
        ((0, 0, 1) * 2, {"folds": (0, 0, 0, 1, 1, 1), "recordings": (0, 1, 2) * 2}, False),
        ((0, 1, 1) * 2, {"folds": (0, 0, 0, 1, 1, 1), "recordings": (0, 2, 3, 1, 2, 3)}, True),  # one in each fold
        ((0, 0, 1, 1), {"recordings": (0, 1, 0, 1)}, True),  # each with a synthetic fault
        ((0, 1, 1), {"recordings": (0, 0, 0)}, False),
        ((0, 0, 1, 1), {"domains": ("source", "source", "source", "target")}, False),
    ],
)
def test_a_stratum_with_a_single_recording_has_no_noise(
    labels: tuple[int, ...], more: dict[str, Any], has_noise: bool
) -> None:
    truth = Truth(**{"ids": ("fan/00",) * len(labels), "labels": labels, **more})

    assert (noise_of(np.arange(float(len(labels))), truth) is not None) == has_noise


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hyperband", Hyperband),
        ("median", MedianPruner),
        ("noise", NoisePruner),
        ("wilcoxon", WilcoxonPruner),
        ("none", NopPruner),
    ],
)
def test_each_name_gives_its_pruner(name: Any, kind: type) -> None:
    assert type(pruner_for(SearchSettings(pruner=name), max_steps=18, name="any")) is kind

    of_several = pruner_for(SearchSettings(pruner=name), max_steps=18, families=3, name="any")
    assert type(of_several.pruner if isinstance(of_several, WithinFamily) else of_several) is kind
    assert isinstance(of_several, WithinFamily) == (name in {"hyperband", "median", "noise"})


def test_no_name_is_left_without_a_case_above() -> None:
    names = set(get_args(SearchSettings.model_fields["pruner"].annotation))
    assert names == {"hyperband", "median", "noise", "wilcoxon", "none"}
