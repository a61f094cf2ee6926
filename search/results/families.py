"""Where a study's time went: its trials by family, or by branch where a family stands twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial

from search.results.wording import duration, percent
from search.storage.optuna_rows import seconds_of
from search.study.branches import names_in_words, names_of


@dataclass(frozen=True)
class FamilyTrials:
    """The trials of one family that have ended: complete, pruned or failed."""

    name: str  # the value of the parameter `family`
    label: str  # the name, and the family if that is another one
    trials: int
    seconds: float  # that workers have worked on them
    share: float  # of the seconds of all families, 0 to 1
    best: int | None  # the number of its best trial; None while none is complete within the study's limits
    value: float | None  # of that trial, in the first objective

    @property
    def row(self) -> list[str]:
        """The cells of a table, in the order of `columns`."""
        time = [duration(self.seconds), percent(self.share)] if self.trials else ["—", "—"]
        best = ["—", "—"] if self.value is None else [f"{self.value:.3f}", str(self.best)]
        return [self.label, str(self.trials), *time, *best]

    def as_json(self) -> dict[str, Any]:
        """A part of `offkey status --json`."""
        return asdict(self)


def columns(metric_name: str) -> list[str]:
    """The titles of the columns of `FamilyTrials.row`."""
    return ["family", "trials", "workers' time", "share", f"best {metric_name}", "its trial"]


def family_trials(
    tree: Mapping[str, Any], trials: Iterable[FrozenTrial], finished: Sequence[FrozenTrial]
) -> tuple[FamilyTrials, ...]:
    """Return the trials of each family, the most time first; empty if a study has one family.

    `trials` are all trials, `finished` the complete ones within the study's limits, best first.
    """
    names = names_of(tree)
    if len(names) == 1:
        return ()
    counts, seconds = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    best: dict[str, FrozenTrial] = {}
    for trial in trials:
        name = trial.params.get("family")
        if name in counts and trial.state.is_finished():
            counts[name] += 1
            seconds[name] += seconds_of(trial)
    for trial in finished:
        best.setdefault(trial.params["family"], trial)
    total = sum(seconds.values())
    found = [
        FamilyTrials(
            name=name,
            label=label,
            trials=counts[name],
            seconds=round(seconds[name], 2),
            share=seconds[name] / total if total else 0.0,
            best=best[name].number if name in best else None,
            value=best[name].values[0] if name in best else None,
        )
        for name, label in zip(names, names_in_words(tree), strict=True)
    ]
    return tuple(sorted(found, key=lambda family: -family.seconds))
