"""Whether one detector gains over another, and what it takes to show it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from features.clips.clip import ANOMALY, NORMAL
from search.evaluation.best_of_many import Lead
from search.evaluation.interval import Interval
from search.evaluation.truth import Truth
from search.results.wording import difference_interval

#: The probability beyond one end of a 95 % interval.
_TAIL = 0.025


@dataclass(frozen=True)
class Gain:
    """The metric of one detector minus that of another, on the same clips: an ensemble's minus its best member's."""

    difference: float
    interval: Interval | None  # paired, 95 %; None where there are too few clips

    @property
    def may_be_chance(self) -> bool:
        """Whether the clips do not show that there is a gain."""
        return self.interval is None or self.interval.low <= 0

    @property
    def in_words(self) -> str:
        """Whether this is a gain, in words that end a sentence."""
        return "no gain that these clips can tell" if self.may_be_chance else "a gain"


@dataclass(frozen=True)
class GainOfBest(Gain):
    """The value of a study's best trial minus that of another one: the baseline, or the best of another family.

    It allows for the number of trials.
    """

    trials: int  # of which the best is the best
    exceeds_chance: bool  # the best of so many equally good trials would not be so far ahead
    detectable: float | None  # the smallest true gain that such clips show in four of five studies; None: there is none
    clips: tuple[int, int]  # normal clips and anomalies that the trials are validated on
    times_the_clips: float | None  # how many times as many show this gain, if it is the true one; None without a gain

    @classmethod
    def of(cls, lead: Lead, alone: Interval | None, truth: Truth, *, trials: int, best: float) -> GainOfBest:
        """Return the gain. `alone` is the interval if there were no other trials; the others move its lower end.

        `best` is the value of the best trial.
        """
        interval = None
        if alone is not None:
            from scipy.stats import norm  # here, so that a worker that waits for a trial stays small

            wider = norm.isf(_TAIL / max(trials, 1)) / norm.isf(_TAIL)  # Bonferroni
            low = lead.difference - max((lead.difference - alone.low) * wider, lead.margin)
            interval = Interval(low, alone.high)
        return cls(
            difference=lead.difference,
            interval=interval,
            trials=trials,
            exceeds_chance=lead.is_told,
            detectable=lead.detectable
            if best - lead.difference + lead.detectable <= 1
            else None,  # no metric exceeds 1
            clips=(truth.count(NORMAL), truth.count(ANOMALY)),
            times_the_clips=lead.times_the_clips,
        )

    @property
    def may_be_chance(self) -> bool:
        """Whether the best of so many trials may be ahead by chance."""
        return not self.exceeds_chance or (self.interval is not None and self.interval.low <= 0)

    @property
    def measured_in_words(self) -> str:
        """The difference, with its interval if there is one."""
        if self.interval is None:
            return f"{self.difference:+.3f}"
        return (
            f"{self.difference:+.3f} (95 % interval {difference_interval(self.interval)} for the best of {self.trials})"
        )

    @property
    def power_in_words(self) -> str:
        """Say which gains the clips can tell, and how many of them would tell this one; sentences."""
        normal, anomalous = self.clips
        text = f"With {normal} normal and {anomalous} anomalous validation clips and {self.trials} trials, "
        if self.detectable is None:
            text += "not even a perfect detector would show its gain over this baseline in four of five studies."
        else:
            text += f"four of five studies show a true gain of {self.detectable:.3f}."
        if self.may_be_chance and self.times_the_clips is not None and np.isfinite(self.times_the_clips):
            times = max(self.times_the_clips, 1.0)
            more = tuple(math.ceil(times * of_label) for of_label in self.clips)
            text += f" For one of {self.difference:.3f} it takes about {more[0]:,} and {more[1]:,} clips."
        return text
