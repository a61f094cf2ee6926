"""Samplers: what a study draws, whoever draws it, and what it learns from its trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from benchmarks.quick import QuickTraining
from features.corpus import Corpus
from search.errors import StudyFileError, TrialFailure
from search.evaluation import Scores
from search.ledger import Claim, FinalState
from search.preparation import prepare
from search.recipe import Recipe
from search.sampling import sampler_for
from search.storage import StudyStorage
from search.stored_study import create_or_join
from search.study_file import Study, load_study, study_of_tree

if TYPE_CHECKING:
    from tests.search.conftest import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


def drawn(study: Study, number: int) -> dict[str, Any]:
    """What a fresh process would suggest for the trial with this number."""
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


def trials_of(study: TinyStudy) -> list[FrozenTrial]:
    return optuna.load_study(study_name=study.stored.name, storage=study.storage).get_trials()


def course_of(study: TinyStudy) -> list[tuple[TrialState, dict[str, Any], dict[int, float], float | None]]:
    return [(trial.state, trial.params, trial.intermediate_values, trial.value) for trial in trials_of(study)]


def made_again(study: TinyStudy, folder: Path) -> TinyStudy:
    """The same study, its name too, in a storage of its own."""
    from tests.search.conftest import TinyStudy

    url = f"sqlite:///{folder / 'again.db'}"
    storage = StudyStorage(url, create=True)
    prepared = prepare(study.stored.study(), default_root=None)
    return TinyStudy(url, study.root, storage, create_or_join(storage, prepared.study, prepared.corpus))


LEARNING = {"sampler": "tpe", "pruner": "hyperband", "seed": 7}
LONG = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "batch_size": 16, "epochs": 9, "threads": 1}


def test_one_worker_runs_the_same_study_again_though_it_is_stopped_and_goes_on_in_between(
    tiny_study: MakeStudy, tmp_path: Path
) -> None:
    study = tiny_study(trials=18, training=LONG, search={"trials": 18, **LEARNING})
    study.worker(quick=True).run()
    again = made_again(study, tmp_path)
    begun = 0
    for batches in (3, 50, 41, 60):  # each in the middle of a trial
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
            study.worker(quick=True).run()
    study.worker(quick=True).run()

    assert [trial.params for trial in trials_of(study)] == [trial.params for trial in trials_of(undisturbed)]


MIDDLE = 2048


class NarrowOnly(QuickTraining):
    """Fails in the upper half of the space, and is as good as any elsewhere."""

    def __init__(self, recipe: Recipe, corpus: Corpus, device: str) -> None:
        if recipe.model.h_dim > MIDDLE:  # type: ignore[attr-defined]
            raise TrialFailure("too wide")
        super().__init__(recipe, corpus, device)


def end_failures_as_optuna_does(
    self: StudyStorage,
    claim: Claim,
    state: FinalState,
    *,
    value: float | None,
    reason: str | None = None,
    scores: Scores | None = None,
    **shown: object,
) -> None:
    ended = TrialState.FAIL if state == "failed" else TrialState.COMPLETE
    self._end(claim, state, ended, value, reason=reason)


@pytest.mark.parametrize(
    ("failures_end_as", "least", "most"),
    [(TrialState.PRUNED, 0.0, 0.35), (TrialState.FAIL, 0.6, 1.0)],
)
def test_a_sampler_avoids_what_fails_since_a_failure_is_a_violated_constraint_and_no_fail(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, failures_end_as: TrialState, least: float, most: float
) -> None:
    if failures_end_as == TrialState.FAIL:
        monkeypatch.setattr(StudyStorage, "finish", end_failures_as_optuna_does)
    study = tiny_study(
        trials=60,
        model={"family": "vae", "context": 3, "h_dim": {"low": 1, "high": 2 * MIDDLE}, "z_dim": 4},
        training={"learning_rate": 0.01, "batch_size": 16, "epochs": 1, "threads": 1},
        baseline={},
        search={"trials": 60, "pruner": "none", "duplicates": "repeat"},
    )
    worker = study.worker()
    worker.train = NarrowOnly
    worker.run()

    trials = trials_of(study)
    failed = [trial for trial in trials if trial.params["h_dim"] > MIDDLE]
    assert {trial.state for trial in failed} == {failures_end_as}
    start_up = 20  # random until ten trials have taught it something
    share = sum(trial.params["h_dim"] > MIDDLE for trial in trials[start_up:]) / len(trials[start_up:])
    assert least <= share <= most
