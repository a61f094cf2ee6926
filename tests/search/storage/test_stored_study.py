"""A study is created once, then joined; one that differs is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import optuna
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from search.errors import StudyError
from search.preparation.prepared import prepare
from search.results.export import export_recipe
from search.storage.stored_study import load_stored, require_same, with_stored_choices
from search.storage.tables import StudyRow
from search.study.identity import identity_of
from search.study.study_file import study_of_tree
from tests.support.holding import first_answer_lost
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


@pytest.fixture
def of_an_older_version(tiny_study: MakeStudy) -> TinyStudy:
    """A study with no trial yet whose file names no precision, stored where float32 was the default."""
    tiny = tiny_study(trials=1)

    def age(session: Session) -> None:
        row = session.get_one(StudyRow, tiny.stored.study_id)
        identity = json.loads(row.identity)
        assert identity["study"]["training"]["precision"] == "auto"
        assert "precision" not in json.loads(row.document)["training"]
        identity["study"]["training"]["precision"] = "float32"
        row.identity = json.dumps(identity)

    tiny.storage.transact(age)
    return replace(tiny, stored=load_stored(tiny.storage, "tiny"))


def test_a_study_of_an_older_version_goes_on_in_float32_on_every_cpu(
    of_an_older_version: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}, raising=False)

    study = of_an_older_version
    study.worker().run()

    (trial,) = trials_of(study)
    assert trial.user_attrs["precision"] == "float32"
    assert export_recipe(study.storage, study.stored).training.precision == "float32"


def test_a_study_of_an_older_version_is_joined_by_its_name_and_by_a_file_that_says_float32(
    of_an_older_version: TinyStudy, tiny_study: MakeStudy
) -> None:
    stored = of_an_older_version.stored
    corpus = prepare(stored.study(), default_root=None).corpus
    require_same(stored, identity_of(stored.study(), corpus))
    training = {**stored.tree["training"], "precision": "float32"}

    assert tiny_study(trials=2, training=training).stored.budget == 2
    with pytest.raises(StudyError, match="training.precision: stored float32, here auto"):
        tiny_study(trials=3)


def test_a_study_whose_creation_got_no_answer_is_joined(tiny_study: MakeStudy) -> None:
    storage = tiny_study().storage
    storage.patience = 60.0
    with first_answer_lost():
        created = optuna.create_study(study_name="new", storage=storage, load_if_exists=True)
    assert [study.study_name for study in storage.get_all_studies()] == ["tiny", created.study_name]


def test_a_budget_is_never_lowered_by_joining(tiny_study: MakeStudy) -> None:
    tiny_study(trials=5)
    assert tiny_study(trials=2).stored.budget == 5


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (
            {"model": {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4}, "baseline": {}},
            "model.h_dim: stored —, here 16",
        ),
        (
            {"model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 32}, "z_dim": 4}},
            "model.h_dim.high: stored 64, here 32",
        ),
        ({"search": {"trials": 3, "pruner": "none", "sampler": "random"}}, "search.sampler: stored tpe, here random"),
        ({"baseline": {"h_dim": 17}}, "baseline.h_dim: stored 16, here 17"),
    ],
)
def test_a_study_that_exists_with_another_space_is_refused_with_what_differs(
    tiny_study: MakeStudy, change: dict[str, object], differs: str
) -> None:
    tiny_study()
    with pytest.raises(StudyError, match=differs):
        tiny_study(**change)


PLAIN_MODEL = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4}


@pytest.mark.parametrize(
    "written_out",
    [
        {"scoring": {"pooling": "mean"}},
        {"features": {"n_mels": 32, "n_fft": 1024}},
        {"model": {**PLAIN_MODEL, "kld_weight": 0.01}},
        {"validation": {"metric": "auc"}},
    ],
)
def test_a_default_that_is_written_out_does_not_change_the_study(
    tiny_study: MakeStudy, written_out: dict[str, object]
) -> None:
    first = tiny_study()
    assert tiny_study(**written_out).stored.uid == first.stored.uid


BY_PROXIES = {"metric": "proxy", "share": 0.34}


def test_other_proxies_than_those_of_the_stored_study_are_refused(tiny_study: MakeStudy) -> None:
    tiny_study(validation={**BY_PROXIES, "proxies": ["other IDs"]})

    with pytest.raises(StudyError, match=r"validation.proxies: stored \['other IDs'\], here \['knock 1'\]"):
        tiny_study(validation={**BY_PROXIES, "proxies": ["knock 1"]})


def test_a_study_that_lists_no_proxies_takes_those_of_the_stored_study(
    tiny_study: MakeStudy, storage_url: str, tmp_path: Path
) -> None:
    tree = {"study": "tiny", "model": {"family": "stat"}, "validation": BY_PROXIES}
    unnamed = study_of_tree(tree, origin="here")
    assert with_stored_choices(unnamed, storage_url) == unnamed
    assert with_stored_choices(unnamed, f"sqlite:///{tmp_path / 'none.db'}") == unnamed

    tiny_study(validation={**BY_PROXIES, "proxies": ["other IDs"]})

    joining = with_stored_choices(unnamed, storage_url)
    assert joining.validation.proxies == ["other IDs"]
    assert joining.tree == {**unnamed.tree, "validation": {**BY_PROXIES, "proxies": ["other IDs"]}}
    named = study_of_tree({**tree, "validation": {**BY_PROXIES, "proxies": ["knock 1"]}}, origin="here")
    assert with_stored_choices(named, storage_url) == named


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_search_does_not_take_over_a_study_that_offkey_did_not_create(
    tiny_study: MakeStudy, direction: Literal["minimize", "maximize"]
) -> None:
    url = tiny_study().url
    foreign = optuna.create_study(study_name="foreign", storage=url, direction=direction)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match="was not made by Offkey"):
        tiny_study(study="foreign")


def test_joining_without_hours_leaves_the_hours_as_they_are(tiny_study: MakeStudy) -> None:
    study = tiny_study(search={"trials": 3, "pruner": "none", "hours": 2.0})
    tiny_study()
    with study.storage.engine.connect() as connection:
        assert connection.execute(select(StudyRow.hours)).scalar_one() == 2.0


def test_a_study_that_offkey_did_not_create_is_refused(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    optuna.create_study(study_name="foreign", storage=study.url)
    with pytest.raises(StudyError, match="was not made by Offkey"):
        load_stored(study.storage, "foreign")
