"""What the trials of `search.first` gave: in `offkey status`, the report, the note, and for users of Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import get_note

from search import api
from search.dashboard.note import write_note
from search.report.page import report
from search.results.portfolio import portfolio_of
from search.results.wording import duration
from search.study.study_file import to_yaml

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

FIRST = [{"h_dim": 8}, {"h_dim": 32}]
BEGIN = datetime(2030, 1, 1)


def trial(number: int, value: float | None, *, begun: float, ended: float | None = None) -> FrozenTrial:
    state = TrialState.RUNNING if ended is None else TrialState.COMPLETE if value is not None else TrialState.PRUNED
    made = create_trial(state=state, value=value)
    made.number = number
    made.datetime_start = BEGIN + timedelta(seconds=begun)
    made.datetime_complete = None if ended is None else BEGIN + timedelta(seconds=ended)
    return made


@pytest.fixture
def tiny(tiny_study: MakeStudy) -> TinyStudy:
    """Four trials: the baseline, two entries, and one that was suggested."""
    return tiny_study(trials=4, search={"trials": 4, "pruner": "none", "first": FIRST})


@pytest.mark.parametrize(
    ("trials", "budget", "in_words"),
    [
        ([], 4, "(baseline and 2 entries of search.first): 0 of 3 trials ended, none complete yet."),
        (
            [trial(0, 0.7, begun=0, ended=5), trial(1, 0.9, begun=1, ended=12.4), trial(2, None, begun=5)],
            4,
            "(baseline and 2 entries of search.first): best AUC 0.900 after 12 s (trial 1, entry 1); "
            "2 of 3 trials ended.",
        ),
        (
            [trial(0, 0.9, begun=0, ended=5), trial(1, 0.7, begun=0, ended=20), trial(2, 0.8, begun=5, ended=200)],
            4,
            "(baseline and 2 entries of search.first): best AUC 0.900 after 5.0 s (trial 0, the baseline); "
            "all 3 trials done after 3 min 20 s (3 min 40 s of workers' time). No other trial is better so far.",
        ),
        (
            [
                trial(0, 0.6, begun=0, ended=5),
                trial(1, 0.7, begun=0, ended=20),
                trial(2, 0.8, begun=5, ended=60),
                trial(3, 0.95, begun=20, ended=30),
            ],
            4,
            "(baseline and 2 entries of search.first): best AUC 0.800 after 1 min 0 s (trial 2, entry 2); "
            "all 3 trials done after 1 min 0 s (1 min 20 s of workers' time). The best now: 0.950 (trial 3).",
        ),
        (
            [trial(0, None, begun=0, ended=1), trial(1, None, begun=0, ended=1)],
            2,
            "(baseline and 1 entry of search.first): both trials done after 1.0 s (2.0 s of workers' time), "
            "none complete.",
        ),
    ],
    ids=["before", "during", "the baseline leads", "a later trial leads", "cut off by the budget"],
)
def test_the_best_entry_and_when_it_was_there_are_told(
    tiny: TinyStudy, trials: list[FrozenTrial], budget: int, in_words: str
) -> None:
    finished = sorted((t for t in trials if t.values), key=lambda t: -t.values[0])

    found = portfolio_of(tiny.stored, {t.number: t for t in trials}, finished, budget)

    assert found is not None
    assert found.in_words("AUC") == f"Portfolio {in_words}"


def test_trials_beyond_the_limits_are_told_from_those_that_are_not_complete(tiny: TinyStudy) -> None:
    trials = [trial(0, 0.9, begun=0, ended=5), trial(1, None, begun=1, ended=5)]

    found = portfolio_of(tiny.stored, {t.number: t for t in trials}, [], 2)

    assert found is not None
    assert found.in_words("AUC") == (
        "Portfolio (baseline and 1 entry of search.first): both trials done after 5.0 s (9.0 s of workers' time), "
        "none within search.constraints."
    )


def test_a_study_without_entries_has_no_portfolio_nor_one_whose_budget_ends_before_them(
    tiny: TinyStudy, tiny_study: MakeStudy
) -> None:
    assert portfolio_of(tiny_study(study="plain").stored, {}, [], 9) is None
    assert portfolio_of(tiny.stored, {}, [], 1) is None


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.44, "0.4 s"), (9.96, "10 s"), (59, "59 s"), (61, "1 min 1 s"), (3600 * 3 + 60 * 12, "3 h 12 min")],
)
def test_a_time_has_two_units_at_most(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_everything_that_shows_a_study_shows_its_portfolio(tiny: TinyStudy, offkey: Callable[..., Ran]) -> None:
    tiny.worker(quick=True).run()
    optuna_study = optuna.load_study(study_name="tiny", storage=tiny.storage)
    write_note(tiny.storage, tiny.stored, optuna_study)
    trials = optuna_study.get_trials()
    best = max(trials[:3], key=lambda t: t.values[0])
    said = f"Portfolio (baseline and 2 entries of search.first): best AUC {best.values[0]:.3f} after"

    status = " ".join(offkey("status", "tiny", "--storage", tiny.url).stdout.split())
    document: dict[str, Any] = json.loads(offkey("status", "tiny", "--storage", tiny.url, "--json").stdout)

    assert said in status
    assert document["first"]["trials"] == document["first"]["ended"] == 3
    assert document["first"]["best"].keys() == {"number", "value", "entry", "seconds"}
    assert document["first"]["best"]["number"] == best.number
    assert said in str(get_note(optuna_study))
    page = report(tiny.storage, tiny.stored)
    assert said in page
    assert page.count("portfolio</td>") == 2, "a remark on each of its trials"
    notebook = api.Study.load("tiny", storage=tiny.url)
    assert [one.first for one in notebook.trials] == [None, 1, 2, None]
    found = notebook.summary().portfolio
    assert found is not None
    assert found.as_json() == document["first"]


def test_a_study_without_a_portfolio_says_nothing_of_one(tiny_study: MakeStudy, offkey: Callable[..., Ran]) -> None:
    plain = tiny_study(trials=1)
    plain.worker(quick=True).run()

    assert "ortfolio" not in offkey("status", "tiny", "--storage", plain.url).stdout
    assert "first" not in json.loads(offkey("status", "tiny", "--storage", plain.url, "--json").stdout)
    assert "ortfolio" not in report(plain.storage, plain.stored)


def test_a_notebook_gives_a_portfolio_as_the_file_does(tiny: TinyStudy) -> None:
    tiny.worker(quick=True).run()
    settings = {"search.first": [{"h_dim": 40}, {"from": ["tiny"], "top": 1}], "search.trials": 3, "training.epochs": 1}
    study = api.Study.load("tiny", storage=tiny.url)
    best = study.best.params["h_dim"]
    again = api.Study.load(_file(tiny), storage=tiny.url, name="again", settings=settings)

    again.run(workers=1)

    assert [(one.params["h_dim"], one.first) for one in again.trials] == [(16, None), (40, 1), (best, 2)]


def test_a_notebook_s_portfolio_that_cannot_be_used_is_an_error(tiny: TinyStudy) -> None:
    again = api.Study.load(_file(tiny), storage=tiny.url, name="again", settings={"search.first": [{"from": ["none"]}]})

    with pytest.raises(api.StudyFileError, match=r"search.first.0.from.0 cannot be used: none: no such file"):
        again.run(workers=1)


def _file(study: TinyStudy) -> str:
    Path("tiny.yaml").write_text(to_yaml(dict(study.stored.tree)))
    return "tiny.yaml"
