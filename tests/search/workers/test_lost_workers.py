"""Workers that are killed, suspended, or fail: their trials go on, nothing is lost and nothing is done twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import psycopg
import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from search.preparation.prepared import prepare
from search.results.export import export_recipe
from search.results.status import read_status
from search.storage.lease_rules import MOST_FAILURES, MOST_LOST
from search.training.loop import Training
from tests.support.detectors import detector_of
from tests.support.faulty_worker import MOMENTS, faulty, wait_until_stopped
from tests.support.quick import QuickTraining
from tests.support.tiny_study import curves, trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

LEASE = 1.0  # seconds
EPOCHS = 3

DATABASES = ["sqlite", "postgresql"]


class Killed(BaseException):
    """Ends a worker that says nothing any more."""


def checkpoints_left() -> list[Path]:
    return list(Path(os.environ["OFFKEY_CACHE"], "artifacts").rglob("*-trial-*"))


def assert_nothing_was_lost(study: TinyStudy, undisturbed: object) -> None:
    trials = trials_of(study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert [sorted(trial.intermediate_values) for trial in trials] == [list(range(1, EPOCHS + 1))] * 2
    assert [row.state for row in study.rows()] == ["complete"] * 2
    assert curves(trials) == undisturbed
    assert all(trial.value == trial.intermediate_values[EPOCHS] for trial in trials)


@pytest.fixture(autouse=True)
def _polls_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.workers.worker._POLL_SECONDS", 0.1)


TWO_OPEN = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": {"low": 2, "high": 8}}
BLOCKS = {"model": TWO_OPEN, "baseline": {"h_dim": 16, "z_dim": 4}}


@pytest.fixture(scope="module")
def known_curves() -> dict[str, object]:
    """The reports of undisturbed studies; the first test that needs one adds it."""
    return {}


@pytest.fixture
def undisturbed(tiny_study: MakeStudy, known_curves: dict[str, object]) -> Callable[[str], object]:
    def of(kind: str) -> object:
        if kind not in known_curves:
            study = tiny_study(trials=2, study=f"undisturbed-{kind}", **BLOCKS)
            study.worker(quick=kind == "quick").run()
            known_curves[kind] = curves(trials_of(study))
        return known_curves[kind]

    return of


# Each moment is met on both databases: by a kill on the one, by a stop on the other.
@pytest.mark.parametrize(("storage_url", "moment"), [*zip(cycle(DATABASES), MOMENTS)], indirect=["storage_url"])
def test_a_worker_killed_at_any_moment_leaves_a_study_that_ends_as_if_undisturbed(
    tiny_study: MakeStudy, undisturbed: Callable[[str], object], moment: str
) -> None:
    study = tiny_study(trials=2, **BLOCKS)

    with faulty(study, moment, signal.SIGKILL, lease=LEASE) as killed:
        killed.join(timeout=60)
        assert killed.exitcode == -signal.SIGKILL
    study.worker(lease=LEASE, quick=True).run()

    assert_nothing_was_lost(study, undisturbed("quick"))
    assert checkpoints_left() == []


@pytest.mark.parametrize(("storage_url", "moment"), [*zip(cycle(DATABASES[::-1]), MOMENTS)], indirect=["storage_url"])
def test_a_worker_suspended_at_any_moment_and_continued_after_its_lease_overwrites_nothing(
    tiny_study: MakeStudy, undisturbed: Callable[[str], object], moment: str
) -> None:
    study = tiny_study(trials=2, **BLOCKS)
    with faulty(study, moment, signal.SIGSTOP, lease=LEASE) as stopped:
        wait_until_stopped(stopped)
        # A process that was stopped inside a transaction keeps SQLite's write lock until it goes on.
        other = threading.Thread(target=study.worker(lease=LEASE, quick=True).run)
        other.start()
        other.join(timeout=2 * LEASE)
        os.kill(stopped.pid, signal.SIGCONT)
        stopped.join(timeout=60)
        assert stopped.exitcode == 0
        other.join(timeout=60)

    assert_nothing_was_lost(study, undisturbed("quick"))
    assert checkpoints_left() == []


@pytest.mark.parametrize(
    ("storage_url", "moment"),
    [
        ("sqlite", "in the second epoch"),
        ("postgresql", "between checkpoint and report"),
        ("sqlite", "after the report"),
    ],
    indirect=["storage_url"],
)
def test_a_real_training_goes_on_at_its_last_checkpoint_and_ends_bit_equal(
    tiny_study: MakeStudy, undisturbed: Callable[[str], object], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=2, **BLOCKS)
    with faulty(study, moment, signal.SIGKILL, lease=LEASE, real=True) as killed:
        killed.join(timeout=60)
        assert killed.exitcode == -signal.SIGKILL
    trained: list[int] = []
    original = Training.run_epoch

    def recorded(training: Training, *args: Callable[[], None]) -> None:
        trained.append(training.epoch)
        original(training, *args)

    expected = undisturbed("real")
    monkeypatch.setattr(Training, "run_epoch", recorded)
    study.worker(lease=LEASE).run()

    assert_nothing_was_lost(study, expected)
    epochs_to_repeat = [0, 1, 2] if moment == "between checkpoint and report" else [1, 2]
    assert sorted(trained) == sorted([*epochs_to_repeat, 0, 1, 2])
    assert checkpoints_left() == []


@pytest.mark.parametrize("damage", ["missing", "cut off", "another's"])
def test_a_checkpoint_that_is_missing_or_damaged_on_this_host_means_starting_over(
    tiny_study: MakeStudy, undisturbed: Callable[[str], object], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = tiny_study(trials=2, **BLOCKS)
    with faulty(study, "in the second epoch", signal.SIGKILL, lease=LEASE) as killed:
        killed.join(timeout=60)
    (checkpoint,) = checkpoints_left()
    if damage == "missing":
        checkpoint.unlink()
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-5] if damage == "cut off" else b"some other file")

    study.worker(lease=LEASE, quick=True).run()

    assert_nothing_was_lost(study, undisturbed("quick"))
    assert "starting over" in caplog.text


def test_a_trial_that_keeps_losing_its_worker_is_given_up_and_the_study_ends(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    for attempt in range(MOST_LOST):
        study.storage.lease = -1.0
        lost = study.ledger.claim(f"lost-{attempt}", first={})
        assert lost is not None
        lost.forget()

    study.worker(lease=LEASE, quick=True).run()

    assert [row.state for row in study.rows()] == ["failed", "complete"]
    assert study.rows()[0].reason == f"its worker was lost {MOST_LOST} times"
    given_up, complete = trials_of(study)
    assert (given_up.state, given_up.constraints) == (TrialState.PRUNED, {"failed": 1.0}), "the sampler learns from it"
    assert complete.state == TrialState.COMPLETE


def test_a_worker_lost_after_a_new_checkpoint_counts_as_the_first_attempt(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1, training={"learning_rate": 0.01, "batch_size": 16, "epochs": 9, "threads": 1})
    for _ in range(MOST_FAILURES + 1):
        for moment in ("between checkpoint and report", "after the report"):
            with faulty(study, moment, signal.SIGKILL, lease=LEASE) as killed:
                killed.join(timeout=60)
    study.worker(lease=LEASE, quick=True).run()
    assert [(row.state, len(t.intermediate_values)) for row, t in zip(study.rows(), trials_of(study), strict=True)] == [
        ("complete", 9)
    ]


def test_a_trial_whose_worker_failed_reports_the_reason_when_it_is_given_up(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=1)
    with monkeypatch.context() as patched:
        patched.setattr(Training, "run_epoch", _broken_machine)
        for _ in range(MOST_FAILURES):
            with pytest.raises(RuntimeError, match="CUDA error"):
                study.worker(lease=1.0).run()
    study.worker(lease=1.0).run()
    (row,) = study.rows()
    assert (row.state, row.reason) == (
        "failed",
        "its worker was lost 3 times; the last error was: RuntimeError: CUDA error: unspecified launch failure",
    )


def _broken_machine(*args: object) -> None:
    raise RuntimeError("CUDA error: unspecified launch failure")


def test_a_trial_goes_on_with_its_first_number_of_threads_and_is_reproduced_to_the_last_bit(
    tiny_study: MakeStudy,
) -> None:
    threads_open = {"learning_rate": 0.01, "batch_size": 16, "epochs": 3}
    study = tiny_study(trials=1, training=threads_open)
    torch.set_num_threads(2)
    with faulty(study, "after the report", signal.SIGKILL, lease=LEASE, real=True) as killed:
        killed.join(timeout=60)
    (begun,) = trials_of(study)

    study.worker(lease=LEASE).run()

    (trial,) = trials_of(study)
    assert trial.user_attrs["threads"] == begun.user_attrs["threads"] == 1
    recipe = export_recipe(study.storage, study.stored)
    assert recipe.training.threads == 1
    torch.set_num_threads(2)
    whole = prepare(study.stored.study(), default_root=None).corpus
    assert detector_of(recipe, whole, torch.device("cpu")).validation.auc == trial.value


def test_a_trial_goes_on_with_its_first_precision_and_is_reproduced_to_the_last_bit(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_cpu(*, with_bfloat16: bool) -> None:
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": with_bfloat16}, raising=False)

    class DiesInTheThirdEpoch(Training):
        def run_epoch(self, before_batch: Callable[[], None] = lambda: None) -> None:
            if self.epoch == 2:
                raise Killed
            super().run_epoch(before_batch)

    study = tiny_study(trials=1)
    on_a_cpu(with_bfloat16=True)
    lost = study.worker(lease=LEASE)
    lost.train = lambda recipe, corpus, device: DiesInTheThirdEpoch(recipe, corpus, torch.device(device))
    with pytest.raises(Killed):
        lost.run()
    (begun,) = trials_of(study)
    (running,) = study.rows()
    assert running.checkpoint is not None

    on_a_cpu(with_bfloat16=False)
    study.worker(lease=LEASE).run()

    (trial,) = trials_of(study)
    assert trial.user_attrs["precision"] == begun.user_attrs["precision"] == "bfloat16"
    recipe = export_recipe(study.storage, study.stored)
    assert recipe.training.precision == "bfloat16"
    whole = prepare(study.stored.study(), default_root=None).corpus
    assert detector_of(recipe, whole, torch.device("cpu")).validation.auc == trial.value


def test_a_worker_lost_in_an_outage_leaves_no_gap_in_the_reports(tiny_study: MakeStudy) -> None:
    training = {"learning_rate": 0.01, "batch_size": 16, "epochs": 8, "threads": 1}
    whole = tiny_study(trials=1, study="whole", training=training)
    whole.worker(quick=True).run()
    study = tiny_study(trials=1, training=training)
    lost = study.worker(lease=LEASE, quick=True)

    class DiesInAnOutage(QuickTraining):
        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            if self.epoch == 3:
                event.listen(lost.storage.engine, "before_cursor_execute", _no_answer)
            if self.epoch == 5:
                raise Killed
            super().run_epoch(before_batch)

    lost.train = DiesInAnOutage
    with pytest.raises(Killed):
        lost.run()

    study.worker(lease=LEASE, quick=True).run()

    (trial,), (undisturbed,) = trials_of(study), trials_of(whole)
    assert trial.intermediate_values == undisturbed.intermediate_values
    assert list(trial.intermediate_values) == list(range(1, 9))


def test_a_trial_lost_between_two_values_of_its_curve_goes_on_at_its_last_epoch(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1, training={"learning_rate": 0.01, "batch_size": 16, "epochs": 20, "threads": 1})
    trained: list[int] = []

    class DiesAfterItsFourteenthEpoch(QuickTraining):
        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            if self.epoch == 14:
                raise Killed
            super().run_epoch(before_batch)

    class Noted(QuickTraining):
        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            trained.append(self.epoch)
            super().run_epoch(before_batch)

    lost, successor = study.worker(lease=LEASE, quick=True), study.worker(lease=LEASE, quick=True)
    lost.train, successor.train = DiesAfterItsFourteenthEpoch, Noted
    with pytest.raises(Killed):
        lost.run()
    optuna_study = optuna.load_study(study_name="tiny", storage=study.storage)
    (running,) = read_status(study.storage, study.stored, optuna_study).running
    assert (running.epoch, running.value) == (14, trials_of(study)[0].intermediate_values[12])

    successor.run()

    assert trained == [14, 15, 16, 17, 18, 19]
    assert list(trials_of(study)[0].intermediate_values) == [*range(1, 10), 12, 15, 18, 20]


def test_reports_of_an_outage_that_came_without_a_checkpoint_are_trained_again(tiny_study: MakeStudy) -> None:
    training = {"learning_rate": 0.01, "batch_size": 16, "epochs": 8, "threads": 1}
    whole = tiny_study(trials=1, study="whole", training=training)
    whole.worker(quick=True).run()
    study = tiny_study(trials=1, training=training)
    lost = study.worker(lease=LEASE, quick=True)

    class OutageThenDeath(QuickTraining):
        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            if self.epoch == 3:
                event.listen(lost.storage.engine, "before_cursor_execute", _no_answer)
            if self.epoch == 6:
                event.remove(lost.storage.engine, "before_cursor_execute", _no_answer)
                lost.storage.get_all_studies()  # the outage is over
                lost.hold._send_reports()  # type: ignore[union-attr]
                raise Killed
            super().run_epoch(before_batch)

    lost.train = OutageThenDeath
    with pytest.raises(Killed):
        lost.run()
    (row,) = study.rows()
    assert row.checkpoint is not None
    assert row.checkpoint.endswith("@4/4"), "written before the outage was noticed, entered with the reports after it"

    study.worker(lease=LEASE, quick=True).run()

    (trial,), (undisturbed,) = trials_of(study), trials_of(whole)
    assert trial.intermediate_values == undisturbed.intermediate_values


def _no_answer(*arguments: object) -> None:
    raise OperationalError("", None, psycopg.OperationalError("server closed the connection unexpectedly"))
