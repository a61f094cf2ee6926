"""Compares the best trials on the validation clips: intervals, ties, the gain over the baseline, and families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from search.evaluation.best_of_many import lead_over_guessing, leads
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.confidence import interval_of, interval_of_difference, why_no_interval
from search.evaluation.interval import Interval
from search.results.ensemble import Ensemble, ensemble_of_trials
from search.results.families import FamilyTrials
from search.results.gain import GainOfBest
from search.results.status import SHOWN_TRIALS, Status, worth
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage


@dataclass(frozen=True)
class Comparison:
    """How the leading trials differ on the validation clips."""

    interval: Interval | None  # of the best trial's first objective; None where there are too few clips
    why_no_interval: str  # empty if there is one
    ties: tuple[int, ...]  # numbers of the other complete trials that the best one is not told from
    gain: GainOfBest | None  # over the baseline; None without a complete baseline
    #: The best trial's gain over each other family's best trial, by the family's name; empty with one family.
    over_families: Mapping[str, GainOfBest]
    intervals: Mapping[int, Interval | None]  # of the first objective, for the trials that tables show, by number
    ensemble: Ensemble | None  # of the study's leading trials; None if there are too few
    may_guess: bool  # whether the best of so many guesses would have as high an AUC


def compare(storage: StudyStorage, stored: StoredStudy, status: Status) -> Comparison | None:
    """Compare the best trial with all others, by search.evaluation.best_of_many; None without a complete trial."""
    if status.best is None:
        return None
    metric, truth = stored.metric, stored.truth
    scores = StudyLedger(storage, stored).scores()
    numbers = [trial.number for trial in status.finished]
    has_baseline = status.baseline is not None
    compared = numbers if not has_baseline or 0 in numbers else [*numbers, 0]  # it may be beyond the study's limits
    of_all = np.stack([scores[number] for number in compared])
    tried = status.counts["complete"] + status.counts["pruned"]
    of_number = dict(zip(compared, leads(metric, of_all, truth, tried=tried), strict=True))

    of_families = {family.name: family.best for family in status.families if family.best is not None}
    others = {*of_families.values(), *({0} if has_baseline else ())}
    shown = {trial.number for trial in (*status.front, *status.finished[:SHOWN_TRIALS])} | others
    bootstrap, best = Bootstrap(truth), status.best.number
    intervals = {number: interval_of(scores[number], truth, metric=metric, bootstrap=bootstrap) for number in shown}
    gains = {}
    for number in others:
        both = intervals[best], intervals[number]
        alone = interval_of_difference(of_all[0], scores[number], truth, metric=metric, intervals=both)
        gains[number] = GainOfBest.of(of_number[number], alone, truth, trials=tried, best=worth(status.best))
    return Comparison(
        interval=intervals[best],
        why_no_interval=why_no_interval(truth),
        ties=tuple(
            number
            for number in numbers[1:]
            if not of_number[number].is_told or (number in gains and gains[number].may_be_chance)
        ),
        gain=gains[0] if has_baseline else None,
        over_families={name: gains[number] for name, number in of_families.items() if number != best},
        intervals=intervals,
        ensemble=ensemble_of_trials(stored, status, scores),
        may_guess=not lead_over_guessing(of_all, truth, tried=tried).is_told,
    )


def as_json(status: Status, comparison: Comparison | None) -> dict[str, Any]:
    """The document that `offkey status --json` prints."""
    best: Any = None
    ensemble, gain = (None, None) if comparison is None else (comparison.ensemble, comparison.gain)
    if status.best is not None and comparison is not None:
        best = {
            "number": status.best.number,
            "value": worth(status.best),
            "interval": _listed(comparison.interval),
            "params": status.best.params,
            "ties": list(comparison.ties),
        }
    if len(status.objectives) > 1:
        best = [
            {
                "number": trial.number,
                "values": dict(zip(status.objectives, trial.values, strict=True)),
                "interval": _listed(comparison.intervals[trial.number]),
                "params": trial.params,
            }
            for trial in status.front
            if comparison is not None
        ]
    return {
        "study": status.study,
        "metric": list(status.objectives) if len(status.objectives) > 1 else status.objectives[0],
        "budget": status.budget,
        "trials": status.counts,
        "beyond_limits": status.beyond_limits,
        "best": best,
        "baseline": {"value": status.baseline},
        **(
            {}
            if gain is None
            else {"gain": asdict(gain) | {"interval": _listed(gain.interval), "told": not gain.may_be_chance}}
        ),
        **({} if status.portfolio is None else {"first": status.portfolio.as_json()}),
        **({"families": [_family(of, comparison) for of in status.families]} if status.families else {}),
        **({} if status.enough is None else {"ended_itself": asdict(status.enough)}),
        **({} if ensemble is None else {"ensemble": {"trials": list(ensemble.trials), "value": ensemble.value}}),
        "workers": [
            {("trial" if key == "number" else key): value for key, value in asdict(running).items()}
            for running in status.running
        ],
        **({"failing_hosts": [asdict(host) for host in status.failing_hosts]} if status.failing_hosts else {}),
        "failures": [{"number": number, "reason": reason} for number, reason in status.failures],
    }


def _family(family: FamilyTrials, comparison: Comparison | None) -> dict[str, Any]:
    """How far the best trial is ahead of the family's: null where there is none, or where they are the same."""
    gain = None if comparison is None else comparison.over_families.get(family.name)
    behind = None
    if gain is not None:
        behind = {"difference": gain.difference, "interval": _listed(gain.interval), "told": not gain.may_be_chance}
    return family.as_json() | {"behind_best": behind}


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
