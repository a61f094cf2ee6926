"""Trials of a tiny study that end with given scores, and its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from models.scoring.scores import Scores
from search.evaluation.metrics import metric_of
from search.report.page import report
from search.storage.ledger import FinalState
from search.storage.stored_study import load_stored
from search.storage.trial_cache import Cache
from tests.support.html_page import Page

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy


def page_of(tiny: TinyStudy, name: str = "tiny") -> Page:
    return Page(report(tiny.storage, load_stored(tiny.storage, name)))


def end(
    tiny: TinyStudy, scores: Scores | None, state: FinalState = "complete", *, reason: str | None = None
) -> FrozenTrial:
    """The study's next trial, ended with these scores of the validation clips after two epochs."""
    study = tiny.stored.study()
    hold = tiny.ledger.claim("worker", first=study.tried_first)
    assert hold is not None
    value = None
    if scores is not None:
        value = metric_of(tiny.stored.metric, scores, tiny.stored.truth)
        optuna_study = optuna.load_study(
            study_name="tiny", storage=Cache(tiny.storage), sampler=RandomSampler(seed=hold.number)
        )
        optuna_study.get_trials(deepcopy=False)  # Optuna's cache knows of those alone that it has read
        trial = optuna.Trial(optuna_study, hold.trial_id)
        study.close(trial)
        trial.set_user_attr("threads", 1)
        for epoch in (1, 2):
            tiny.storage.set_trial_intermediate_value(hold.trial_id, epoch, value)
    hold.finish(state, values=None if value is None or state != "complete" else [value], reason=reason, scores=scores)
    return tiny.storage.get_trial(hold.trial_id)


def scored(tiny: TinyStudy, *, wrong: int) -> Scores:
    """Scores of the validation clips: anomalies above normal clips, except for `wrong` anomalies."""
    labels = np.array(tiny.stored.truth.labels)
    scores = labels + np.linspace(0, 0.5, len(labels))
    scores[np.flatnonzero(labels)[:wrong]] -= 2
    return scores
