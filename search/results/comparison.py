"""Compares the best trials by bootstraps over the validation clips: intervals, ties, and the gain over the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from search.evaluation.bootstrap import Bootstrap
from search.evaluation.interval import Interval
from search.results.ensemble import Ensemble, candidates, ensemble_of_trials
from search.results.status import SHOWN_TRIALS, Status, worth
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage


@dataclass(frozen=True)
class Gain:
    """The best trial's value of the first objective minus the baseline's, or an ensemble's minus its best member's."""

    difference: float
    interval: Interval  # over paired resamples of the clips

    @property
    def may_be_chance(self) -> bool:
        """Whether the interval includes 0 or lies below it."""
        return self.interval.low <= 0

    @property
    def in_words(self) -> str:
        """Whether this is a gain, in words that end a sentence."""
        return "no gain that these clips can tell" if self.may_be_chance else "a gain"


@dataclass(frozen=True)
class Comparison:
    """How the leading trials differ on the validation clips."""

    interval: Interval  # of the best trial's first objective
    ties: tuple[int, ...]  # numbers of other complete trials whose paired difference from the best includes 0
    gain: Gain | None  # None without a complete baseline
    intervals: Mapping[int, Interval]  # of the first objective, for the trials that tables show, by number
    ensemble: Ensemble | None  # of the study's leading trials; None if there are too few
    may_guess: bool  # whether the interval of the best trial's AUC reaches down to guessing


def compare(storage: StudyStorage, stored: StoredStudy, status: Status, *, with_ties: bool = True) -> Comparison | None:
    """Intervals and ties by a bootstrap over the validation clips; None without a complete trial.

    Ties need resamples of every complete trial. `with_ties=False` resamples the best one, the front, the baseline, and
    for the ensemble those that lead.
    """
    if status.best is None:
        return None
    shown = {trial.number for trial in (*status.front, *status.finished[: SHOWN_TRIALS if with_ties else 1])}
    shown |= set() if status.baseline is None else {0}
    of_ensemble = {trial.number for trial in candidates(status)}
    scores = StudyLedger(storage, stored).scores(None if with_ties else shown | of_ensemble)
    bootstrap = Bootstrap(stored.truth)
    best = bootstrap.metric(stored.metric, scores[status.best.number])
    ties = [  # one trial's resamples at a time: there may be thousands of trials
        trial.number
        for trial in (status.finished[1:] if with_ties else ())
        if Interval.of(best - bootstrap.metric(stored.metric, scores[trial.number])).low <= 0
    ]
    intervals = {number: Interval.of(bootstrap.metric(stored.metric, scores[number])) for number in shown}
    gain = None
    if status.baseline is not None:
        of_baseline = bootstrap.metric(stored.metric, scores[0])
        gain = Gain(worth(status.best) - status.baseline, Interval.of(best - of_baseline))
    # Guessing has an AUC of 0.5 in the mean over machine IDs, and less in the lowest of them: the more IDs, the less.
    mean_aucs = bootstrap.aucs(scores[status.best.number]) if stored.metric == "worst_id" else best
    return Comparison(
        interval=intervals[status.best.number],
        ties=tuple(ties),
        gain=gain,
        intervals=intervals,
        ensemble=ensemble_of_trials(stored, status, scores),
        may_guess=Interval.of(mean_aucs).low <= 0.5,
    )


def as_json(status: Status, comparison: Comparison | None) -> dict[str, Any]:
    """The document that `offkey status --json` prints."""
    best: Any = None
    ensemble = None if comparison is None else comparison.ensemble
    if status.best is not None and comparison is not None:
        best = {
            "number": status.best.number,
            "value": worth(status.best),
            "interval": list(comparison.interval),
            "params": status.best.params,
            "ties": list(comparison.ties),
        }
    if len(status.objectives) > 1:
        best = [
            {
                "number": trial.number,
                "values": dict(zip(status.objectives, trial.values, strict=True)),
                "interval": list(comparison.intervals[trial.number]),
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
        **({} if status.portfolio is None else {"first": status.portfolio.as_json()}),
        **({"families": [family.as_json() for family in status.families]} if status.families else {}),
        **({} if status.enough is None else {"ended_itself": asdict(status.enough)}),
        **({} if ensemble is None else {"ensemble": {"trials": list(ensemble.trials), "value": ensemble.value}}),
        "workers": [
            {("trial" if key == "number" else key): value for key, value in asdict(running).items()}
            for running in status.running
        ],
        **({"failing_hosts": [asdict(host) for host in status.failing_hosts]} if status.failing_hosts else {}),
        "failures": [{"number": number, "reason": reason} for number, reason in status.failures],
    }
