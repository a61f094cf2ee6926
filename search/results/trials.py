"""The trials and the summary of a study as plain records, for users of Python (search.api).

search.results.status reads the storage and returns trials of Optuna; the records here need nothing of Optuna.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import MisuseError, StudyError
from search.evaluation.interval import Interval
from search.results.comparison import Comparison, compare
from search.results.ensemble import Ensemble
from search.results.families import FamilyTrials
from search.results.gain import GainOfBest
from search.results.portfolio import Portfolio
from search.results.status import Status, read_status, worth
from search.storage.stored_study import StoredStudy, open_study
from search.storage.study_storage import StudyStorage
from search.study.taken_variant import TakenVariant, taken_variant

State = Literal["complete", "pruned", "failed", "running", "waiting"]


@dataclass(frozen=True)
class Trial:
    """One trial: a row of the table of trials."""

    number: int
    state: State
    value: float | None  # of the first objective; when it was stopped, if it was pruned; None if it has not ended well
    #: 95 %, of the value; None except for leading trials, families' best ones and the baseline, or with few clips.
    interval: Interval | None
    ties: bool  # whether the best trial, being the best of so many, is not told from it
    params: dict[str, Any]  # by the name of the setting
    values: dict[str, float]  # of every objective that it has a value for, by name
    reason: str  # why it failed; empty for others
    first: int | None = None  # which entry of `search.first` it is, counted from 1; None for other trials
    variant: TakenVariant | None = None  # what it chose after its training; None if nothing was left to choose


@dataclass(frozen=True)
class Summary:
    """A study at one moment."""

    study: str
    budget: int  # trials
    counts: dict[State, int]
    best: Trial | None  # None without a complete trial, and with several objectives
    front: tuple[Trial, ...]  # with several objectives, the best trade-offs: no other trial dominates them
    ties: tuple[int, ...]  # numbers of the trials that tie with the best one
    gain: GainOfBest | None  # None without a complete baseline, and with several objectives
    ensemble: Ensemble | None  # of the leading trials; None if there are too few, and with several objectives
    portfolio: Portfolio | None  # what the trials that were tried first gave; None without `search.first`
    families: tuple[FamilyTrials, ...]  # where the time went; empty if the study has one family
    ended_itself: str | None  # a sentence about why the study has ended itself (search.stop); None while it has not


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is."""

    study: str
    budget: int  # trials
    counts: dict[State, int]
    value: float | None  # of the best trial so far, in the first objective

    @property
    def done(self) -> int:
        """The number of trials that have ended: complete, pruned or failed."""
        return self.counts["complete"] + self.counts["pruned"] + self.counts["failed"]


class Reading:
    """Reads a study from an open storage: each part once, when it is first needed."""

    def __init__(self, storage: StudyStorage, stored: StoredStudy) -> None:
        self.storage, self.stored = storage, stored
        self._optuna_study = optuna.load_study(study_name=stored.name, storage=storage)

    @cached_property
    def status(self) -> Status:
        """The status of the study."""
        return read_status(self.storage, self.stored, self._optuna_study)

    @cached_property
    def _comparison(self) -> Comparison | None:
        return compare(self.storage, self.stored, self.status)

    def trials(self) -> list[Trial]:
        """Every trial, by number."""
        return [self.record(trial) for trial in self._optuna_study.get_trials(deepcopy=False)]

    def record(self, trial: FrozenTrial) -> Trial:
        """The record of one trial."""
        state, comparison = self._states.get(trial.number, "waiting"), self._comparison
        ended_well = state in ("complete", "pruned")
        values = dict(zip(map(str, self.status.objectives), trial.values or (), strict=False)) if ended_well else {}
        return Trial(
            number=trial.number,
            state=state,
            value=values.get(self.status.objectives[0]),
            interval=None if comparison is None else comparison.intervals.get(trial.number),
            ties=comparison is not None and trial.number in comparison.ties,
            params=dict(trial.params),
            values=values,
            reason=self._reasons.get(trial.number, ""),
            first=trial.user_attrs.get("first"),
            variant=taken_variant(trial),
        )

    @property
    def best(self) -> FrozenTrial:
        """The best complete trial that keeps to the study's limits.

        Raises StudyError while there is none, MisuseError if several objectives leave open which is best.
        """
        status = self.status
        if len(status.objectives) > 1:
            raise MisuseError(
                f"The study {status.study!r} has several objectives ({', '.join(status.objectives)}), and so no single "
                "best trial: summary().front has the best trade-offs, and recipe(N) gives the recipe of trial N"
            )
        if status.best is None:
            others = f" within search.constraints ({status.beyond_limits} beyond)" if status.beyond_limits else ""
            raise StudyError(f"The study {status.study!r} has no complete trial{others} yet: run() continues it")
        return status.best

    def summary(self) -> Summary:
        """The summary of all trials."""
        status, comparison = self.status, self._comparison
        # With several objectives, the trial that leads in the first one is not the best.
        best, compared = (None, None) if len(status.objectives) > 1 else (status.best, comparison)
        return Summary(
            study=status.study,
            budget=status.budget,
            counts=_counts(status),
            best=None if best is None else self.record(best),
            front=tuple(self.record(trial) for trial in status.front),
            ties=() if compared is None else compared.ties,
            gain=None if compared is None else compared.gain,
            ensemble=None if compared is None else compared.ensemble,
            portfolio=status.portfolio,
            families=status.families,
            ended_itself=status.why_ended,
        )

    @cached_property
    def _reasons(self) -> dict[int, str]:
        """Why trials failed, by number."""
        return dict(self.status.failures)

    @cached_property
    def _states(self) -> dict[int, State]:
        """The state of each trial, by number, except for those that wait for a worker."""
        names: dict[TrialState, State] = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
        trials = self._optuna_study.get_trials(deepcopy=False, states=tuple(names))
        states = {trial.number: names[trial.state] for trial in trials}
        states |= {running.number: "running" for running in self.status.running}
        return states | dict.fromkeys(self._reasons, "failed")


def progress_of(status: Status) -> SearchProgress:
    """Return how far a search is, by the status of its study."""
    value = None if status.best is None else worth(status.best)
    return SearchProgress(study=status.study, budget=status.budget, counts=_counts(status), value=value)


def _counts(status: Status) -> dict[State, int]:
    return {state: status.counts[state] for state in get_args(State)}


@contextmanager
def reading(url: str, name: str) -> Iterator[Reading]:
    """Open a stored study, over a connection that is closed afterwards: a notebook may live for days.

    Raises StorageError if the storage cannot be read, StudyError if there is no such study.
    """
    with open_study(url, name) as (storage, stored):
        yield Reading(storage, stored)
