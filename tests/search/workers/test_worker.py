"""A worker and its study: an exact budget, what it must agree on, requests to stop, the dashboard's note."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from optuna.trial import TrialState

from features.clips.synthetic_corpus import make_corpus
from search.errors import StudyError
from search.storage.stored_study import require_same
from search.workers.worker import join
from tests.support.offkey_process import Quick, offkey_process
from tests.support.quick import QuickTraining
from tests.support.tiny_study import curves, trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


def test_a_diverged_trial_is_recorded_with_its_reason_and_the_sampler_learns_from_it(tiny_study: MakeStudy) -> None:
    study = tiny_study(
        trials=1,
        model={"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4},
        training={"learning_rate": 1e30, "batch_size": 64, "epochs": 3},
        baseline={},
    )
    study.worker().run()

    (trial,), (row,) = trials_of(study), study.rows()
    assert (row.state, row.reason) == ("failed", "the loss diverged in epoch 1")
    assert trial.state == TrialState.PRUNED
    assert trial.constraints == {"failed": 1.0}


def test_several_workers_share_a_budget_exactly(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=5)
    with ExitStack() as processes:
        workers = [
            processes.enter_context(offkey_process("worker", "tiny", url=study.url, quick=Quick(pause=0.05)))
            for _ in range(3)
        ]
        assert [worker.ended(within=60) for worker in workers] == [0, 0, 0]
    assert [(t.number, t.state) for t in trials_of(study)] == [(n, TrialState.COMPLETE) for n in range(5)]
    assert trials_of(study)[0].params == {"h_dim": 16}, "the baseline is tried first"


def test_a_study_goes_on_with_the_numbers_it_would_have_drawn(tiny_study: MakeStudy) -> None:
    whole = tiny_study(trials=4, study="whole")
    whole.worker(quick=True).run()
    parts = tiny_study(trials=2, study="parts")
    parts.worker(quick=True).run()
    more = tiny_study(trials=4, study="parts")
    more.worker(quick=True).run()
    assert curves(trials_of(more)) == curves(trials_of(whole))


def test_a_worker_with_other_clips_is_refused_with_what_differs(tiny_study: MakeStudy, tmp_path: Path) -> None:
    study = tiny_study()
    make_corpus(tmp_path / "others", train_clips=6, test_clips=6, seconds=1.0, seed=1)
    with pytest.raises(StudyError, match=r"exists and differs:\n  data.fingerprint: stored \w+, here \w+"):
        join(study.url, "tiny", root=str(tmp_path / "others"))


def test_a_worker_with_a_copy_of_the_clips_elsewhere_is_accepted(tiny_study: MakeStudy, tmp_path: Path) -> None:
    study = tiny_study(trials=1)
    shutil.copytree(study.root, tmp_path / "copy")
    join(study.url, "tiny", root=str(tmp_path / "copy")).run()
    assert [row.state for row in study.rows()] == ["complete"]


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"optuna": "4.6.0"}, r"versions.optuna: stored 5\.\d+\.\d+, here 4\.6\.0"),
        ({"offkey": "0.0.1"}, r"versions.offkey: stored 0\.\d+\.\d+, here 0\.0\.1"),
        ({"computation": 0}, r"versions.computation: stored \d+, here 0"),
    ],
)
def test_a_worker_of_another_version_or_computation_is_refused(
    tiny_study: MakeStudy, versions: dict[str, str], message: str
) -> None:
    study = tiny_study()
    other = {**study.stored.identity, "versions": {**study.stored.identity["versions"], **versions}}
    with pytest.raises(StudyError, match=message):
        require_same(study.stored, other)


def test_a_worker_without_a_trial_loads_no_torch_and_no_scikit_learn_until_it_leaves(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    study.worker(quick=True).run()
    program = (
        "import sys; from search.workers.worker import join; "
        f"join({study.url!r}, 'tiny').run(); print([n for n in ('torch', 'sklearn', 'librosa') if n in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_worker_obeys_a_stop_before_the_next_trial_however_short_trials_are(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=6)
    worker = study.worker(quick=True)

    class StoppedInTheThird(QuickTraining):
        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            super().run_epoch(before_batch)
            if worker.hold is not None and worker.hold.number == 2:
                study.ledger.request_stop()

    worker.train = StoppedInTheThird
    worker.run()
    assert [trial.state for trial in trials_of(study)] == [TrialState.COMPLETE] * 3
    study.worker(quick=True).run()
    assert len(trials_of(study)) == 6, "later ones go on"


def test_a_note_that_cannot_be_written_stops_no_trial(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = tiny_study(trials=2)
    monkeypatch.setattr("search.workers.worker.write_note", lambda *arguments: 1 / 0)
    study.worker(quick=True).run()
    assert [trial.state for trial in trials_of(study)] == [TrialState.COMPLETE] * 2
    assert "the study's note could not be written" in caplog.text
