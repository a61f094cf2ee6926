"""Workers that are killed, stopped, drained: nothing is lost, nothing is done twice, nothing blocks the study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select
from sqlalchemy.orm import Session

from search import ledger
from search.errors import StudyError
from search.ledger import TrialRow
from search.worker import join

if TYPE_CHECKING:
    from tests.search.conftest import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

LEASE = 1.0  # seconds
EPOCHS = 3
FAULTY_WORKER = Path(__file__).parent / "faulty_worker.py"

MOMENTS_OF_DEATH = [
    "inside the claim",
    "after the claim",
    "after the suggestions",
    "in the second epoch",
    "between report and checkpoint",
    "inside the checkpoint",
    "after the checkpoint",
    "before the value",
    "between ledger and value",
    "after the value",
    "before the drain's release",
    "inside the drain's release",
]


def start_faulty(study: TinyStudy, moment: str, signal_name: str = "SIGKILL") -> subprocess.Popen[bytes]:
    """A worker process that sends itself a signal at this moment of its first trial."""
    return subprocess.Popen(
        [sys.executable, FAULTY_WORKER, study.url, study.stored.name, moment, signal_name, str(LEASE)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )


def trials_of(study: TinyStudy) -> list[FrozenTrial]:
    return optuna.load_study(study_name=study.stored.name, storage=study.url).get_trials()


def rows_of(study: TinyStudy) -> list[TrialRow]:
    with Session(study.storage.engine) as session:
        own = select(TrialRow).where(TrialRow.study_id == study.stored.study_id)
        return list(session.execute(own.order_by(TrialRow.number)).scalars())


def curves(trials: list[FrozenTrial]) -> list[tuple[int, dict[str, object], dict[int, float]]]:
    return [(t.number, t.params, t.intermediate_values) for t in trials]


@pytest.fixture(scope="module")
def known_curves() -> list[object]:
    """Filled by the first test that needs it: the curves of a study that nobody disturbed."""
    return []


@pytest.fixture
def undisturbed(tiny_study: MakeStudy, known_curves: list[object]) -> object:
    if not known_curves:
        study = tiny_study(trials=2, study="undisturbed")
        study.worker().run()
        known_curves.append(curves(trials_of(study)))
    return known_curves[0]


@pytest.mark.parametrize("moment", MOMENTS_OF_DEATH)
def test_a_worker_killed_at_any_moment_leaves_a_study_that_ends_as_if_undisturbed(
    tiny_study: MakeStudy, undisturbed: object, moment: str
) -> None:
    study = tiny_study(trials=2)

    killed = start_faulty(study, moment)
    assert killed.wait(timeout=120) == -signal.SIGKILL, killed.stderr and killed.stderr.read().decode()
    study.worker(lease=LEASE).run()

    trials = trials_of(study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert [sorted(trial.intermediate_values) for trial in trials] == [list(range(1, EPOCHS + 1))] * 2
    assert [row.state for row in rows_of(study)] == ["complete"] * 2
    assert curves(trials) == undisturbed
    assert all(trial.value == trial.intermediate_values[EPOCHS] for trial in trials)


def test_a_worker_killed_after_a_checkpoint_repeats_no_finished_epoch(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=1)
    start_faulty(study, "in the second epoch").wait(timeout=120)
    trained: list[int] = []
    from search.training import Training

    original = Training.run_epoch

    def recorded(training: Training, *args: Callable[[], None]) -> None:
        trained.append(training.epoch)
        original(training, *args)

    monkeypatch.setattr(Training, "run_epoch", recorded)
    study.worker(lease=LEASE).run()
    assert trained == [1, 2]


def test_a_stopped_worker_that_wakes_up_after_its_lease_drops_its_trial_and_writes_nothing_over(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=1)
    slow = start_faulty(study, "between report and checkpoint", "SIGSTOP")
    os.waitid(os.P_PID, slow.pid, os.WSTOPPED)
    study.worker(lease=LEASE).run()
    before = (curves(trials_of(study)), [(row.token, row.state) for row in rows_of(study)])

    slow.send_signal(signal.SIGCONT)

    assert slow.wait(timeout=120) == 0, slow.stderr and slow.stderr.read().decode()
    assert (curves(trials_of(study)), [(row.token, row.state) for row in rows_of(study)]) == before


def test_a_trial_that_keeps_losing_its_worker_is_given_up_and_the_study_ends(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    for attempt in range(ledger.MAX_ATTEMPTS):
        lost = study.storage.claim(study.stored.study_id, f"lost-{attempt}", first={}, lease=-1.0)
        assert lost is not None
        study.storage.forget(lost)

    study.worker(lease=LEASE).run()

    assert [row.state for row in rows_of(study)] == ["failed", "complete"]
    assert rows_of(study)[0].reason == f"its worker was lost {ledger.MAX_ATTEMPTS} times"
    assert [trial.state for trial in trials_of(study)] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_diverged_trial_is_recorded_with_its_reason_and_teaches_the_sampler(tiny_study: MakeStudy) -> None:
    study = tiny_study(
        trials=1,
        model={"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4},
        training={"learning_rate": 1e30, "batch_size": 64, "epochs": 3},
        baseline={},
    )
    study.worker().run()

    (trial,), (row,) = trials_of(study), rows_of(study)
    assert (row.state, row.reason) == ("failed", "the loss diverged in epoch 1")
    assert trial.state == TrialState.PRUNED
    assert trial.constraints == {"failed": 1.0}


def test_several_workers_share_a_budget_exactly(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=5)
    command = [sys.executable, "-m", "search.cli", "worker", "tiny", "--storage", study.url]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [worker.wait(timeout=180) for worker in workers] == [0, 0, 0]
    assert [(t.number, t.state) for t in trials_of(study)] == [(n, TrialState.COMPLETE) for n in range(5)]
    assert trials_of(study)[0].params == {"h_dim": 16}, "the baseline is tried first"


def test_checkpoints_are_gone_when_their_trials_have_ended(tiny_study: MakeStudy, tmp_path: Path) -> None:
    study = tiny_study(trials=2)
    study.worker().run()
    assert [path for path in (tmp_path / "cache" / "checkpoints").rglob("*") if path.is_file()] == []


def test_a_study_goes_on_with_the_numbers_it_would_have_drawn(tiny_study: MakeStudy) -> None:
    whole = tiny_study(trials=4, study="whole")
    whole.worker().run()
    parts = tiny_study(trials=2, study="parts")
    parts.worker().run()
    more = tiny_study(trials=4, study="parts")
    more.worker().run()
    assert curves(trials_of(more)) == curves(trials_of(whole))


def test_a_worker_with_other_clips_is_refused_with_what_differs(tiny_study: MakeStudy, tmp_path: Path) -> None:
    from features.synthesis import make_corpus

    study = tiny_study()
    make_corpus(tmp_path / "others", train_clips=6, test_clips=6, seconds=1.0, seed=1)
    with pytest.raises(StudyError, match=r"exists and differs:\n  data.fingerprint: stored \w+, here \w+"):
        join(study.url, "tiny", root=str(tmp_path / "others"))


def test_a_worker_with_a_copy_of_the_clips_elsewhere_is_welcome(tiny_study: MakeStudy, tmp_path: Path) -> None:
    import shutil

    study = tiny_study(trials=1)
    shutil.copytree(study.root, tmp_path / "copy")
    join(study.url, "tiny", root=str(tmp_path / "copy")).run()
    assert [row.state for row in rows_of(study)] == ["complete"]


def test_a_worker_of_another_version_is_refused(tiny_study: MakeStudy) -> None:
    from search.stored_study import require_same

    study = tiny_study()
    other = {**study.stored.identity, "versions": {"offkey": "0.0.1", "optuna": "4.6.0"}}
    with pytest.raises(StudyError, match=r"versions.optuna: stored 5\.\d+\.\d+, here 4\.6\.0"):
        require_same(study.stored, other)


def test_a_worker_loads_no_torch_before_it_has_a_trial(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    program = f"import sys; from search.worker import join; join({study.url!r}, 'tiny'); print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_a_trial_goes_on_with_the_threads_it_was_begun_with_and_is_trained_again_to_the_last_bit(
    tiny_study: MakeStudy,
) -> None:
    import torch

    from search.export import export_recipe
    from search.final import train_detector
    from search.preparation import prepare

    threads_open = {"learning_rate": 0.01, "batch_size": 16, "epochs": 3}
    study = tiny_study(trials=1, training=threads_open)
    torch.set_num_threads(2)
    start_faulty(study, "after the checkpoint").wait(timeout=120)
    (begun,) = trials_of(study)

    study.worker(lease=LEASE).run()

    (trial,) = trials_of(study)
    assert trial.user_attrs["threads"] == begun.user_attrs["threads"] == 1
    recipe = export_recipe(study.storage, study.stored)
    assert recipe.training.threads == 1
    torch.set_num_threads(2)
    whole = prepare(study.stored.study(), default_root=None).corpus
    assert train_detector(recipe, whole, torch.device("cpu")).validation.auc == trial.value


def test_a_drain_that_finds_its_trial_taken_over_ends_quietly(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    drained = start_faulty(study, "before the drain's release", "SIGSTOP")
    os.waitid(os.P_PID, drained.pid, os.WSTOPPED)
    study.worker(lease=LEASE).run()

    drained.send_signal(signal.SIGCONT)

    assert drained.wait(timeout=120) == 0, drained.stderr and drained.stderr.read().decode()
    assert [row.state for row in rows_of(study)] == ["complete"]
