"""What the trials that a study tries first gave: its baseline and the entries of `search.first`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.results.wording import duration
from search.storage.optuna_rows import seconds_of
from search.storage.stored_study import StoredStudy
from search.study.portfolio import place_in_first


@dataclass(frozen=True)
class PortfolioLeader:
    """The best trial of a portfolio."""

    number: int
    value: float  # of the first objective
    entry: int | None  # which one of `search.first`, counted from 1; None for the baseline
    seconds: float | None  # from the begin of the study's first trial to the end of this one, by the workers' clocks


@dataclass(frozen=True)
class Portfolio:
    """The baseline and the trials of `search.first`, and what the study has found since."""

    entries: int  # of `search.first` within the budget
    trials: int  # as many as there are, or will be: the entries, and the baseline if the study has one
    ended: int
    complete: int  # of those, also beyond the study's limits
    seconds: float | None  # from the begin of the study's first trial until all had ended; None before
    worked: float  # seconds that workers have worked on those that have ended
    best: PortfolioLeader | None  # among those that are complete and within the study's limits
    now: tuple[int, float] | None  # the number and the value of the study's best trial; None if `best` still leads

    def in_words(self, metric_name: str) -> str:
        """What it gave after how long, against the study's best trial now."""
        kinds = f"{'1 entry' if self.entries == 1 else f'{self.entries} entries'} of search.first"
        kinds = kinds if self.entries == self.trials else f"baseline and {kinds}"
        text = f"Portfolio ({kinds}): "
        if self.seconds is not None:
            every = {1: "its trial", 2: "both trials"}.get(self.trials, f"all {self.trials} trials")
            spent = f"{every} done after {duration(self.seconds)} ({duration(self.worked)} of workers' time)"
        else:
            spent = f"{self.ended} of {self.trials} trial{'s' if self.trials > 1 else ''} ended"
        if self.best is None:
            which = "within search.constraints" if self.complete else "complete"
            return f"{text}{spent}, none {which}{'' if self.ended == self.trials else ' yet'}."
        which = "the baseline" if self.best.entry is None else f"entry {self.best.entry}"
        after = "" if self.best.seconds is None else f" after {duration(self.best.seconds)}"
        text += f"best {metric_name} {self.best.value:.3f}{after} (trial {self.best.number}, {which}); {spent}."
        if self.now is not None:
            return f"{text} The best now: {self.now[1]:.3f} (trial {self.now[0]})."
        return text if self.seconds is None else f"{text} No other trial is better so far."

    def as_json(self) -> dict[str, Any]:
        """The part of `offkey status --json`."""
        return {key: value for key, value in asdict(self).items() if key != "now"}


def portfolio_of(
    stored: StoredStudy, trials: Mapping[int, FrozenTrial], finished: Sequence[FrozenTrial], budget: int
) -> Portfolio | None:
    """Return the portfolio of a study; None if no entry of `search.first` is within its budget.

    `trials` are all trials by number, `finished` the complete ones within the study's limits, best first.
    """
    baseline, first = stored.tree.get("baseline") or {}, stored.first
    entries = {number: place_in_first(number, baseline, first) for number in stored.tried_first if number < budget}
    if not any(entries.values()):
        return None
    own = [trials[number] for number in entries if number in trials]
    ended = [trial for trial in own if trial.state.is_finished()]
    begun = [trial.datetime_start for trial in trials.values() if trial.datetime_start is not None]

    def since_the_begin(*until: FrozenTrial) -> float | None:
        ends = [trial.datetime_complete for trial in until if trial.datetime_complete is not None]
        return (max(ends) - min(begun)).total_seconds() if ends and begun else None

    best, leader, now = next((trial for trial in finished if trial.number in entries), None), None, None
    if best is not None:
        leader = PortfolioLeader(best.number, best.values[0], entries[best.number], since_the_begin(best))
        now = (finished[0].number, finished[0].values[0]) if finished[0].values[0] > best.values[0] else None
    return Portfolio(
        entries=sum(entry is not None for entry in entries.values()),
        trials=len(entries),
        ended=len(ended),
        complete=sum(trial.state == TrialState.COMPLETE for trial in ended),
        seconds=since_the_begin(*ended) if len(ended) == len(entries) else None,
        worked=round(sum(map(seconds_of, ended)), 2),
        best=leader,
        now=now,
    )
