"""What thresholds decide on labelled clips: how many normal clips they call faulty, and how many faulty ones they find.

Shares of clips have the interval of Clopper and Pearson (1934), which holds 95 % for every number of clips: it is exact
for clips that are drawn independently, and wider than necessary for few.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from search.evaluation.interval import Interval


@dataclass(frozen=True)
class Decisions:
    """How many labelled clips lie above their thresholds."""

    normal: int  # clips
    false_alarms: int  # normal clips that are called faulty
    anomaly: int  # clips
    found: int  # faulty clips that are called faulty

    @classmethod
    def together(cls, each: Iterable[Decisions]) -> Decisions:
        """Add up the decisions of several machine IDs."""
        counts = [(of.normal, of.false_alarms, of.anomaly, of.found) for of in each]
        return cls(*map(sum, zip(*counts, strict=True))) if counts else cls(0, 0, 0, 0)

    @property
    def in_words(self) -> str:
        """A sentence without its full stop."""
        parts = []
        if self.normal:
            parts.append(
                f"of {self.normal} normal test {_clips(self.normal)} {self.false_alarms} {_were(self.false_alarms)} "
                f"called faulty ({share_in_words(self.false_alarms, self.normal)})"
            )
        if self.anomaly:
            parts.append(
                f"of {self.anomaly} faulty {'ones' if self.normal else 'test ' + _clips(self.anomaly)} {self.found} "
                f"{_were(self.found)} found ({share_in_words(self.found, self.anomaly)})"
            )
        sentence = ", ".join(parts) or "no test clip has a threshold"
        return sentence[0].upper() + sentence[1:]


def share_interval(count: int, of: int) -> Interval:
    """Return the 95 % interval of a share, from the number of clips that have a property among all drawn ones."""
    from scipy.stats import binomtest  # here: it takes a while to load

    low, high = binomtest(count, of).proportion_ci(0.95, method="exact")
    return Interval(float(low), float(high))


def share_in_words(count: int, of: int) -> str:
    """Format a share with its interval: 5.0 %, 95 % interval 1.0 % to 13.9 %."""
    low, high = share_interval(count, of)
    return f"{count / of:.1%}, 95 % interval {low:.1%} to {high:.1%}".replace("%", " %").replace("95  %", "95 %")


def _clips(count: int) -> str:
    return "clip" if count == 1 else "clips"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
