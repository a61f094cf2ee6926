"""The trials of `search.first`: after the baseline, each exactly once, whatever happens to their workers."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from optuna.trial import FrozenTrial, TrialState

from search.storage.stored_study import load_stored
from search.storage.study_storage import StudyStorage
from search.study.study_file import to_yaml
from tests.support.faulty_worker import faulty
from tests.support.offkey_process import offkey_process
from tests.support.quick import QuickTraining
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

LEASE = 0.6  # seconds

on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)

MODEL = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": {"low": 2, "high": 8}}
BASELINE = {"h_dim": 16, "z_dim": 4}
FIRST: list[dict[str, Any]] = [{"h_dim": 8, "z_dim": 2}, {"h_dim": 64}, {"z_dim": 8, "h_dim": 9}, {"h_dim": 10}]


@pytest.fixture(autouse=True)
def _polls_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.workers.worker._POLL_SECONDS", 0.1)


@pytest.fixture
def portfolio(tiny_study: MakeStudy) -> Callable[..., TinyStudy]:
    """Makes a study with a baseline, four entries, and a budget; `search` changes its block."""

    def make(trials: int, *, name: str = "tiny", baseline: dict[str, Any] = BASELINE, **search: Any) -> TinyStudy:
        block = {"trials": trials, "pruner": "none", "first": FIRST, **search}
        return tiny_study(study=name, model=MODEL, baseline=baseline, search=block)

    return make


def as_entered(trials: list[FrozenTrial], first: list[dict[str, Any]], *, offset: int = 1) -> bool:
    """Whether the trials after `offset` others have the entries' values, in the order of the entries."""
    of_first = trials[offset : offset + len(first)]
    return all(values.items() <= trial.params.items() for values, trial in zip(first, of_first, strict=True))


def attributes(trials: list[FrozenTrial]) -> list[int | None]:
    return [trial.user_attrs.get("first") for trial in trials]


@on_postgresql
def test_several_workers_try_the_baseline_then_each_entry_once_in_their_order(
    portfolio: Callable[..., TinyStudy],
) -> None:
    study = portfolio(8)
    workers = [study.worker(quick=True) for _ in range(4)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    trials = trials_of(study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    assert trials[0].params == BASELINE
    assert as_entered(trials, FIRST)
    assert attributes(trials) == [None, 1, 2, 3, 4, None, None, None]
    assert trials[2].params["z_dim"] in range(2, 9), "the sampler suggests what an entry leaves out"
    assert len({json.dumps(trial.params, sort_keys=True) for trial in trials}) == 8


def test_without_a_baseline_the_first_entry_is_trial_0(portfolio: Callable[..., TinyStudy]) -> None:
    study = portfolio(5, baseline={})
    study.worker(quick=True).run()

    trials = trials_of(study)
    assert as_entered(trials, FIRST, offset=0)
    assert attributes(trials) == [1, 2, 3, 4, None]


@pytest.mark.parametrize(
    ("storage_url", "moment"),
    [("sqlite", "before the claim is committed"), ("postgresql", "between two suggestions")],
    indirect=["storage_url"],
)
def test_a_killed_worker_s_entry_goes_on_and_none_is_tried_twice(
    portfolio: Callable[..., TinyStudy], moment: str
) -> None:
    first = [{"h_dim": 64}, *FIRST[2:]]
    undisturbed = portfolio(4, name="undisturbed", baseline={}, first=first)
    undisturbed.worker(quick=True).run()
    study = portfolio(4, baseline={}, first=first)
    with faulty(study, moment, signal.SIGKILL, lease=LEASE) as killed:
        killed.join(timeout=60)
        assert killed.exitcode == -signal.SIGKILL

    study.worker(lease=LEASE, quick=True).run()

    trials = trials_of(study)
    assert [trial.params for trial in trials] == [trial.params for trial in trials_of(undisturbed)]
    assert as_entered(trials, first, offset=0)
    assert attributes(trials) == [1, 2, 3, None]


class PowerCut(QuickTraining):
    """Fails in the second epoch of a trial of the portfolio."""

    failed: ClassVar[list[bool]] = []

    def run_epoch(self, before_batch: Callable[[], None]) -> None:
        if self.parameters == 9 and self.epoch == 1 and not self.failed:
            self.failed.append(True)
            raise InterruptedError
        super().run_epoch(before_batch)


def test_a_study_that_was_stopped_inside_the_portfolio_and_got_a_larger_budget_goes_on_with_it(
    portfolio: Callable[..., TinyStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PowerCut, "failed", [])
    study = portfolio(3)
    study.worker(quick=True).run()
    assert attributes(trials_of(study)) == [None, 1, 2]

    raised = portfolio(6)
    assert raised.stored.uid == study.stored.uid
    interrupted = raised.worker()
    interrupted.train = PowerCut
    with pytest.raises(InterruptedError):
        interrupted.run()
    assert not trials_of(study)[3].state.is_finished()
    raised.worker(quick=True).run()

    trials = trials_of(study)
    assert PowerCut.failed
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert as_entered(trials, FIRST)
    assert attributes(trials) == [None, 1, 2, 3, 4, None]


def test_entries_are_pruned_like_any_trial_and_the_baseline_is_not(
    portfolio: Callable[..., TinyStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.sampling.suggestions._Trial.should_prune", lambda self: True)
    study = portfolio(5, pruner="median")
    study.worker(quick=True).run()

    assert [trial.state for trial in trials_of(study)] == [TrialState.COMPLETE] + [TrialState.PRUNED] * 4


def test_an_entry_is_never_drawn_again_and_one_that_was_tried_is_a_repeat(tiny_study: MakeStudy) -> None:
    model = {"family": "vae", "context": 3, "h_dim": 8, "z_dim": {"choices": [2, 4]}, "kld_weight": {"choices": [0.1]}}
    first = [{"z_dim": 2}, {"z_dim": 2, "kld_weight": 0.1}, {"z_dim": 4}]
    study = tiny_study(model=model, baseline={}, search={"trials": 3, "pruner": "none", "first": first})
    study.worker(quick=True).run()

    trials = trials_of(study)
    assert [trial.params["z_dim"] for trial in trials] == [2, 2, 4]
    assert [trial.user_attrs.get("repeat") for trial in trials] == [None, 1, None]


def test_families_take_turns_only_after_the_portfolio(tiny_study: MakeStudy) -> None:
    stat = {"family": "stat", "decay": {"low": 0.0, "high": 1.0}}
    first = [
        {"family": "vae", "h_dim": 8, "z_dim": 2},
        {"family": "stat", "decay": 1.0},
        {"family": "stat", "decay": 0.0},
    ]
    study = tiny_study(model=[MODEL, stat], baseline={}, search={"trials": 4, "pruner": "none", "first": first})
    study.worker(quick=True).run()

    found = [trial.params for trial in trials_of(study)]
    assert [params["family"] for params in found[:3]] == ["stat", "stat", "vae"]
    assert [params.get("decay") for params in found[:2]] == [1.0, 0.0]


def test_a_grid_tries_each_combination_once_the_portfolio_first(tiny_study: MakeStudy) -> None:
    model = {"family": "vae", "context": 3, "h_dim": {"choices": [8, 16]}, "z_dim": {"choices": [2, 4]}}
    search = {"sampler": "grid", "pruner": "none", "first": [{"z_dim": 4, "h_dim": 16}, {"z_dim": 4}]}
    study = tiny_study(model=model, baseline={"h_dim": 8, "z_dim": 2}, search=search)
    study.worker(quick=True).run()

    pairs = [(trial.params["h_dim"], trial.params["z_dim"]) for trial in trials_of(study)]
    assert pairs == [(8, 2), (16, 4), (8, 4), (16, 2)]


@on_postgresql
def test_a_search_of_fewer_trials_tries_the_cheapest_and_is_continued(storage_url: str, corpus_root: Path) -> None:
    tree = {
        "study": "of-a-file",
        "corpus": {"root": str(corpus_root)},
        "model": MODEL,
        "training": {"epochs": {"choices": [1, 2]}, "threads": 1},
        "baseline": {**BASELINE, "epochs": 1},
        "search": {"trials": 9, "pruner": "none", "first": [{"h_dim": 8, "epochs": 2}, {"h_dim": 9, "epochs": 1}]},
    }
    Path("study.yaml").write_text(to_yaml(tree))
    with offkey_process("search", "study.yaml", "--workers", 1, "--trials", 2, url=storage_url) as short:
        assert short.ended(within=100) == 0
    with offkey_process("search", "of-a-file", "--workers", 1, "--trials", 4, url=storage_url) as longer:
        assert longer.ended(within=100) == 0

    storage = StudyStorage(storage_url)
    stored = load_stored(storage, "of-a-file")
    trials = storage.get_all_trials(stored.study_id)
    assert [(trial.params["h_dim"], trial.params["epochs"]) for trial in trials[:3]] == [(16, 1), (9, 1), (8, 2)]
    assert attributes(trials) == [None, 1, 2, None]
    assert "search.trials: the budget of 2 ends before the 3 trials that are tried first" in short.stderr
    assert "ends before" not in longer.stderr
    assert "Portfolio (baseline and 1 entry of search.first): best AUC" in short.stdout
    assert "Portfolio (baseline and 2 entries of search.first): best AUC" in longer.stdout
