"""How long trials may take: search.trial_minutes over all attempts of a trial, and hours that are too short for one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import update

from features.clips.corpus import Corpus
from search.errors import StudyFileError
from search.storage.study_rows import Remaining
from search.storage.study_storage import StudyStorage
from search.storage.tables import StudyRow
from search.study.recipe import Recipe
from search.study.study_file import study_of_tree
from search.workers.worker import Worker
from tests.support.holding import claim, lapsed
from tests.support.offkey_process import Quick, offkey_process
from tests.support.quick import QuickTraining
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)


def slow(worker: Worker, *, seconds: float, leave_at: int | None = None) -> Worker:
    """A worker whose batches take that long by its clock; it is asked to leave at a batch, counted from 1."""

    class Slow(QuickTraining):
        begun = 0

        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            def at_batch() -> None:
                assert worker.hold is not None
                if Slow.begun:
                    worker.hold._began -= seconds
                Slow.begun += 1
                if Slow.begun == leave_at:
                    worker.stop.set()
                before_batch()

            super().run_epoch(at_batch)

    worker.train = Slow
    return worker


def limited(minutes: float, *, trials: int = 1) -> dict[str, Any]:
    return {"search": {"trials": trials, "pruner": "none", "trial_minutes": minutes}}


@on_postgresql
def test_a_trial_that_takes_longer_fails_at_its_next_batch_and_its_worker_goes_on(tiny_study: MakeStudy) -> None:
    study = tiny_study(**limited(5, trials=2))

    slow(study.worker(), seconds=70).run()  # 4 batches in each of 3 epochs: 300 s are over at the sixth

    assert [(row.state, row.reason, row.attempts) for row in study.rows()] == [
        ("failed", "took longer than search.trial_minutes: 5", 1)
    ] * 2
    for trial in trials_of(study):
        assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"failed": 1.0}), "samplers learn from it"
        assert list(trial.intermediate_values) == [1]
        assert trial.user_attrs["failure"] == "took longer than search.trial_minutes: 5"
        assert trial.user_attrs["seconds"] == pytest.approx(5 * 70, abs=30)


def test_a_trial_within_the_limit_is_complete(tiny_study: MakeStudy) -> None:
    study = tiny_study(**limited(5))

    slow(study.worker(), seconds=20).run()  # 11 · 20 s

    (trial,) = trials_of(study)
    assert trial.state == TrialState.COMPLETE
    assert trial.user_attrs["seconds"] == pytest.approx(220, abs=30)


def test_the_time_of_all_attempts_counts(tiny_study: MakeStudy) -> None:
    study = tiny_study(**limited(5))

    slow(study.worker(), seconds=50, leave_at=6).run()
    (given_back,) = trials_of(study)
    assert given_back.state == TrialState.WAITING
    assert given_back.user_attrs["seconds"] == pytest.approx(250, abs=30)
    slow(study.worker(), seconds=50).run()

    (row,) = study.rows()
    assert (row.state, row.reason) == ("failed", "took longer than search.trial_minutes: 5")
    assert trials_of(study)[0].user_attrs["seconds"] == pytest.approx(300, abs=30)


@on_both_databases
def test_a_killed_worker_s_time_is_known_up_to_its_last_renewal(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    held = lapsed(study.storage, study, "killed")
    held._began -= 100
    with study.storage.impatient():
        held.renew(stops_before=0)
    study.ledger.expire("killed")
    held._began -= 100
    held.forget()

    assert claim(StudyStorage(study.url), study, "next").seconds == pytest.approx(100, abs=30)


def test_a_worker_process_ends_a_trial_that_takes_too_long_and_no_host_is_at_fault(tiny_study: MakeStudy) -> None:
    study = tiny_study(**limited(0.001))  # 60 ms

    with offkey_process("worker", "tiny", url=study.url, quick=Quick(pause=2.0, batches=20)) as worker:
        assert worker.ended(within=60) == 0

    assert "trial 0: failed: took longer than search.trial_minutes: 0.001" in worker.stderr
    assert [(row.state, row.attempts) for row in study.rows()] == [("failed", 1)]


@pytest.mark.parametrize("minutes", [0, -1])
def test_a_limit_that_no_trial_can_keep_is_refused(minutes: float) -> None:
    tree = {"study": "any", "model": {"family": "vae"}, "search": {"trial_minutes": minutes}}
    with pytest.raises(StudyFileError, match=r"search.trial_minutes"):
        study_of_tree(tree, origin="any")


#: Seconds of a trial of each family, by its worker's clock.
SECONDS = {"vae": 1000.0, "ae": 200.0}

SEVERAL: dict[str, Any] = {
    "model": [{"family": family, "context": 3, "z_dim": {"low": 1, "high": 4096}} for family in SECONDS],
    "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": 1, "threads": 1},
    "baseline": {},
}


def timed(worker: Worker) -> Worker:
    """A worker whose trials take that long by its clock."""

    class Timed(QuickTraining):
        def __init__(self, recipe: Recipe, corpus: Corpus, device: str) -> None:
            super().__init__(recipe, corpus, device)
            assert worker.hold is not None
            worker.hold._began -= SECONDS[recipe.model.family]

    worker.train = Timed
    return worker


def of(make: MakeStudy, *, trials: int, hours: float | None = 1.0) -> TinyStudy:
    """A study of two families with this budget; a second call raises the budget."""
    limit = {} if hours is None else {"hours": hours}
    return make(**SEVERAL, search={"trials": trials, "pruner": "none", **limit})


def leave(study: TinyStudy, seconds: float) -> None:
    """Lets so much be left of the study's hour."""
    with study.storage.engine.begin() as connection:
        connection.execute(update(StudyRow).values(active_seconds=3600.0 - seconds))


def families_of(study: TinyStudy) -> Counter[str]:
    return Counter(trial.params["family"] for trial in trials_of(study))


@pytest.mark.parametrize(
    ("storage_url", "hours", "slow_ones"), [("postgresql", 1.0, 0), ("sqlite", None, 1)], indirect=["storage_url"]
)
def test_no_trial_begins_that_would_outlast_the_hours_while_another_family_s_fits(
    tiny_study: MakeStudy, hours: float | None, slow_ones: int
) -> None:
    timed(of(tiny_study, trials=2).worker()).run()
    study = of(tiny_study, trials=9, hours=hours)
    assert families_of(study) == {"vae": 1, "ae": 1}
    leave(study, 500.0)
    if hours is None:
        with study.storage.engine.begin() as connection:
            connection.execute(update(StudyRow).values(hours=None))

    timed(study.worker()).run()

    assert families_of(study)["ae"] + families_of(study)["vae"] == 9
    assert (families_of(study)["vae"] > 1) == bool(slow_ones)


def test_a_worker_leaves_when_no_trial_fits_into_the_hours_and_says_so_once(
    tiny_study: MakeStudy, caplog: pytest.LogCaptureFixture
) -> None:
    timed(of(tiny_study, trials=2).worker()).run()
    study = of(tiny_study, trials=4)
    leave(study, 150.0)

    with caplog.at_level(logging.INFO):
        timed(study.worker()).run()

    assert len(trials_of(study)) == 2
    assert caplog.text.count("no trial is expected to end within what is left of the study's hours") == 1
    assert study.ledger.outlook(stops_before=0) == "too late"
    assert study.ledger.unfinished(), "no trial of the budget is lost"

    timed(of(tiny_study, trials=4, hours=9.0).worker()).run()
    assert len(trials_of(study)) == 4


@on_both_databases
def test_a_study_of_one_family_begins_no_trial_that_would_outlast_its_hours(tiny_study: MakeStudy) -> None:
    study = tiny_study(search={"trials": 5, "hours": 1.0, "pruner": "none"})
    first = claim(study.storage, study, "first")
    first._began -= 100
    first.finish("complete", values=[0.5], attributes={"seconds": round(first.seconds, 2)})

    leave(study, 300.0)
    assert study.ledger.claim("in time", first={}) is not None
    leave(study, 90.0)
    assert study.ledger.claim("too late", first={}) is None
    assert study.ledger.outlook(stops_before=0) == "open", "the trial at work may come free"
    study.ledger.expire("in time")
    assert study.ledger.claim("takes it over", first={}) is not None


@on_postgresql
def test_a_trial_that_was_given_back_goes_on_though_it_is_too_late_for_another(tiny_study: MakeStudy) -> None:
    timed(of(tiny_study, trials=2).worker()).run()
    study = of(tiny_study, trials=4)
    claim(study.storage, study, "gave it back").release()
    leave(study, 150.0)

    timed(study.worker()).run()

    assert [row.state for row in study.rows()] == ["complete"] * 3


def test_a_search_whose_hours_are_too_short_for_another_trial_reports_it(tiny_study: MakeStudy) -> None:
    timed(of(tiny_study, trials=2).worker()).run()
    study = of(tiny_study, trials=4)
    leave(study, 150.0)

    with offkey_process("search", "tiny", "--workers", "1", url=study.url, quick=Quick()) as search:
        assert search.ended(within=60) == 0, search.stderr

    assert "The study's hours are used up, or too short for another trial; raise them with --hours." in search.stderr
    assert len(trials_of(study)) == 2


@on_postgresql
def test_what_is_left_of_a_budget_is_known_when_a_trial_begins(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3)
    first, second = (claim(study.storage, study, owner) for owner in ("one", "two"))
    first.release()
    again = claim(study.storage, study, "three")
    study.ledger.expire("two")
    last = claim(study.storage, study, "four")
    assert again.number == first.number

    assert (first.remaining, second.remaining) == (Remaining(3, 1), Remaining(2, 2))
    assert again.remaining is None, "it had begun before"
    assert last.number == second.number, "the lost one comes first"
    assert claim(study.storage, study, "five").remaining == Remaining(1, 3)
