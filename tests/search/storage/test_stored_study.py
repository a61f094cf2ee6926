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
from search.storage import stored_study
from search.storage.stored_study import (
    StoredStudy,
    create_or_join,
    load_stored,
    require_same,
    with_stored_choices,
)
from search.storage.tables import StudyRow
from search.study.identity import Identity, identity_of
from search.study.study_file import study_of_tree
from tests.support.holding import claim, first_answer_lost
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


def test_a_stored_study_keeps_the_rule_by_which_its_trials_are_scored(tiny_study: MakeStudy) -> None:
    tiny = tiny_study()
    other = prepare(study_of_tree({**tiny.stored.tree, "study": "of-2021"}, origin="other"), default_root=None)
    create_or_join(tiny.storage, other.study, other.corpus, replace(other.validation_data.truth, rule=2021))

    assert load_stored(tiny.storage, "of-2021").truth.year == 2021
    assert load_stored(tiny.storage, "tiny").truth.year == 2020


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


@pytest.mark.parametrize(("stored", "joined", "then"), [(2.0, 1.0, 2.0), (2.0, 3.0, 3.0), (None, 1.0, None)])
def test_joining_raises_the_hours_and_never_lowers_them(
    tiny_study: MakeStudy, stored: float | None, joined: float, then: float | None
) -> None:
    of_file = {"trials": 3, "pruner": "none"}
    tiny_study(search={**of_file, "hours": stored})

    assert tiny_study(search={**of_file, "hours": joined}).stored.hours == then


def test_joining_raises_stall_minutes_and_never_lowers_them(tiny_study: MakeStudy) -> None:
    of_file = {"trials": 3, "pruner": "none"}
    tiny_study(search=of_file)
    for joined, then in [
        ({"stall_minutes": 5}, 20),
        ({"stall_minutes": 60}, 60),
        ({}, 60),
        ({"stall_minutes": 30}, 60),
    ]:
        assert tiny_study(search={**of_file, **joined}).stored.search.longest_silence == then


def test_a_search_whose_study_is_deleted_while_it_joins_writes_nothing_to_the_study_with_its_key(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=3)
    require_same = stored_study.require_same

    def too_late(stored: StoredStudy, identity: Identity) -> None:
        require_same(stored, identity)
        study.storage.delete_study(stored.study_id)
        assert tiny_study(study="stranger").stored.study_id == stored.study_id

    monkeypatch.setattr(stored_study, "require_same", too_late)
    with pytest.raises(StudyError, match="deleted"):
        tiny_study(search={"trials": 3, "pruner": "none", "stop": "never", "stall_minutes": 60})

    search = load_stored(study.storage, "stranger").search
    assert (search.stop, search.stall_minutes) == (None, None)


def test_a_study_keeps_its_place_for_checkpoints_as_long_as_a_trial_needs_it(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3)
    prepared = prepare(study.stored.study(), default_root=None)

    def joined_with(place: str) -> str | None:
        truth = prepared.validation_data.truth
        return create_or_join(study.storage, prepared.study, prepared.corpus, truth, artifacts=place).artifacts

    assert joined_with("/a") == "/a"
    held = claim(study.storage, study, "worker")
    assert joined_with("/b") == "/a", "a trial is at work"
    held.keep_checkpoint("any@1/1")
    held.report(1, 0.5)
    held.release()
    assert joined_with("/b") == "/a", "a trial waits half-finished"
    claim(study.storage, study, "worker").finish("complete", values=[0.5])
    assert joined_with("/b") == "/b"


def test_a_study_that_offkey_did_not_create_is_refused(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    optuna.create_study(study_name="foreign", storage=study.url)
    with pytest.raises(StudyError, match="was not made by Offkey"):
        load_stored(study.storage, "foreign")
