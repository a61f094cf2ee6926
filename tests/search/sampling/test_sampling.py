"""Samplers: the same draws from any worker, and what they learn from the study's trials."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from features.clips.corpus import Corpus
from models.scoring.scores import Scores
from search.errors import StudyFileError, TrialFailure
from search.preparation.prepared import prepare
from search.sampling.samplers import sampler_for
from search.storage.hold import Hold
from search.storage.ledger import FinalState
from search.storage.stored_study import create_or_join
from search.storage.study_storage import StudyStorage
from search.study.recipe import Recipe
from search.study.study import Study
from search.study.study_file import load_study, study_of_tree
from tests.support.quick import QuickTraining
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


def drawn(study: Study, number: int) -> dict[str, Any]:
    """The suggestion of a fresh process for the trial with this number."""
    storage = optuna.create_study(sampler=sampler_for(study, number))
    trial = storage.ask(study.space.distributions())
    return trial.params


def test_the_shipped_vae_runs_every_combination_of_its_table_once_the_baseline_first() -> None:
    study = load_study("vae")
    assert study.search.trials == 6
    combinations = [drawn(study, number) for number in range(6)]
    assert combinations[0] == {"train_on": "development", "epochs": 100}
    assert {tuple(sorted(c.items())) for c in combinations} == {
        (("epochs", epochs), ("train_on", source))
        for epochs in (50, 100)
        for source in ("development", "additional", "development+additional")
    }


def test_a_grid_has_no_more_trials_than_points() -> None:
    study = load_study("vae", overrides=["corpus.train_on={choices: [development]}", "search.trials=6"])
    assert study.search.trials == 2


def test_a_grid_takes_choices_only() -> None:
    with pytest.raises(StudyFileError, match=r"model.h_dim must be given as choices for search.sampler: grid"):
        load_study("vae", overrides=["model.h_dim={low: 8, high: 16}"])


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_draw_depends_on_the_study_seed_and_the_trial_number_alone(sampler: str) -> None:
    def study(seed: int) -> Study:
        tree = {
            "study": "draws",
            "model": {"family": "vae", "h_dim": {"low": 1, "high": 10**6}},
            "search": {"sampler": sampler, "seed": seed},
        }
        return study_of_tree(tree, origin="draws")

    assert drawn(study(0), 3) == drawn(study(0), 3)
    assert drawn(study(0), 3) != drawn(study(0), 4)
    assert drawn(study(0), 3) != drawn(study(1), 3)


def course_of(study: TinyStudy) -> list[tuple[TrialState, dict[str, Any], dict[int, float], float | None]]:
    return [(trial.state, trial.params, trial.intermediate_values, trial.value) for trial in trials_of(study)]


def made_again(study: TinyStudy, folder: Path) -> TinyStudy:
    """The same study under the same name, in a storage of its own."""
    from tests.support.tiny_study import TinyStudy

    url = f"sqlite:///{folder / 'again.db'}"
    storage = StudyStorage(url, create=True)
    prepared = prepare(study.stored.study(), default_root=None)
    stored = create_or_join(storage, prepared.study, prepared.corpus, prepared.validation_data.truth)
    return TinyStudy(url, study.root, storage, stored)


LEARNING = {"sampler": "tpe", "pruner": "hyperband", "seed": 7}
LONG = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "batch_size": 16, "epochs": 9, "threads": 1}


def test_one_worker_runs_the_same_study_again_though_it_is_stopped_and_goes_on_in_between(
    tiny_study: MakeStudy, tmp_path: Path
) -> None:
    study = tiny_study(trials=12, training=LONG, search={"trials": 12, **LEARNING})
    study.worker(quick=True).run()
    again = made_again(study, tmp_path)
    begun = 0
    for batches in (3, 50, 41):  # each in the middle of a trial
        worker = again.worker()

        class Stopped(QuickTraining):
            def run_epoch(self, before_batch: Callable[[], None]) -> None:
                def counted() -> None:
                    nonlocal begun
                    begun += 1
                    if begun == batches:  # noqa: B023
                        worker.stop.set()  # noqa: B023
                    before_batch()

                super().run_epoch(counted)

        begun = 0
        worker.train = Stopped
        worker.run()
        assert worker.stop.is_set()
    assert trials_of(again)[-1].state == TrialState.WAITING
    again.worker(quick=True).run()

    assert course_of(again) == course_of(study)
    states = [state for state, *_ in course_of(study)]
    assert TrialState.PRUNED in states and TrialState.COMPLETE in states


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_worker_lost_between_two_suggestions_changes_neither_of_them(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    wide = {"family": "vae", "context": 3, "h_dim": {"low": 1, "high": 4096}, "z_dim": {"low": 1, "high": 4096}}
    blocks: dict[str, Any] = {"model": wide, "baseline": {}, "search": {"trials": 1, "sampler": sampler}}
    undisturbed = tiny_study(trials=1, study="undisturbed", **blocks)
    undisturbed.worker(quick=True).run()
    study = tiny_study(trials=1, **blocks)
    suggest = RDBStorage._set_trial_param

    def power_cut(self: RDBStorage, trial_id: int, name: str, *arguments: Any) -> None:
        if name == "z_dim":
            raise InterruptedError
        suggest(self, trial_id, name, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StudyStorage, "_set_trial_param", power_cut)
        with pytest.raises(InterruptedError):
            study.worker(lease=1.0, quick=True).run()
    study.worker(lease=1.0, quick=True).run()

    assert [trial.params for trial in trials_of(study)] == [trial.params for trial in trials_of(undisturbed)]


MIDDLE = 2048


class NarrowOnly(QuickTraining):
    """Fails in the upper half of the space; trains as usual elsewhere."""

    def __init__(self, recipe: Recipe, corpus: Corpus, device: str) -> None:
        if recipe.model.h_dim > MIDDLE:  # type: ignore[attr-defined]
            raise TrialFailure("too wide")
        super().__init__(recipe, corpus, device)


def end_failures_as_optuna_does(
    self: Hold,
    state: FinalState,
    *,
    values: Sequence[float] | None,
    reason: str | None = None,
    scores: Scores | None = None,
    **shown: object,
) -> None:
    ended = TrialState.FAIL if state == "failed" else TrialState.COMPLETE
    self._end(state, ended, values, reason=reason)


@pytest.mark.parametrize(
    ("failures_end_as", "least", "most"),
    [(TrialState.PRUNED, 0.0, 0.35), (TrialState.FAIL, 0.6, 1.0)],
)
def test_a_sampler_avoids_failed_settings_because_they_violate_a_constraint_and_are_no_fail(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, failures_end_as: TrialState, least: float, most: float
) -> None:
    if failures_end_as == TrialState.FAIL:
        monkeypatch.setattr(Hold, "finish", end_failures_as_optuna_does)
    study = tiny_study(
        trials=26,
        model={"family": "vae", "context": 3, "h_dim": {"low": 1, "high": 2 * MIDDLE}, "z_dim": 4},
        training={"learning_rate": 0.01, "batch_size": 16, "epochs": 1, "threads": 1},
        baseline={},
        search={"trials": 26, "pruner": "none", "duplicates": "repeat"},
    )
    worker = study.worker()
    worker.train = NarrowOnly
    worker.run()

    trials = trials_of(study)
    failed = [trial for trial in trials if trial.params["h_dim"] > MIDDLE]
    assert {trial.state for trial in failed} == {failures_end_as}
    start_up = 14  # random until ten trials have taught it something
    share = sum(trial.params["h_dim"] > MIDDLE for trial in trials[start_up:]) / len(trials[start_up:])
    assert least <= share <= most


FAMILIES = ("vae", "cae", "stat")

#: The own setting of each family, all of them between 0 and 1, and where it is best.
OWN = {"vae": ("kld_weight", 0.7), "cae": ("dropout", 0.4), "stat": ("decay", 0.2)}


def conditional(*, seed: int = 0, **search: Any) -> Study:
    unit = {"low": 0.0, "high": 0.9}
    tree = {
        "study": "conditional",
        "model": [{"family": family, OWN[family][0]: unit} for family in FAMILIES],
        "training": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
        "search": {"seed": seed, **search},
    }
    return study_of_tree(tree, origin="conditional")


def ended(
    study: Study, family: str, own: float, *, value: float | None, state: TrialState = TrialState.COMPLETE
) -> FrozenTrial:
    """A trial of a family with its own setting at a value; one that was pruned without a value has failed."""
    name, _ = OWN[family]
    params = {"family": family, name: own, "learning_rate": 1e-3}
    ranges = study.space.distributions()
    has_failed = state == TrialState.PRUNED and value is None
    return create_trial(
        params=params,
        distributions={name: ranges[name] for name in params},
        state=state,
        value=value,
        intermediate_values={} if value is None else {3: value},
        user_attrs={"seconds": 1.0},
        system_attrs={"constraints:failed": 1.0} if has_failed else {},
    )


def trials_around(study: Study, family: str, count: int, *, best: float, state: TrialState) -> list[FrozenTrial]:
    """Trials of evenly spread settings, which are worse the further they are from `best`."""
    at = OWN[family][1]
    return [
        ended(study, family, own, value=best - (own - at) ** 2, state=state) for own in np.linspace(0.01, 0.89, count)
    ]


def suggested(
    study: Study,
    earlier: Iterable[FrozenTrial],
    number: int,
    *,
    draw: int = 0,
    pruner: BasePruner | None = None,
) -> dict[str, Any]:
    """The suggestion for the trial with this number after these trials, by a fresh process."""
    sampler = sampler_for(study, number, draw=draw)
    in_memory = optuna.create_study(study_name="any", direction="maximize", sampler=sampler, pruner=pruner)
    in_memory.add_trials(earlier)
    trial = in_memory.ask()
    trial.should_prune()  # makes Hyperband's brackets, as the worker's earlier trials do
    study.space.close(trial)
    return trial.params


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("vae", {"vae": 20, "cae": 15, "stat": 12}),
        # Though the best family's worst trial is better than all of these.
        ("cae", {"vae": 40, "cae": 12, "stat": 20}),
        ("stat", {"vae": 40, "cae": 30, "stat": 12}),
    ],
)
def test_each_family_is_tuned_by_its_own_trials(family: str, given: dict[str, int], state: TrialState) -> None:
    study = conditional()
    best = {"vae": 0.95, "cae": 0.4, "stat": 0.3}
    earlier = [
        trial
        for name, count in given.items()
        for trial in trials_around(study, name, count, best=best[name], state=state)
    ]
    name, at = OWN[family]

    params = [suggested(study, earlier, number) for number in range(100, 112)]

    assert {tried["family"] for tried in params} == {family}
    # Random ones would be 0.2 to 0.3 away.
    assert np.median([abs(tried[name] - at) for tried in params]) < 0.1


def test_a_trial_at_work_changes_what_its_family_is_asked_next() -> None:
    study = conditional()
    earlier = trials_around(study, "vae", 20, best=0.9, state=TrialState.COMPLETE)
    earlier += trials_around(study, "cae", 15, best=0.4, state=TrialState.COMPLETE)
    earlier += trials_around(study, "stat", 12, best=0.3, state=TrialState.COMPLETE)
    alone = suggested(study, earlier, 100)
    at_work = create_trial(
        params=alone,
        distributions={name: study.space.distributions()[name] for name in alone},
        state=TrialState.RUNNING,
    )

    beside = suggested(study, [*earlier, at_work], 100)

    assert beside["family"] == alone["family"] == "vae"
    assert beside["kld_weight"] != alone["kld_weight"]


def test_a_family_s_failed_settings_are_avoided() -> None:
    study = conditional()
    others = [ended(study, family, 0.5, value=0.5) for family in ("cae", "stat") for _ in range(40)]
    tried = [
        ended(study, "vae", own, value=None if own > 0.45 else 0.8, state=TrialState.PRUNED)
        for own in np.linspace(0.01, 0.89, 24)
    ]

    params = [suggested(study, [*others, *tried], number) for number in range(100, 116)]

    assert {trial["family"] for trial in params} == {"vae"}
    assert sum(trial["kld_weight"] > 0.45 for trial in params) <= 4


def test_settings_that_were_tried_already_give_way_to_another_family() -> None:
    study = conditional()

    assert [suggested(study, [], 0, draw=draw)["family"] for draw in range(4)] == ["vae", "cae", "stat", "vae"]


def test_what_a_conditional_study_draws_depends_on_its_seed_the_number_and_the_trials_before() -> None:
    study = conditional()
    earlier = trials_around(study, "vae", 9, best=0.9, state=TrialState.COMPLETE)
    earlier += trials_around(study, "stat", 9, best=0.5, state=TrialState.COMPLETE)
    earlier += trials_around(study, "cae", 9, best=0.4, state=TrialState.COMPLETE)

    assert suggested(study, earlier, 40) == suggested(study, earlier, 40)
    assert suggested(study, earlier, 40) != suggested(study, earlier, 41)
    assert suggested(study, earlier, 40) != suggested(conditional(seed=1), earlier, 40)
    assert suggested(study, earlier, 40) != suggested(study, earlier[:-9], 40)


def test_the_sampler_learns_from_trials_of_all_hyperband_brackets() -> None:
    study = conditional()
    earlier = [
        trial
        for family, best in (("vae", 0.9), ("cae", 0.6), ("stat", 0.5))
        for trial in trials_around(study, family, 12, best=best, state=TrialState.COMPLETE)
    ]
    hyperband = HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3)

    for number in range(36, 40):
        assert suggested(study, earlier, number, pruner=hyperband) == suggested(study, earlier, number)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_sampler_warns(sampler: str) -> None:
    study = conditional(sampler=sampler)
    earlier = trials_around(study, "vae", 20, best=0.9, state=TrialState.COMPLETE)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        suggested(study, earlier, 20)
        drawn(load_study("vae"), 3)  # a grid's


def test_a_family_without_epochs_reports_once_is_not_pruned_and_does_not_affect_others(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(
        model=[
            {"family": "vae", "context": 3, "h_dim": {"low": 1, "high": 4096}},
            {"family": "stat", "decay": {"low": 0.0, "high": 1.0}},
        ],
        training={"learning_rate": 0.01, "batch_size": 16, "epochs": 9, "threads": 1},
        baseline={},
        search={"trials": 12, "pruner": "hyperband", "sampler": "random"},
    )
    study.worker(quick=True).run()

    by_family: dict[str, list[FrozenTrial]] = {"vae": [], "stat": []}
    for trial in trials_of(study):
        by_family[trial.params["family"]].append(trial)
    assert {(trial.state, *trial.intermediate_values) for trial in by_family["stat"]} == {(TrialState.COMPLETE, 1)}
    assert {trial.state for trial in by_family["vae"]} == {TrialState.COMPLETE, TrialState.PRUNED}
    # The whole of a trained one is still trained, and rungs are the trained ones' own.
    assert {max(trial.intermediate_values) for trial in by_family["vae"] if trial.state == TrialState.COMPLETE} == {9}
    assert not any("rung" in key for trial in by_family["stat"] for key in trial.system_attrs)
