"""What the trials of `search.first` gave: the settings that a study tries after its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from search.results.wording import duration
from search.storage.stored_study import StoredStudy
from search.study.portfolio import place_in_first


@dataclass(frozen=True)
class Portfolio:
    """The trials of `search.first`."""

    trials: int  # as many as there are, or will be within the budget
    ended: int
    best: FrozenTrial | None  # complete and within the study's limits
    seconds: float | None  # from the begin of the study's first trial to the end of `best`, by the workers' clocks

    def in_words(self, metric_name: str) -> str:
        """A sentence about the portfolio."""
        count = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        ended = "" if self.ended == self.trials else f", {self.ended} of them ended"
        text = f"Portfolio (search.first): {count}{ended}"
        if self.best is None or not self.best.values:
            return f"{text}, none complete{'' if self.ended == self.trials else ' yet'}."
        after = "" if self.seconds is None else f" after {duration(self.seconds)}"
        return f"{text}, best {metric_name} {self.best.values[0]:.3f} (trial {self.best.number}){after}."

    def as_json(self) -> dict[str, Any]:
        """The part of `offkey status --json`."""
        best = None
        if self.best is not None and self.best.values:
            best = {"number": self.best.number, "value": self.best.values[0], "seconds": self.seconds}
        return {"trials": self.trials, "ended": self.ended, "best": best}


def portfolio_of(
    stored: StoredStudy, trials: Mapping[int, FrozenTrial], finished: Sequence[FrozenTrial], budget: int
) -> Portfolio | None:
    """The portfolio of a study; None if it has none.

    `trials` are all trials by number, `finished` the complete ones within the study's limits, best first.
    """
    baseline, first = stored.tree.get("baseline") or {}, stored.first
    numbers = {number for number in stored.tried_first if place_in_first(number, baseline, first) and number < budget}
    if not numbers:
        return None
    best = next((trial for trial in finished if trial.number in numbers), None)
    begun = [trial.datetime_start for trial in trials.values() if trial.datetime_start is not None]
    seconds = None
    if best is not None and best.datetime_complete is not None and begun:
        seconds = (best.datetime_complete - min(begun)).total_seconds()
    ended = sum(number in trials and trials[number].state.is_finished() for number in numbers)
    return Portfolio(trials=len(numbers), ended=ended, best=best, seconds=seconds)
