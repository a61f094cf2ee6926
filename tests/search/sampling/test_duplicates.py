"""Settings that were tried already: drawn again if the study wants fresh ones, else repeated with another seed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from features.clips.corpus import Corpus
from search.results.export import export_recipe
from search.storage.hold import Hold
from search.storage.study_storage import StudyStorage
from search.study.recipe import Recipe
from search.workers.worker import Worker, join
from tests.support.house import HOUSE
from tests.support.quick import QuickTraining, quicken
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

LEASE = 0.6  # seconds

#: Its first two trials begin with the same suggestion.
SEED_OF_TWINS = 2

#: Its second trial begins with the suggestion of the first, of three by three; the redraw's halves do not fit it.
SEED_OF_A_REDRAW = 12

ONE_EPOCH = {"learning_rate": 0.01, "batch_size": 16, "epochs": 1, "threads": 1}
NOTHING_OPEN = {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4}


def model(**choices: list[int]) -> dict[str, Any]:
    return {**NOTHING_OPEN, **{name: {"choices": values} for name, values in choices.items()}}


def search(trials: int, **settings: Any) -> dict[str, Any]:
    return {"trials": trials, "pruner": "none", "duplicates": "fresh", "sampler": "random", **settings}


def drawn(study: TinyStudy) -> list[tuple[dict[str, Any], int | None]]:
    """Each trial's parameters, and how many trials had them before."""
    return [(trial.params, trial.user_attrs.get("repeat")) for trial in trials_of(study)]


def repeats_by_settings(study: TinyStudy) -> dict[str, list[int]]:
    repeats: dict[str, list[int]] = defaultdict(list)
    for params, repeat in drawn(study):
        repeats[str(sorted(params.items()))].append(repeat or 0)
    return {settings: sorted(found) for settings, found in repeats.items()}


def run_together(workers: list[Worker]) -> None:
    failed: list[BaseException] = []

    def run(worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.fixture(autouse=True)
def _polls_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.workers.worker._POLL_SECONDS", 0.05)


@pytest.mark.parametrize(
    ("storage_url", "sampler"), [("sqlite", "random"), ("postgresql", "tpe")], indirect=["storage_url"]
)
def test_no_two_trials_share_settings_until_the_space_is_exhausted_and_then_repeats_are_counted(
    tiny_study: MakeStudy, sampler: str
) -> None:
    study = tiny_study(
        trials=6,
        model=model(h_dim=[8, 16], z_dim=[2, 4]),
        training=ONE_EPOCH,
        baseline={},
        search=search(6, sampler=sampler),
    )

    run_together([study.worker(quick=True) for _ in range(3)])

    assert all(trial.state == TrialState.COMPLETE for trial in trials_of(study))
    repeats = repeats_by_settings(study)
    assert len(repeats) == 4, "each point of the space"
    assert sum(len(found) for found in repeats.values()) == 6
    assert all(found == list(range(len(found))) for found in repeats.values())


@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
def test_two_workers_that_suggest_the_same_at_the_same_moment_get_different_settings(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(
        trials=2, model=model(h_dim=[8, 16]), training=ONE_EPOCH, baseline={}, search=search(2, seed=SEED_OF_TWINS)
    )
    both_have_suggested = threading.Barrier(2)
    suggested: list[str] = []
    settle = Hold.settle

    def settle_together(self: Hold, digest: str, *, may_repeat: bool) -> int | None:
        if len(suggested) < 2:
            suggested.append(digest)
            both_have_suggested.wait()
        return settle(self, digest, may_repeat=may_repeat)

    monkeypatch.setattr(Hold, "settle", settle_together)
    run_together([study.worker(quick=True) for _ in range(2)])

    assert suggested[0] == suggested[1]
    assert sorted(trial.params["h_dim"] for trial in trials_of(study)) == [8, 16]
    assert [repeat for _, repeat in drawn(study)] == [None, None]


def test_a_study_that_wants_repeats_keeps_each_suggestion(tiny_study: MakeStudy) -> None:
    blocks: dict[str, Any] = {"model": model(h_dim=[8, 16]), "training": ONE_EPOCH, "baseline": {}}
    study = tiny_study(trials=6, **blocks, search=search(6, duplicates="repeat"))
    study.worker(quick=True).run()
    repeats = repeats_by_settings(study)
    assert len(repeats) == 2
    assert sum(len(found) for found in repeats.values()) == 6
    assert all(found == list(range(len(found))) for found in repeats.values())
    seen: Counter[str] = Counter()
    for params, repeat in drawn(study):
        assert (repeat or 0) == seen[str(params)], "in the order of the trials"
        seen[str(params)] += 1


@pytest.mark.parametrize("duplicates", ["fresh", "repeat"])
def test_a_repeat_has_another_seed_if_the_study_sets_one_and_is_exported_with_it(
    tiny_study: MakeStudy, duplicates: str
) -> None:
    study = tiny_study(
        trials=3,
        model=NOTHING_OPEN,
        training={**ONE_EPOCH, "seed": 40},
        baseline={},
        search=search(3, duplicates=duplicates),
    )
    seeds = []

    class Recorded(QuickTraining):
        def __init__(self, recipe: Recipe, corpus: Corpus, device: str) -> None:
            super().__init__(recipe, corpus, device)
            seeds.append(recipe.training.seed)

    worker = study.worker()
    worker.train = Recorded
    worker.run()

    assert [repeat for _, repeat in drawn(study)] == [None, 1, 2]
    assert seeds == [40, 41, 42]
    exported = [export_recipe(study.storage, study.stored, number=number) for number in range(3)]
    assert [recipe.training.seed for recipe in exported] == seeds


def test_a_repeat_whose_worker_was_lost_goes_on_with_its_own_seed(tiny_study: MakeStudy) -> None:
    study = tiny_study(
        trials=2,
        model=NOTHING_OPEN,
        training={**ONE_EPOCH, "seed": 40, "epochs": 2},
        baseline={},
        search=search(2, duplicates="repeat"),
    )
    seeds: list[int | None] = []

    class Recorded(QuickTraining):
        def __init__(self, recipe: Recipe, corpus: Corpus, device: str) -> None:
            super().__init__(recipe, corpus, device)
            seeds.append(recipe.training.seed)

    class PowerCut(Recorded):
        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            if seeds[-1] == 41 and self.epoch == 1:
                raise InterruptedError
            super().run_epoch(before_batch)

    first, second = study.worker(lease=1.0), study.worker(lease=1.0)
    first.train, second.train = PowerCut, Recorded
    with pytest.raises(InterruptedError):
        first.run()
    second.run()

    assert seeds == [40, 41, 41]
    assert [repeat for _, repeat in drawn(study)] == [None, 1]


def test_a_baseline_keeps_its_settings_even_if_they_were_tried(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2, model=model(h_dim=[8, 16]), training=ONE_EPOCH, search=search(2))
    study.worker(quick=True).run()
    assert [params for params, _ in drawn(study)] == [{"h_dim": 16}, {"h_dim": 8}]


# Moments of a study's first redraw.
REDRAWS = ["before it", "inside it", "after it", "between two suggestions", "after the suggestions"]


def arrange(moment: str) -> None:
    """Arranges that this process is killed at this moment of its first redraw."""
    redraws: list[str] = []
    start_over = Hold.start_over
    suggest = RDBStorage._set_trial_param_without_commit
    settle = Hold.settle

    def kill(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def starts_over(self: Hold, *, parameters: bool) -> None:
        if parameters and moment == "before it":
            kill()
        if parameters and moment == "inside it":
            StudyStorage.transaction = _killed_before_the_commit  # type: ignore[method-assign, assignment]
        start_over(self, parameters=parameters)
        if parameters:
            redraws.append("redraw")
        if parameters and moment == "after it":
            kill()

    def suggests(self: RDBStorage, *arguments: Any) -> None:
        suggest(self, *arguments)
        if redraws and arguments[2] == "z_dim" and moment == "between two suggestions":
            kill()  # h_dim is there, z_dim is not committed

    def settles(self: Hold, digest: str, *, may_repeat: bool) -> int | None:
        if redraws and moment == "after the suggestions":
            kill()
        return settle(self, digest, may_repeat=may_repeat)

    Hold.start_over = starts_over  # type: ignore[method-assign]
    RDBStorage._set_trial_param_without_commit = suggests  # type: ignore[method-assign, assignment]
    Hold.settle = settles  # type: ignore[method-assign]


@contextmanager
def _killed_before_the_commit(storage: StudyStorage) -> Iterator[Any]:
    session = storage.scoped_session()
    yield session
    session.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def _work_until_killed(environment: Mapping[str, str], folder: str, study: str, moment: str) -> None:
    os.environ |= environment
    os.chdir(folder)
    worker = join(os.environ["OFFKEY_STORAGE"], study, lease=LEASE)
    quicken(worker)
    arrange(moment)
    worker.run()


def killed(study: TinyStudy, moment: str) -> int | None:
    """Runs a worker process that is to be killed at this moment, and returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.faulty_worker"])  # one server for all tests that need one
    environment = {"OFFKEY_STORAGE": study.url, "OFFKEY_CACHE": os.environ["OFFKEY_CACHE"]}
    process = context.Process(target=_work_until_killed, args=(environment, os.getcwd(), study.stored.name, moment))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(HOUSE))  # of the process that they are forked from
        process.start()
    process.join(timeout=50)
    return process.exitcode


def test_an_interrupted_redraw_leaves_nothing_behind(tiny_study: MakeStudy) -> None:
    blocks: dict[str, Any] = {
        "model": model(h_dim=[8, 16, 24], z_dim=[2, 4, 6]),
        "training": ONE_EPOCH,
        "baseline": {},
        "search": search(2, seed=SEED_OF_A_REDRAW),
    }
    undisturbed = tiny_study(trials=2, study="undisturbed", **blocks)
    undisturbed.worker(quick=True).run()

    for moment in REDRAWS:
        study = tiny_study(trials=2, study=moment.replace(" ", "-"), **blocks)
        assert killed(study, moment) == -signal.SIGKILL, moment
        study.worker(lease=LEASE, quick=True).run()

        assert [params for params, _ in drawn(study)] == [params for params, _ in drawn(undisturbed)], moment
        assert [repeat for _, repeat in drawn(study)] == [None] * 2, moment
