"""The charts of a report: their titles and captions, and why one is missing."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from models.scoring.scores import Scores
from search.evaluation.evaluate import evaluate
from search.pages.page import Chart
from search.report import plots
from search.results.comparison import Comparison
from search.results.status import Status, worth
from search.storage.stored_study import StoredStudy
from search.study.objectives import IN_WORDS, LOWEST_CAUTION

#: Importances compare the best tenth of the complete trials with the others: of fewer than 10, that is no trial.
_FEWEST_FOR_IMPORTANCES = 10
#: From 50 on, the best tenth has the five trials that the method asks for.
_ENOUGH_FOR_IMPORTANCES = 50


def interval_chart(status: Status, comparison: Comparison) -> Chart:
    """The metric of the best trial and of the baseline, with their intervals."""
    assert status.best is not None
    rows = [(f"best (trial {status.best.number})", worth(status.best), comparison.interval)]
    if status.baseline is not None and status.best.number != 0:
        rows.append(("baseline", status.baseline, comparison.intervals[0]))
    is_lowest = status.objectives[0] == "worst_id"
    drawn = plots.intervals(rows, measure=status.metric_name, guessing=None if is_lowest else 0.5)
    notes = [LOWEST_CAUTION] if is_lowest else []
    notes += [comparison.why_no_interval] if comparison.why_no_interval else []
    caption = f"Note: {'; '.join(notes)}." if notes else ""
    return Chart("intervals", "How well faults are detected", caption, drawn)


def search_charts(status: Status, ties: Collection[int], study: optuna.Study, *, pruner: str) -> Iterator[Chart]:
    """The charts of all trials; none before the first trial has ended."""
    if status.done == 0:
        return
    failed = {number for number, _ in status.failures}
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    pruned = [trial for trial in pruned if trial.number not in failed]
    if not status.finished and not pruned:
        yield Chart("history", "Optimisation history", "n/a: every trial that ended failed.")
        return
    yield Chart(
        "history",
        "Optimisation history",
        "Filled: the best trial, and its ties.",
        plots.history(status.finished, pruned, ties=ties, baseline=status.baseline, measure=status.metric_name),
    )
    if status.front:
        names = [IN_WORDS[objective] for objective in status.objectives]
        yield Chart(
            "trade-offs",
            f"{names[0]} against {names[1]}",
            "No trial is better in every objective than one of the best trade-offs.",
            plots.trade_offs(status.finished, status.front, names=names),
        )
    drawn, shown = plots.curves(
        status.finished,
        pruned,
        baseline=None if status.baseline is None else 0,
        step=status.step,
        measure=status.metric_name,
    )
    of_all = len(status.finished) + len(pruned)
    which = "All trials" if shown == of_all else f"{shown} of {of_all} trials, an even choice"
    yield Chart(
        "curves",
        "Learning curves and pruning",
        f"{which}. A cross is where a trial was pruned. "
        + (
            "A trial's value is that of its last epoch, even if an earlier one was better."
            if status.step == "epoch"
            else "Each point is the value of one fold; a trial's value is the mean over its folds."
            if pruner == "wilcoxon"
            else "Each point is the mean over the folds so far."
        ),
        drawn,
    )
    yield importance_chart(status.finished)


def best_trial_charts(stored: StoredStudy, scores: Scores) -> Iterator[Chart]:
    """The charts of the best trial, whose validation clips have these scores."""
    scores, truth = scores[stored.truth.last_fold], stored.truth.in_last_fold
    of_fold = " The scores are those of the last fold's model." if stored.truth.folds else ""
    per_id = evaluate(scores, truth).per_id
    ids = plots.hardest(per_id)
    left_out = len(per_id) - len(ids)
    which = f" Shown: the {len(ids)} of {len(per_id)} machine IDs with the lowest AUC." if left_out else ""
    yield Chart(
        "histograms",
        "Scores of the validation clips",
        "A higher score is more anomalous; the less the two overlap, the better. Levels differ between machine IDs, "
        f"so that each has its own threshold.{which}{of_fold}",
        plots.histograms(scores, truth, ids),
    )
    yield Chart(
        "roc",
        "Faults detected against false alarms",
        "The ROC curve of each machine ID. AUC is the area below it; pAUC counts the shaded part alone."
        f"{which}{of_fold}",
        plots.roc(scores, truth, ids),
    )


def importance_chart(finished: Sequence[FrozenTrial]) -> Chart:
    """How much each setting determines whether one of these complete trials is among the best."""
    key, title = "importances", "Which settings matter"
    values: dict[str, set[Any]] = defaultdict(set)
    for trial in finished:
        for name, value in trial.params.items():
            values[name].add(value)
    varied = sorted(name for name, different in values.items() if len(different) > 1)
    if len(finished) < _FEWEST_FOR_IMPORTANCES:
        why = f"it takes {_FEWEST_FOR_IMPORTANCES} complete trials, and there are {len(finished)}"
        return Chart(key, title, f"n/a: {why}.")
    if len(varied) < 2:
        why = f"{varied[0]} alone has" if varied else "no setting has"
        return Chart(key, title, f"n/a: {why} different values among the complete trials.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns of a family with a single trial, which it leaves out
        shares = optuna.importance.get_param_importances(_maximised(finished), params=varied)
    hint = "" if len(finished) >= _ENOUGH_FOR_IMPORTANCES else " So few trials give a hint, not a result."
    return Chart(
        key,
        title,
        "How much each setting determines whether a trial is among the best tenth "
        f"(PED-ANOVA on {len(finished)} complete trials).{hint}",
        plots.importances(dict(sorted(shares.items()))),  # by name: the order of equal shares is Optuna's, and random
    )


def _maximised(finished: Sequence[FrozenTrial]) -> optuna.Study:
    """A study in memory of these trials and their first objective, of which higher is better.

    Given a target instead, Optuna would look for the trials with the lowest one.
    """
    study = optuna.create_study(direction="maximize")
    for trial in finished:
        study.add_trial(create_trial(value=worth(trial), params=trial.params, distributions=trial.distributions))
    return study
