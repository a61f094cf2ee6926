"""What a race comes to: when each side had which detector, as tables and a plot.

A side's detector at a time is the one with the highest validation AUC of those that were finished by then, the first of
several. Where there is none, a validation AUC is reached never, and the held-out AUC is that of no detector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from search.pages.colours import BLUE, GREEN, ORANGE, PALE, VERMILION

NONE = -math.inf  # AUC of no detector


@dataclass(frozen=True)
class Finished:
    """A detector that a search has finished."""

    seconds: float  # since the command began
    validation: float  # AUC
    name: str


@dataclass(frozen=True)
class Run:
    """One side's search, once."""

    finished: tuple[Finished, ...]
    held_out: Mapping[str, float] = field(default_factory=dict)  # AUC by the name of the detector, of those that led

    def best_at(self, seconds: float) -> Finished | None:
        """The side's detector at a time."""
        so_far = [one for one in self.finished if one.seconds <= seconds]
        return max(so_far, key=lambda one: (one.validation, -one.seconds), default=None)

    def validation_at(self, seconds: float) -> float:
        best = self.best_at(seconds)
        return NONE if best is None else best.validation

    def held_out_at(self, seconds: float) -> float:
        best = self.best_at(seconds)
        return NONE if best is None else self.held_out[best.name]

    def seconds_to(self, validation: float) -> float:
        """When it first had a detector of at least this validation AUC; infinity if never."""
        return min((one.seconds for one in self.finished if one.validation >= validation), default=math.inf)

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Run:
        stored = json.loads(file.read_text())
        return cls(tuple(Finished(**one) for one in stored["finished"]), stored["held_out"])


#: Each side's runs, by its name.
Race = Mapping[str, Sequence[Run]]


def median(values: Sequence[float]) -> float:
    """The lower median: of "never" and numbers there is no mean."""
    return sorted(values)[(len(values) - 1) // 2]


def median_and_range(values: Sequence[float], shown: Callable[[float], str]) -> str:
    low, high = shown(min(values)), shown(max(values))
    return f"{shown(median(values))} ({low}–{high})" if len(values) > 1 else low


def in_seconds(value: float) -> str:
    return "never" if value == math.inf else f"{value:.0f}"


def as_auc(value: float) -> str:
    return "none" if value == NONE else f"{value:.3f}"


def final_auc(runs: Sequence[Run], at: Callable[[Run, float], float]) -> float:
    """The median over the runs of an AUC at their end."""
    return median([at(run, math.inf) for run in runs])


def target_of(race: Race, peers: Sequence[str]) -> float:
    """The validation AUC that sides are timed to: the peers' best final one; without peers, the least of all sides."""
    finals = {side: final_auc(runs, Run.validation_at) for side, runs in race.items()}
    of_peers = [finals[side] for side in peers if side in finals]
    return max(of_peers) if of_peers else min(finals.values())


def ahead_at(race: Race, side: str, peers: Sequence[str], moments: Sequence[float]) -> float:
    """The first moment at which a side's median held-out AUC is above every peer's final one; infinity if none is."""
    highest = max(final_auc(race[peer], Run.held_out_at) for peer in peers)
    ahead = (moment for moment in moments if median([run.held_out_at(moment) for run in race[side]]) > highest)
    return next(ahead, math.inf)


def show(console: Console, race: Race, *, target: float, moments: Sequence[float], title: str) -> None:
    held_out = [f"held-out AUC at {moment:g} s" for moment in moments]
    goal = "a detector" if target == NONE else f"validation AUC {target:.3f}"
    head = ("", "detectors", f"seconds to {goal}", "final validation AUC", *held_out)
    table = Table(*head, title=title, title_justify="left")
    for side, runs in race.items():
        table.add_row(
            side,
            median_and_range([len(run.finished) for run in runs], lambda count: f"{count:.0f}"),
            median_and_range([run.seconds_to(target) for run in runs], in_seconds),
            median_and_range([run.validation_at(math.inf) for run in runs], as_auc),
            *(median_and_range([run.held_out_at(moment) for run in runs], as_auc) for moment in moments),
        )
    console.print(table)


def show_leads(console: Console, race: Race, sides: Sequence[str], peers: Sequence[str], moments: list[float]) -> None:
    """When each of our sides is ahead of what the peers end with."""
    peers = [peer for peer in peers if peer in race]
    for side in [side for side in sides if side in race and peers]:
        when = ahead_at(race, side, peers, moments)
        at = "at none of these times" if when == math.inf else f"from {when:g} s on, of these times"
        console.print(f"{side} has a higher held-out AUC than every peer in the end: {at}.")


def plot(race: Race, *, moments: Sequence[float], seconds: float) -> Figure:
    """Validation AUC over time, a line for each run; held-out AUC at the moments, median and range."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (side, runs) in enumerate(race.items()):
        colour = (BLUE, GREEN, VERMILION, ORANGE)[place]
        for run in runs:
            leads = [one for one in run.finished if one == run.best_at(one.seconds)]
            if leads:
                x, y = [one.seconds for one in leads], [one.validation for one in leads]
                left.step([*x, seconds], [*y, y[-1]], where="post", color=colour, alpha=0.7)
        middle = [median([run.held_out_at(moment) for run in runs]) for moment in moments]
        for moment, value in zip(moments, middle, strict=True):
            known = [auc for auc in (run.held_out_at(moment) for run in runs) if auc != NONE]
            if known and value != NONE:
                right.vlines(moment, min(known), max(known), color=colour, alpha=0.5)
        shown = [(moment, value) for moment, value in zip(moments, middle, strict=True) if value != NONE]
        right.plot(*(zip(*shown, strict=True) if shown else ([], [])), "o-", color=colour, label=side)
    left.set(xlabel="seconds", ylabel="validation AUC, best so far", xlim=(0, seconds))
    right.set(xlabel="seconds", ylabel="held-out AUC, median and range", xlim=(0, seconds * 1.02))
    for axes in (left, right):
        axes.grid(color=PALE)
    right.legend(frameon=False)
    return figure
