"""Trials that get no further: their lease ends, another worker takes them, and their process ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from features.signs_of_life import heard_by, sign_of_life, slow_step, work_of_a_place
from search.artifacts.checkpoints import Checkpoints
from search.workers.lease_renewal import SLOWER, STALLED, ending_if_it_hangs
from search.workers.pulse import Pulse, give_pulse
from search.workers.worker import Worker
from tests.support.offkey_process import until
from tests.support.quick import QuickTraining
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

LEASE = 0.3  # seconds
STALL = 1.0  # seconds


def limited(**limits: float) -> dict[str, Any]:
    return {"search": {"trials": 1, "pruner": "none", "stall_minutes": STALL / 60, **limits}}


class Hangs(QuickTraining):
    """Stays in a batch of its second epoch until it is let go."""

    let_go = threading.Event()

    def run_epoch(self, before_batch: Callable[[], None]) -> None:
        if self.epoch == 1:
            before_batch()
            self.let_go.wait(60)
        super().run_epoch(before_batch)


@contextmanager
def at_work(worker: Worker) -> Iterator[list[int]]:
    """Runs a worker in a thread; yields the exit codes with which it would have left."""
    left: list[int] = []
    worker.leave = left.append
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    yield left
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_trial_that_hangs_in_a_batch_is_taken_by_another_worker_and_goes_on(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hangs, "let_go", threading.Event())
    whole = tiny_study(study="whole", **limited())
    whole.worker(quick=True).run()
    study = tiny_study(**limited())
    hung, other = study.worker(lease=LEASE, quick=True), study.worker(lease=LEASE, quick=True)
    hung.train = Hangs

    with at_work(hung) as left:
        until(lambda: left == [STALLED], seconds=20)
        (row,) = study.rows()
        assert (row.state, row.failures) == ("waiting", 1)
        assert row.reason.startswith("it hung: no sign of life for")
        assert row.checkpoint.endswith("@1/1")
        other.run()
        Hangs.let_go.set()  # it comes too late, and changes nothing

    (trial,), (undisturbed,) = trials_of(study), trials_of(whole)
    assert trial.intermediate_values == undisturbed.intermediate_values
    assert [row.state for row in study.rows()] == ["complete"]


def test_a_trial_that_hangs_while_a_place_works_is_not_at_fault(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    study = tiny_study(**limited())
    worker = study.worker(lease=LEASE, quick=True)
    monkeypatch.setattr(Checkpoints, "write", lambda *arguments, **options: let_go.wait(60))

    with at_work(worker) as left:
        until(lambda: left == [STALLED], seconds=20)
        (row,) = study.rows()
        let_go.set()

    assert (row.state, row.failures, row.of_a_place) == ("waiting", 0, True)


def test_a_step_that_is_known_to_be_slow_may_take_longer(tiny_study: MakeStudy, monkeypatch: Any) -> None:
    waited = threading.Event()

    class IsSlow(QuickTraining):
        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            super().run_epoch(before_batch)
            with slow_step():
                waited.wait(2 * STALL)

    assert SLOWER > 2
    study = tiny_study(training={"learning_rate": 0.01, "batch_size": 16, "epochs": 1, "threads": 1}, **limited())
    worker = study.worker(lease=LEASE, quick=True)
    worker.train = IsSlow
    with at_work(worker) as left:
        pass
    assert left == []
    assert [row.state for row in study.rows()] == ["complete"]


def test_a_trial_that_reaches_no_batch_is_ended_by_its_limit_of_time_too(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hangs, "let_go", threading.Event())
    study = tiny_study(**limited(stall_minutes=60, trial_minutes=STALL / 60))
    worker = study.worker(lease=LEASE, quick=True)
    worker.train = Hangs

    with at_work(worker) as left:
        until(lambda: left == [STALLED], seconds=20)
        Hangs.let_go.set()

    (row,) = study.rows()
    assert (row.state, row.reason) == ("failed", f"took longer than search.trial_minutes: {STALL / 60:g}")


def test_signs_of_life_reach_the_listener_of_their_thread_and_nobody_else() -> None:
    heard: list[str] = []

    class Listener:
        def sign(self) -> None:
            heard.append("sign")

        def begin_slow_step(self) -> None:
            heard.append("slow")

        def end_slow_step(self) -> None:
            heard.append("done")

        def begin_work_of_a_place(self) -> None:
            heard.append("a place works")

        def end_work_of_a_place(self) -> None:
            heard.append("it has")

    sign_of_life()
    with heard_by(Listener()):
        sign_of_life()
        with slow_step(), work_of_a_place():
            pass
        thread = threading.Thread(target=sign_of_life)
        thread.start()
        thread.join()
    sign_of_life()

    assert heard == ["sign", "slow", "a place works", "it has", "done", "sign"]


def test_a_pulse_is_heard_as_long_as_its_process_runs() -> None:
    pulse, silent = Pulse(), Pulse()
    give_pulse(pulse.for_worker)
    until(lambda: pulse.silent_seconds() == 0.0)
    until(lambda: silent.silent_seconds() > 1.2)
    assert pulse.silent_seconds() < 1.2
    pulse.close()
    silent.close()


def test_a_worker_that_hangs_before_it_has_a_trial_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.workers.lease_renewal.STALL_MINUTES", 0.01 / 60)
    left: list[int] = []

    with ending_if_it_hangs("joining the study", leave=left.append):
        until(lambda: left == [STALLED])

    assert "error: joining the study hangs: it has taken" in capfd.readouterr().err


def test_a_worker_that_joins_in_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.workers.lease_renewal.STALL_MINUTES", 0.01 / 60)
    left: list[int] = []

    with ending_if_it_hangs("joining the study", leave=left.append):
        pass

    time.sleep(0.1)
    assert left == []
