"""A study on one page: self-contained HTML that needs no network, for the screen and for paper.

All but the sounds comes from the storage, so that a study gives the same page wherever its clips lie.
"""

from __future__ import annotations

import json

import optuna

from features.progress import Progress
from search.evaluation.evaluate import evaluate
from search.pages.page import template
from search.report import charts, tables
from search.report.misses import worst_misses
from search.report.verdict import verdict
from search.results.comparison import compare
from search.results.export import recipe_of
from search.results.families import columns
from search.results.status import read_status
from search.results.trial_in_words import trial_in_words
from search.results.wording import interval_or_why
from search.storage.counted_evaluations import latest_evaluation_of
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.objectives import IN_WORDS
from search.study.study_file import to_yaml

_SHOWN_REASONS = 20


def report(storage: StudyStorage, stored: StoredStudy, *, progress: Progress | None = None) -> str:
    """The page of a study as it stands, even before its first trial; `progress` counts the recordings that are read."""
    optuna_study = optuna.load_study(study_name=stored.name, storage=storage)
    status = read_status(storage, stored, optuna_study)
    comparison = compare(storage, stored, status)
    study = stored.study()
    scores = StudyLedger(storage, stored).scores()
    ties = () if comparison is None else comparison.ties
    best = status.best
    reasons = tables.reasons(status.failures)
    settings = tables.settings(study, status)
    recipe = None if best is None else recipe_of(stored, best)
    on_test = None if recipe is None else latest_evaluation_of(storage.engine, recipe)
    return template(__package__, "page.html").render(
        name=stored.name,
        verdict=verdict(stored, study, status, comparison, storage=storage.shown_url, on_test=on_test),
        intervals=None if comparison is None else charts.interval_chart(status, comparison),
        searched=list(tables.searched(stored, study, status, optuna_study.get_trials(deepcopy=False))),
        settings=settings,
        settings_left=len(study.space.distributions()) - len(settings),
        trials=[] if comparison is None else list(tables.best_trials(status, comparison)),
        trade_offs=[] if comparison is None else list(tables.trade_offs(status, comparison)),
        objectives=[IN_WORDS[objective] for objective in stored.objectives],
        tied=len(ties),
        complete=len(status.finished),
        families=[] if comparison is None else list(tables.families(status, comparison)),
        family_columns=[*columns(status.metric_name), "behind the best", "95 % interval", ""],
        families_note="" if comparison is None else tables.families_note(status, comparison),
        search_charts=list(charts.search_charts(status, ties, optuna_study, pruner=study.search.pruner)),
        best=best,
        about_best=None if best is None else trial_in_words(best),
        best_metrics=None if best is None else evaluate(scores[best.number], stored.truth),
        best_trial_charts=[] if best is None else list(charts.best_trial_charts(stored, scores[best.number])),
        misses=None
        if best is None or recipe is None
        else worst_misses(stored, recipe, scores[best.number], progress=progress),
        failed=len(status.failures),
        reasons=reasons[:_SHOWN_REASONS],
        reasons_left=max(0, len(reasons) - _SHOWN_REASONS),
        recipe=None if recipe is None else to_yaml(recipe.tree()),
        on_test=on_test,
        interval_or_why=interval_or_why,
        study_file=to_yaml(json.loads(json.dumps(study.tree))),
        commands=tables.commands(stored, status, storage.shown_url),
        versions=stored.identity["versions"],
        data=stored.identity["data"],
    )
