"""What a search gave, on each page that shows a study: which variant its best trial took, and where the time went."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna_dashboard import get_note

from search import api
from search.dashboard.note import write_note
from search.report.page import report
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


@pytest.fixture
def ended(tiny_study: MakeStudy) -> TinyStudy:
    """Two families, of which each training has three variants: two poolings, one of them with two shares."""
    study = tiny_study(
        trials=4,
        model=[
            {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 2},
            {"family": "quick", "name": "other", "width": {"low": 8, "high": 64}},
        ],
        scoring={"pooling": {"choices": ["mean", "top"]}, "top_share": {"choices": [0.1, 0.5]}},
        baseline={},
    )
    study.worker(quick=True).run()
    write_note(study.storage, study.stored, optuna.load_study(study_name="tiny", storage=study.storage))
    return study


def test_the_variant_of_the_best_trial_is_on_each_page(ended: TinyStudy, offkey: Callable[..., Ran]) -> None:
    said = "pooling mean (one of 3 tried on this training)"  # of equals, the one by defaults
    notebook = api.Study.load("tiny", storage=ended.url)

    assert [trial.user_attrs["chosen"] for trial in trials_of(ended)] == [
        said
    ] * 4  # on the dashboard's page of a trial
    assert notebook.best.variant == api.TakenVariant({"pooling": "mean"}, 3)
    assert said in " ".join(offkey("status", "tiny", "--storage", ended.url).stdout.split())
    assert f"Its variant: {said}." in report(ended.storage, ended.stored)
    assert f"Its variant: {said}." in str(get_note(optuna.load_study(study_name="tiny", storage=ended.storage)))


def test_time_and_precision_of_the_best_trial_are_in_status(ended: TinyStudy, offkey: Callable[..., Ran]) -> None:
    shown = " ".join(offkey("status", "tiny", "--storage", ended.url).stdout.split())

    assert re.search(r"Trial \d took 0\.\d s on cpu, precision float32\.", shown)
    assert "top_share" not in shown, "it has no effect beside pooling mean"


def test_the_table_of_families_is_on_each_page(ended: TinyStudy, offkey: Callable[..., Ran]) -> None:
    document: dict[str, Any] = json.loads(offkey("status", "tiny", "--storage", ended.url, "--json").stdout)
    families = api.Study.load("tiny", storage=ended.url).summary().families
    rows = [family.row for family in families]
    note = str(get_note(optuna.load_study(study_name="tiny", storage=ended.storage)))
    status, page = offkey("status", "tiny", "--storage", ended.url).stdout, report(ended.storage, ended.stored)

    assert {family.label for family in families} == {"vae", "other (quick)"}
    assert sum(family.trials for family in families) == 4
    assert sum(family.share for family in families) == pytest.approx(1.0)
    behind = [family.pop("behind_best") for family in document["families"]]
    assert document["families"] == [family.as_json() for family in families]
    assert behind.count(None) == 1 + sum(family.best is None for family in families)
    for row in rows:
        assert f"| {' | '.join(row)} |" in note
        assert re.search(" +".join(map(re.escape, row)), status)
        assert "".join(f'<td class="number">{cell}</td>' for cell in row[1:]) in page
