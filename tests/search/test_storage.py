"""The ledger inside Optuna's transactions. The first tests fail when the internals that it leans on change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from search import ledger
from search.errors import StorageError, StudyError
from search.ledger import Claim, LeaseLost, StudyRow, TrialRow
from search.storage import StudyStorage, storage_errors
from search.stored_study import load_stored

if TYPE_CHECKING:
    from tests.search.conftest import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

WRITES: dict[str, Callable[[StudyStorage, int], object]] = {
    "set_trial_param": lambda s, t: s.set_trial_param(t, "x", 0.5, FloatDistribution(0, 1)),
    "set_trial_intermediate_value": lambda s, t: s.set_trial_intermediate_value(t, 1, 0.5),
    "set_trial_user_attr": lambda s, t: s.set_trial_user_attr(t, "note", 1),
    "set_trial_system_attr": lambda s, t: s.set_trial_system_attr(t, "note", 1),
    "set_trial_state_values": lambda s, t: s.set_trial_state_values(t, TrialState.COMPLETE, [0.5]),
}


def claim(storage: StudyStorage, study: TinyStudy, owner: str, *, lease: float = 30.0) -> Claim:
    taken = storage.claim(study.stored.study_id, owner, first={}, lease=lease)
    assert taken is not None
    return taken


def test_every_write_of_optuna_is_in_the_table_of_guarded_writes() -> None:
    writes = {name for name in vars(RDBStorage) if name.startswith("set_trial_")}
    assert writes == set(WRITES)


@pytest.mark.parametrize("write", WRITES)
def test_no_write_of_optuna_gets_past_the_fence(tiny_study: MakeStudy, write: str) -> None:
    study = tiny_study()
    slow, successor = study.storage, StudyStorage(study.url)
    held = claim(slow, study, "slow", lease=-1.0)
    assert claim(successor, study, "successor").trial_id == held.trial_id
    before = successor.get_trial(held.trial_id)

    with pytest.raises(LeaseLost):
        WRITES[write](slow, held.trial_id)

    after = successor.get_trial(held.trial_id)
    assert after == before
    WRITES[write](successor, held.trial_id)
    assert successor.get_trial(held.trial_id) != before


@pytest.mark.parametrize("write", WRITES)
def test_no_late_write_gets_past_the_fence_when_the_successor_has_ended_the_trial(
    tiny_study: MakeStudy, write: str
) -> None:
    study = tiny_study()
    slow, successor = study.storage, StudyStorage(study.url)
    held = claim(slow, study, "slow", lease=-1.0)
    successor.finish(claim(successor, study, "successor"), "complete", value=0.7)

    with pytest.raises(LeaseLost):
        WRITES[write](slow, held.trial_id)


@pytest.mark.parametrize("write", WRITES)
def test_the_check_runs_in_the_session_that_writes(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    sessions = []

    def seen(session: Session, claim: Claim, **values: object) -> None:
        sessions.append((session is study.storage.scoped_session(), session.in_transaction()))

    monkeypatch.setattr(ledger, "fence", seen)
    WRITES[write](study.storage, held.trial_id)
    assert sessions
    assert set(sessions) == {(True, True)}


def test_a_value_and_the_ledgers_state_are_written_together_or_not_at_all(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    monkeypatch.setattr(RDBStorage, "_set_trial_value_without_commit", _power_cut)
    with pytest.raises(InterruptedError):
        study.storage.finish(held, "complete", value=0.5)
    with Session(study.storage.engine) as session:
        assert session.get_one(TrialRow, held.trial_id).state == "running"
    assert study.storage.get_trial(held.trial_id).state == TrialState.RUNNING


def test_a_slot_and_its_trial_are_taken_together_or_not_at_all(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=1)
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "add_trial", _power_cut)
        with pytest.raises(InterruptedError):
            claim(study.storage, study, "worker")
    assert study.storage.get_all_trials(study.stored.study_id) == []
    assert claim(study.storage, study, "next").number == 0


def _power_cut(*args: object, **kwargs: object) -> None:
    raise InterruptedError


def test_a_budget_that_is_handed_out_gives_no_more_claims_until_it_is_raised(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    assert [claim(study.storage, study, "worker").number for _ in range(2)] == [0, 1]
    assert study.storage.claim(study.stored.study_id, "worker", first={}) is None
    tiny_study(trials=3)
    assert claim(study.storage, study, "worker").number == 2


def test_a_budget_is_never_lowered_by_joining(tiny_study: MakeStudy) -> None:
    tiny_study(trials=5)
    assert tiny_study(trials=2).stored.budget == 5


def test_a_trial_in_its_lease_is_nobody_elses(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    claim(study.storage, study, "worker")
    assert StudyStorage(study.url).claim(study.stored.study_id, "other", first={}) is None


def test_a_released_trial_waits_and_is_taken_first_and_counts_no_attempt(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    study.storage.release(held)
    assert study.storage.get_trial(held.trial_id).state == TrialState.WAITING
    again = claim(StudyStorage(study.url), study, "other")
    assert (again.trial_id, again.token, again.attempts) == (held.trial_id, 2, 1)
    assert study.storage.get_trial(held.trial_id).state == TrialState.RUNNING


def test_a_dead_workers_leases_end_at_once_when_its_supervisor_says_so(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    held = claim(study.storage, study, "host:1")
    with study.storage.engine.begin() as connection:
        ledger.expire(connection, study.stored.study_id, "host:1")
    assert claim(StudyStorage(study.url), study, "host:2").trial_id == held.trial_id


def test_hours_that_are_used_up_end_claims_and_count_only_time_with_a_worker(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2, search={"trials": 2, "hours": 1.0})
    claim(study.storage, study, "worker")
    with study.storage.engine.begin() as connection:
        long_ago = ledger.database_now() - 7200
        connection.execute(update(StudyRow).values(last_seen=long_ago))
        ledger.sign_of_life(connection, study.stored.study_id, lease=30.0)
        assert not ledger.out_of_time(connection, study.stored.study_id), "two hours without a worker do not count"
        connection.execute(update(StudyRow).values(last_seen=ledger.database_now() - 20))
        ledger.sign_of_life(connection, study.stored.study_id, lease=30.0)
        active = connection.execute(select(StudyRow.active_seconds)).scalar_one()
        assert active == pytest.approx(20, abs=5)
        connection.execute(update(StudyRow).values(active_seconds=3600.0))
    assert study.storage.claim(study.stored.study_id, "worker", first={}) is None


def test_sqlite_writes_ahead_so_that_readers_and_the_writer_do_not_wait(tiny_study: MakeStudy) -> None:
    with tiny_study().storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "in memory cannot be shared"),
        ("sqlite:///no/such/folder/study.db", "unable to open database file"),
        ("not a url", "not a database URL"),
        ("sqlite:////proc/study.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_said_so(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        StudyStorage(url, create=True)


def test_a_file_that_is_no_database_is_said_so_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("groceries: bread, milk" * 100)
    with pytest.raises(StorageError, match="file is not a database"):
        StudyStorage(f"sqlite:///{file}", create=True)
    assert file.read_text().startswith("groceries")


def test_a_read_only_storage_is_said_so(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    database = study.url.removeprefix("sqlite:///")
    read_only = StudyStorage(f"sqlite:///file:{database}?mode=ro&uri=true")
    with pytest.raises(StorageError, match="attempt to write a readonly database"), storage_errors(read_only.url):
        claim(read_only, study, "worker")


def test_a_storage_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="There is no study storage"):
        StudyStorage(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_passwords_are_not_shown() -> None:
    with pytest.raises(StorageError) as raised, storage_errors("postgresql+psycopg://me:secret@host/db"):
        raise optuna.exceptions.StorageInternalError("down")
    assert "secret" not in str(raised.value)
    assert "host/db" in str(raised.value)


def test_any_number_of_processes_may_make_a_storage_at_the_same_moment(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    program = (
        "import sys, pathlib\n"
        "from search.storage import StudyStorage\n"
        f"while not pathlib.Path({str(gate)!r}).exists(): pass\n"
        f"StudyStorage('sqlite:///{tmp_path / 'new.db'}', create=True)\n"
    )
    openers = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(6)]
    gate.touch()
    errors = [opener.communicate(timeout=120)[1].decode() for opener in openers]
    assert [opener.returncode for opener in openers] == [0] * 6, errors


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (
            {"model": {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4}, "baseline": {}},
            "model.h_dim: stored —, here 16",
        ),
        (
            {"model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 32}, "z_dim": 4}},
            "model.h_dim.high: stored 64, here 32",
        ),
        ({"search": {"trials": 3, "pruner": "none", "sampler": "random"}}, "search.sampler: stored tpe, here random"),
        ({"baseline": {"h_dim": 17}}, "baseline.h_dim: stored 16, here 17"),
    ],
)
def test_a_study_that_exists_with_another_space_is_refused_with_what_differs(
    tiny_study: MakeStudy, change: dict[str, object], differs: str
) -> None:
    tiny_study()
    with pytest.raises(StudyError, match=differs):
        tiny_study(**change)


PLAIN_MODEL = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4}


@pytest.mark.parametrize(
    "written_out",
    [
        {"scoring": {"pooling": "mean"}},
        {"features": {"n_mels": 32, "n_fft": 1024}},
        {"model": {**PLAIN_MODEL, "kld_weight": 0.01}},
        {"validation": {"metric": "auc"}},
    ],
)
def test_a_default_that_is_written_out_makes_no_other_study(
    tiny_study: MakeStudy, written_out: dict[str, object]
) -> None:
    first = tiny_study()
    assert tiny_study(**written_out).stored.uid == first.stored.uid


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_search_does_not_take_over_a_study_of_somebody_elses(
    tiny_study: MakeStudy, direction: Literal["minimize", "maximize"]
) -> None:
    url = tiny_study().url
    foreign = optuna.create_study(study_name="foreign", storage=url, direction=direction)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match="was not made by Offkey"):
        tiny_study(study="foreign")


def test_joining_without_hours_leaves_the_hours_as_they_are(tiny_study: MakeStudy) -> None:
    study = tiny_study(search={"trials": 3, "pruner": "none", "hours": 2.0})
    tiny_study()
    with study.storage.engine.connect() as connection:
        assert connection.execute(select(StudyRow.hours)).scalar_one() == 2.0


def test_a_study_that_offkey_did_not_make_is_refused(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    optuna.create_study(study_name="foreign", storage=study.url)
    with pytest.raises(StudyError, match="was not made by Offkey"):
        load_stored(study.storage, "foreign")
