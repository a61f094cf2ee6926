"""A primary that is lost, and its standby, which only reads until it is promoted: real servers, real workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from search.storage.study_storage import StudyStorage
from tests.support.offkey_process import Quick, offkey_process, until
from tests.support.servers import PostgresServer, Standby
from tests.support.tiny_study import made, trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

TRAINING = {"learning_rate": 0.01, "batch_size": 16, "epochs": 9, "threads": 1}


def test_workers_wait_for_the_promotion_of_a_standby_and_lose_nothing(corpus_root: Path, tiny_study: MakeStudy) -> None:
    undisturbed = tiny_study(trials=2, training=TRAINING)
    undisturbed.worker(quick=True).run()
    with PostgresServer() as primary, Standby(primary) as standby:
        url = standby.url_of_both(primary.new_database())
        study = made(url, corpus_root, trials=2, training=TRAINING)
        with offkey_process("worker", "tiny", url=url, quick=Quick(pause=0.3, longest_pause=0.3)) as worker:
            until(lambda: any(trial.intermediate_values for trial in trials_of(study)))
            primary.stop()
            time.sleep(1.0)
            standby.promote()
            assert worker.ended(within=60) == 0, worker.stderr
        study.storage.engine.dispose()
        again = StudyStorage(url)
        ended = [(trial.number, trial.intermediate_values) for trial in again.get_all_trials(study.stored.study_id)]
        again.engine.dispose()
    assert ended == [(trial.number, trial.intermediate_values) for trial in trials_of(undisturbed)]
