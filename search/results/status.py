"""The status of a study: counts of trials, running trials and their workers, and the complete trials in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search.artifacts.checkpoints import steps_of
from search.results.failing_hosts import FailingHost, failing_hosts
from search.results.families import FamilyTrials, family_trials
from search.results.portfolio import Portfolio, portfolio_of
from search.storage.early_end import Enough
from search.storage.stored_study import StoredStudy, was_deleted
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.objectives import IN_WORDS, directions_of
from search.study.recipe import Objective
from search.study.search_settings import keeps_to_limits

#: How many of the best trials tables show.
SHOWN_TRIALS = 10


@dataclass(frozen=True)
class Running:
    """A trial that a worker holds."""

    number: int
    owner: str
    epoch: int | None  # the last one that is known to be done; with folds, how many of these are
    value: float | None  # at the last step that has one
    lease_seconds: float  # left; below 0 when the worker is lost and no other has taken the trial over yet
    attempts: int
    device: str | None
    precision: str | None  # of its training; None before it starts
    rate: float | None  # batches a second
    memory: int | None  # bytes, on the device


@dataclass(frozen=True)
class Status:
    """A study at one moment."""

    study: str
    budget: int
    counts: dict[str, int]  # complete, pruned, failed, running, waiting
    running: tuple[Running, ...]
    failures: tuple[tuple[int, str], ...]  # trial number, reason
    finished: tuple[FrozenTrial, ...]  # complete trials that keep to the study's limits, best first
    beyond_limits: int  # number of complete trials that do not
    baseline: float | None  # its value of the first objective; None while it is not complete
    objectives: tuple[Objective, ...]  # the first one decides which trial is best
    #: With several objectives, the best trade-offs: no other trial is as good in all objectives and better in one.
    front: tuple[FrozenTrial, ...]
    portfolio: Portfolio | None  # the trials of `search.first`
    families: tuple[FamilyTrials, ...]  # where the time went; empty if the study has one family
    enough: Enough | None  # why the study has ended itself; None while it has not
    failing_hosts: tuple[FailingHost, ...]  # those on which most tries of trials failed
    step: str  # at which trials are compared: epoch or fold

    @property
    def metric_name(self) -> str:
        """The name of the first objective, by which trials are ranked."""
        return IN_WORDS[self.objectives[0]]

    @property
    def best(self) -> FrozenTrial | None:
        """The best complete trial."""
        return self.finished[0] if self.finished else None

    @property
    def done(self) -> int:
        """The number of trials that have ended."""
        return self.counts["complete"] + self.counts["pruned"] + self.counts["failed"]

    @property
    def why_ended(self) -> str | None:
        """A sentence about why the study has ended itself; None if it has not."""
        return None if self.enough is None else self.enough.in_words(self.metric_name)


def read_status(storage: StudyStorage, stored: StoredStudy, optuna_study: optuna.Study) -> Status:
    """Read the current status of a study. Raises StudyError if it was deleted."""
    ledger = StudyLedger(storage, stored)
    if not ledger.exists():
        raise was_deleted(stored.name)
    trials = {trial.number: trial for trial in optuna_study.get_trials(deepcopy=False)}
    now, rows, budget, enough = ledger.snapshot()
    counts = dict.fromkeys(("complete", "pruned", "failed", "running", "waiting"), 0)
    running, failures, complete = [], [], []
    for row in rows:
        counts[row.state] += 1
        trial = trials.get(row.number)
        if trial is None:
            continue
        if row.state == "running":
            reported = trial.last_step
            saved = 0 if row.checkpoint is None else steps_of(row.checkpoint)
            left = (row.lease_until or now) - now
            running.append(
                Running(
                    number=row.number,
                    owner=row.owner or "",
                    epoch=max(reported or 0, saved) or None,
                    value=None if reported is None else trial.intermediate_values[reported],
                    lease_seconds=left,
                    attempts=row.attempts,
                    device=row.device,
                    precision=trial.user_attrs.get("precision"),
                    rate=row.rate,
                    memory=row.memory,
                )
            )
        elif row.state == "failed":
            failures.append((row.number, row.reason or ""))
        elif row.state == "complete" and trial.values:
            complete.append(trial)
    counts["waiting"] += 0 if enough is not None else budget - len(rows)
    baseline = next((trial for trial in complete if trial.number == 0), None) if stored.tree.get("baseline") else None
    within_limits = list(filter(keeps_to_limits, complete))
    front = front_of(within_limits, stored.objectives) if len(stored.objectives) > 1 else ()
    of_front = {trial.number for trial in front}
    finished = sorted(within_limits, key=lambda trial: (-worth(trial), trial.number not in of_front, trial.number))
    return Status(
        study=stored.name,
        budget=budget,
        counts=counts,
        running=tuple(running),
        failures=tuple(failures),
        finished=tuple(finished),
        beyond_limits=len(complete) - len(finished),
        baseline=None if baseline is None else worth(baseline),
        objectives=stored.objectives,
        portfolio=portfolio_of(stored, trials, finished, budget),
        families=family_trials(stored.tree, trials.values(), finished),
        enough=None if enough is None else Enough.of(enough),
        failing_hosts=failing_hosts(ledger.failing_slots(), [row.owner for row in rows if _has_ended(row)]),
        step="epoch" if stored.validation.folds is None else "fold",
        front=front,
    )


def _has_ended(row: Any) -> bool:
    return row.owner is not None and row.state not in ("running", "waiting")


def worth(trial: FrozenTrial) -> float:
    """Return the value of a complete trial in the first objective."""
    assert trial.values
    return float(trial.values[0])


def front_of(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> tuple[FrozenTrial, ...]:
    """Return the complete trials, in their order, that no other trial dominates.

    A trial dominates another if it is as good in all objectives and better in one.

    Optuna's `Study.best_trials` would read every trial from the storage once more.
    """
    signs = [1 if direction == StudyDirection.MINIMIZE else -1 for direction in directions_of(objectives)]
    losses = np.array([trial.values for trial in trials]).reshape(-1, len(signs)) * signs
    left = np.lexsort(losses.T[::-1])  # no trial is better than the first of those that are left
    found: list[int] = []
    while len(left):
        best = losses[left[0]]
        found.append(left[0])
        is_equal, is_better = (losses[left] == best).all(axis=1), (losses[left] < best).any(axis=1)
        is_equal[0] = False
        left = left[is_equal | is_better]
    return tuple(trials[place] for place in sorted(found))
