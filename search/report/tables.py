"""The rows of a report's tables, and the commands on it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from search.results.comparison import Comparison
from search.results.status import SHOWN_TRIALS, Status, worth
from search.results.wording import difference_interval, duration, interval, number, objective_value
from search.results.wording import settings as in_words
from search.storage.optuna_rows import seconds_of
from search.storage.stored_study import StoredStudy
from search.study.machine_types import MACHINE_TYPES, parameter_of
from search.study.recipe import Objective
from search.study.schema.schema_lookup import description_of
from search.study.study import Study
from search.validation.views import clips_in_words

_OBJECTIVES: dict[Objective, str] = {
    "auc": "a high AUC, the mean over machine IDs",
    "pauc": "a high pAUC (below 10 % false alarms), the mean over machine IDs",
    "official": "a high official score of the challenge",
    "worst_id": "a high AUC of the machine ID that has the lowest",
    "proxy": "a high AUC on synthetic faults, the mean over machine IDs",
    "parameters": "few parameters",
    "latency_ms": "few milliseconds to score a clip",
}


def searched(
    stored: StoredStudy, study: Study, status: Status, trials: Sequence[FrozenTrial]
) -> Iterator[tuple[str, str]]:
    """The rows about the search: names and values."""
    search = study.search
    yield "recordings", f"{stored.identity['data']['clips']} clips in {stored.root}"
    yield "machines", "; ".join(f"{machine} (ID {', '.join(ids)})" for machine, ids in stored.truth.machines.items())
    yield (
        "validation clips",
        f"{clips_in_words(stored.validation, stored.truth)} (seed {stored.validation.seed}). Other labelled clips "
        "are test clips: only “offkey train” uses them.",
    )
    objective = " and ".join(_OBJECTIVES[objective] for objective in stored.objectives)
    yield "objective", f"{objective}, after a trial's last epoch"
    limits = search.constraints.model_dump(exclude_none=True) if search.constraints is not None else {}
    if limits:
        yield "limits", ", ".join(f"{name} {number(value)}" for name, value in limits.items())
    yield "model families", study.space.families_in_words
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items() if count)
    hours = "" if search.hours is None else f" or {number(search.hours)} hours"
    yield "budget", f"{status.budget} trials{hours}; {counts}"
    if status.portfolio is not None:
        yield "tried first", status.portfolio.in_words(status.metric_name)
    yield "sampler, pruner", f"{search.sampler}, {search.pruner} (seed {search.seed})"
    begun = [trial.datetime_start for trial in trials if trial.datetime_start is not None]
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete is not None]
    if begun and ended:
        work = sum(seconds_of(trial) for trial in trials if trial.state.is_finished())
        yield (
            "when",
            f"{min(begun):%Y-%m-%d %H:%M} to {max(ended):%Y-%m-%d %H:%M} by the workers' clocks; "
            f"workers worked on trials for {duration(work)} in all",
        )


def settings(study: Study, status: Status) -> list[dict[str, str]]:
    """A row for each open setting, the choice of a family among them.

    With several families there may be dozens: then only those of the baseline and of the best trial are shown.
    """
    best = {} if status.best is None else status.best.params
    tried = next((trial.params for trial in status.finished if trial.number == 0), study.baseline)
    baseline = tried if study.baseline else {}
    machines = [] if status.best is None else status.best.user_attrs.get(MACHINE_TYPES, [])

    def best_value(name: str) -> str:
        of_types = {machine: best[key] for machine in machines if (key := parameter_of(machine, name)) in best}
        return ", ".join(f"{m} {number(value)}" for m, value in of_types.items()) or number(best.get(name, "—"))

    def row(name: str, about: str, span: str) -> dict[str, str]:
        values = {"baseline": number(baseline.get(name, "—")), "best": best_value(name)}
        return {"name": name, "about": about, "range": span, **values}

    shown = study.space.settings
    if len(study.space.families) > 1:
        taken = {name.removeprefix(f"{machine}.") for name in best for machine in machines}
        shown = tuple(setting for setting in shown if setting.name in {*baseline, *best, *taken})
    rows = [row(s.name, description_of(study.space.tree, s.path), s.in_words) for s in shown]
    if len(study.space.families) > 1:
        rows.insert(0, row("family", "kind of model", study.space.families_in_words))
    return rows


def best_trials(status: Status, comparison: Comparison) -> Iterator[dict[str, str]]:
    """A row for each of the best trials."""
    for trial in status.finished[:SHOWN_TRIALS]:
        remarks = {
            "best": trial is status.best,
            "tie": trial.number in comparison.ties,
            "baseline": trial.number == 0 and status.baseline is not None,
            "portfolio": "first" in trial.user_attrs,
        }
        yield {
            "number": str(trial.number),
            "value": f"{worth(trial):.3f}",
            "interval": interval(comparison.intervals[trial.number]),
            "remarks": ", ".join(remark for remark, holds in remarks.items() if holds),
            "settings": in_words(trial),
        }


def families(status: Status, comparison: Comparison) -> Iterator[list[str]]:
    """A row for each family of a study of several: its trials and time, and how far its best trial is behind."""
    assert status.best is not None
    for family in status.families:
        behind = ["—", "—", "the best" if family.best == status.best.number else ""]
        if (gain := comparison.over_families.get(family.name)) is not None:
            told = "tie" if gain.may_be_chance else "told apart"
            behind = [f"{gain.difference:.3f}", difference_interval(gain.interval), told]
        yield [*family.row, *behind]


def families_note(status: Status, comparison: Comparison) -> str:
    """Say what the table of families compares; empty if no other family has a complete trial."""
    trials = next((gain.trials for gain in comparison.over_families.values()), None)
    if trials is None:
        return ""
    note = (
        f"Behind the best: the {status.metric_name} of the best trial minus that of the family's best trial, paired by "
        f"the validation clips. The interval, and what is told apart, allow for this being the best of {trials} trials."
    )
    return f"{note} There is {comparison.why_no_interval}." if comparison.why_no_interval else note


def trade_offs(status: Status, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A row for each trial on the Pareto front: no other is better in all objectives. None with one objective."""
    for trial in sorted(status.front, key=lambda trial: -worth(trial)):
        yield {
            "number": str(trial.number),
            "values": list(map(objective_value, status.objectives, trial.values)),
            "interval": interval(comparison.intervals[trial.number]),
            "settings": in_words(trial),
        }


def reasons(failures: Sequence[tuple[int, str]]) -> list[dict[str, str]]:
    """A row for each reason, the most frequent one first: how many trials it ended, and the first of them."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for failed, reason in failures:
        numbers[reason or "no reason was given"].append(failed)
    return [
        {
            "reason": reason,
            "count": str(len(failed)),
            "trials": ", ".join(map(str, failed[:5])) + (", …" if len(failed) > 5 else ""),
        }
        for reason, failed in sorted(numbers.items(), key=lambda item: -len(item[1]))
    ]


def commands(stored: StoredStudy, status: Status, url: str) -> list[str]:
    """The commands that repeat the search from its study file, and the best trial from its recipe."""
    lines = [f"offkey search {shlex.quote(f'{stored.name}.yaml')} --storage sqlite:///again.db"]
    if status.best is not None:
        lines += detector_commands(stored, status.best, url)
    return lines


def detector_commands(stored: StoredStudy, best: FrozenTrial, url: str) -> list[str]:
    """The commands from a study to its detector. `url` is the storage's, without a password."""
    name, recipe = shlex.quote(stored.name), shlex.quote(f"{stored.name}.recipe.yaml")
    which = f" --trial {best.number}" if len(stored.objectives) > 1 else ""
    return [
        f"offkey export {name}{which} --storage {shlex.quote(url)} -o {recipe}",
        f"offkey train {recipe} --storage {shlex.quote(url)} -o {shlex.quote(f'{stored.name}-detector')}",
    ]
