"""A stored study as a whole: a request to stop, another name, deletion."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sqlalchemy import event, func, select

from search.artifacts.artifact_store import open_artifacts, place_of
from search.dashboard.exhibits import Exhibit, upload
from search.errors import StudyError
from search.preparation.prepared import prepare
from search.results.status import read_status
from search.sampling.rungs import Hyperband
from search.sampling.samplers import pruner_for
from search.storage.hold import Hold
from search.storage.stored_study import create_or_join, load_stored
from search.storage.study_storage import StudyStorage
from search.storage.tables import StudyRow, TrialRow
from search.storage.upkeep import delete_study, rename_study
from search.study.search_settings import SearchSettings
from tests.support.faulty_worker import faulty
from tests.support.offkey_process import until
from tests.support.quick import QuickTraining
from tests.support.statements import statements

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    Offkey = Callable[..., Ran]
    MakeStudy = Callable[..., TinyStudy]

on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)


def finish_all(study: TinyStudy) -> None:
    study.worker(quick=True).run()


def test_stop_makes_present_workers_leave_and_later_ones_go_on(
    offkey: Offkey, tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=2)
    with monkeypatch.context() as slow:
        slow.setattr(QuickTraining, "pause", 0.05)
        slow.setattr(QuickTraining, "batches", 10_000)
        worker = study.worker(lease=3.0, quick=True)
        at_work = threading.Thread(target=worker.run, daemon=True)
        at_work.start()
        until(lambda: study.ledger.at_work() != [])

        ran = offkey("stop", "tiny", "--storage", study.url)

        at_work.join(timeout=30)
        assert not at_work.is_alive()
    assert (ran.code, ran.stdout) == (0, "")
    # The worker's log is beside it.
    assert "tiny: 1 worker leaves within 20 seconds. `offkey search` continues it.\n" in ran.stderr
    finish_all(study)
    assert study.ledger.progress()[0] == 2


def test_retry_puts_failed_trials_back_and_says_which(offkey: Offkey, tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3)
    for number in range(3):
        hold = study.ledger.claim("worker", first={})
        assert hold is not None
        hold.finish("complete" if number == 1 else "failed", values=[0.5] if number == 1 else None)

    def retry(*options: str) -> Ran:
        return offkey("retry", "tiny", *options, "--storage", study.url)

    assert "give --failed for every trial that failed, or --trial N, and not both" in retry().stderr
    assert "Trial 1 has not failed; these have: 0, 2." in retry("--trial", "1").stderr
    ran = retry("--trial", "2")
    assert (ran.code, ran.stderr) == (
        0, "tiny: Trial 2 waits to be tried again. `offkey search` continues the study.\n"
    )  # fmt: skip
    assert "Trial 0 waits" in retry("--failed").stderr
    assert "no trial has failed" in retry("--failed").stderr
    assert [row.state for row in study.rows()] == ["waiting", "complete", "waiting"]


def test_a_renamed_study_goes_on_with_the_same_brackets(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)

    def brackets(name: str) -> list[int]:
        stored = load_stored(study.storage, name)
        pruner = pruner_for(SearchSettings(), max_steps=81, name=stored.first_name)
        assert isinstance(pruner, Hyperband)
        optuna_study = optuna.load_study(study_name=name, storage=study.storage)
        pruner._try_initialization(optuna_study)
        trials = [optuna.trial.create_trial(value=0.5) for _ in range(40)]
        for number, trial in enumerate(trials):
            trial.number = number
        return [pruner._get_bracket_id(optuna_study, trial) for trial in trials]

    before = brackets("tiny")
    rename_study(study.storage, study.stored, "small")

    assert brackets("small") == before
    assert len(set(before)) > 1


@on_both_databases
def test_a_study_is_deleted_and_its_trials_put_back_in_as_many_statements_whatever_their_number(
    tiny_study: MakeStudy,
) -> None:
    counts = []
    for trials in (1, 6):
        study = tiny_study(trials=trials, study=f"of-{trials}")
        study.worker(quick=True).run()
        with study.storage.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE offkey_trials SET state = 'failed'")
        with statements(study.storage) as retried:
            assert len(study.ledger.retry(None)) == trials
        with statements(study.storage) as deleted:
            study.ledger.delete()
        counts.append((len(retried), len(deleted)))
    assert counts[0] == counts[1]
    assert counts[0] < (15, 30)


def test_a_renamed_study_is_the_same_study_under_another_name(offkey: Offkey, tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    finish_all(study)

    ran = offkey("rename", "tiny", "small", "--storage", study.url)

    assert (ran.code, ran.stderr) == (0, "tiny is now called small.\n")
    renamed = load_stored(study.storage, "small")
    assert (renamed.uid, renamed.study().name) == (study.stored.uid, "small")
    assert len(optuna.load_study(study_name="small", storage=study.storage).trials) == 2
    assert offkey("status", "tiny", "--storage", study.url).code == 1
    prepared = prepare(renamed.study(overrides=("search.trials=3",)), default_root=None)
    assert create_or_join(study.storage, prepared.study, prepared.corpus, prepared.validation_data.truth).budget == 3, (
        "whoever starts it again joins it"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", "There is a study 'other' in"),
        ("a/b", "'a/b' cannot be a study's name"),
        ("-a", "No such option"),
        ("", "'' cannot be a study's name"),
        ("a" * 201, "cannot be a study's name: up to 200"),
    ],
)
def test_a_name_that_is_taken_or_invalid_is_refused(
    offkey: Offkey, tiny_study: MakeStudy, name: str, message: str
) -> None:
    study = tiny_study(trials=1)
    optuna.create_study(study_name="other", storage=study.storage)
    ran = offkey("rename", "tiny", name, "--storage", study.url)
    assert ran.code in (1, 2)
    assert message in ran.stderr
    assert load_stored(study.storage, "tiny").uid == study.stored.uid


@on_both_databases
def test_a_deleted_study_leaves_no_row_and_no_file_and_its_name_is_free(
    offkey: Offkey, tiny_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=2)
    shown = [Exhibit("1.png", "image/png", b"a picture")]
    monkeypatch.setattr("search.dashboard.exhibits.exhibits_of", lambda model, scores: shown)
    finish_all(study)
    place = Path(study.worker().checkpoints.place)
    open_artifacts(str(place)).write("another-study's", (tmp_path / "x").open("w+b"))
    assert len(list(place.iterdir())) > 1

    ran = offkey("delete", "tiny", "--yes", "--storage", study.url)

    assert (ran.code, ran.stderr) == (0, "tiny is deleted.\n")
    assert [path.name for path in place.iterdir()] == ["another-study's"]
    for table in (StudyRow, TrialRow):
        assert study.storage.transact(lambda s, t=table: s.execute(select(func.count()).select_from(t)).scalar()) == 0  # type: ignore[misc]
    prepared = prepare(study.stored.study(), default_root=None)
    again = create_or_join(study.storage, prepared.study, prepared.corpus, prepared.validation_data.truth)
    assert again.uid != study.stored.uid


@pytest.mark.parametrize(("answer", "is_deleted"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_a_study_is_deleted_only_after_a_yes(
    offkey: Offkey, tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, answer: str, is_deleted: bool
) -> None:
    study = tiny_study(trials=1)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    ran = offkey("delete", "tiny", "--storage", study.url)
    assert ran.code == (0 if is_deleted else 1)
    assert "Delete tiny with its 0 trials from" in ran.stderr
    assert (study.storage.get_all_studies() == []) == is_deleted


@pytest.mark.parametrize("command", [("rename", "tiny", "small"), ("delete", "tiny", "--yes")])
def test_a_study_that_workers_are_at_work_on_is_left_alone(
    offkey: Offkey, tiny_study: MakeStudy, command: tuple[str, ...]
) -> None:
    study = tiny_study(trials=1)
    assert study.ledger.claim("host:1", first={}) is not None
    ran = offkey(*command, "--storage", study.url)
    assert ran.code == 1
    assert "1 workers are at work on tiny (for example host:1). `offkey stop tiny` makes them leave" in ran.stderr
    assert load_stored(study.storage, "tiny").uid == study.stored.uid
    assert json.loads(offkey("status", "tiny", "--storage", study.url, "--json").stdout)["trials"]["running"] == 1


@on_both_databases
@pytest.mark.parametrize(("change", "trial"), [("delete", "waiting"), ("rename", "waiting"), ("delete", "new")])
def test_a_worker_that_claims_during_the_deletion_gets_a_trial_of_the_study_or_none(
    tiny_study: MakeStudy, change: str, trial: str
) -> None:
    study = tiny_study(trials=1)
    if trial == "waiting":
        given_back = study.ledger.claim("host:2", first={})
        assert given_back is not None
        given_back.release()
    elsewhere, claims = study.ledger_over(StudyStorage(study.url)), list[Hold | None]()
    worker = threading.Thread(target=lambda: claims.append(elsewhere.claim("host:1", first={})), daemon=True)

    def claim_now(*given: Any) -> None:
        if "lease_until >" in given[2] and worker.ident is None:  # after the check whether workers are at work
            worker.start()
            worker.join(timeout=1)
            assert claims == [], "claimed between the look and the deletion"

    event.listen(study.storage.engine, "after_cursor_execute", claim_now)
    if change == "delete":
        delete_study(study.storage, study.stored)
    else:
        rename_study(study.storage, study.stored, "small")
    worker.join(timeout=30)

    assert [claim is None for claim in claims] == [change == "delete"]


def test_files_are_removed_once_nothing_refers_to_them(tiny_study: MakeStudy, tmp_path: Path) -> None:
    study = tiny_study(trials=1)
    hold = study.ledger.claim("host:1", first={})
    assert hold is not None
    exhibits = upload([Exhibit("1.png", "image/png", b"a picture")], str(tmp_path), uid=study.stored.uid, number=0)
    hold.finish("complete", values=[0.5], exhibits=exhibits)
    (file,) = [tmp_path / key.removeprefix("artifacts:") for key in exhibits]
    there: list[bool] = []
    event.listen(study.storage.engine, "commit", lambda connection: there.append(file.exists()))

    delete_study(study.storage, replace(study.stored, artifacts=str(tmp_path)))

    assert there == [True]
    assert not file.exists()


def test_a_checkpoint_that_its_worker_could_not_enter_any_more_is_removed_too(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    with faulty(study, "between checkpoint and report", signal.SIGKILL, lease=0.3) as killed:
        killed.join(timeout=60)
    until(lambda: study.ledger.at_work() == [])
    folder = Path(place_of(study.stored.artifacts))
    assert len([*folder.iterdir()]) == 1

    delete_study(study.storage, study.stored)

    assert [*folder.iterdir()] == []


def test_another_study_that_has_the_id_by_now_stays(tiny_study: MakeStudy) -> None:
    earlier = tiny_study(trials=1)
    delete_study(earlier.storage, earlier.stored)
    later = tiny_study(trials=1)
    assert later.stored.study_id == earlier.stored.study_id

    with pytest.raises(StudyError, match="The study 'tiny' was deleted"):
        delete_study(earlier.storage, earlier.stored)

    assert load_stored(later.storage, "tiny").uid == later.stored.uid


@on_both_databases
def test_a_worker_whose_study_is_deleted_reports_it_and_leaves(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=3)
    worker = study.worker(quick=True)
    watched = optuna.load_study(study_name="tiny", storage=study.storage)
    elsewhere = StudyStorage(study.url)

    def delete_meanwhile(training: QuickTraining, file: object) -> None:
        elsewhere.delete_study(study.stored.study_id)

    monkeypatch.setattr(QuickTraining, "save", delete_meanwhile)
    with pytest.raises(StudyError, match="The study 'tiny' was deleted while it was at work"):
        worker.run()
    with pytest.raises(StudyError, match="The study 'tiny' was deleted while it was at work"):
        read_status(study.storage, study.stored, watched)
