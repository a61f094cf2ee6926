"""The entries of `search.first`: found in other studies and recipes, and left out where the clips cannot serve them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from search.errors import StudyError, StudyFileError
from search.preparation.portfolio_sources import with_choices
from search.preparation.prepared import Prepared, prepare
from search.results.export import export_recipe
from search.storage.stored_study import StoredStudy, create_or_join
from search.storage.study_storage import StudyStorage
from search.study.study import Study
from search.study.study_file import study_of_tree, to_yaml
from tests.support.study_files import load
from tests.support.tiny_study import made, whole_copy

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

VAE: dict[str, Any] = {"family": "vae", "context": {"low": 1, "high": 99}, "h_dim": {"low": 8, "high": 64}}
CAE: dict[str, Any] = {"family": "cae", "frames": 64, "z_dim": {"low": 2, "high": 8}}
STAT: dict[str, Any] = {"family": "stat", "decay": {"low": 0.0, "high": 1.0}}


def prepared(root: Path, first: list[dict[str, Any]], **blocks: Any) -> Prepared:
    tree = {"study": "here", "model": VAE, "search": {"trials": 9, **blocks.pop("search", {}), "first": first}}
    return prepare(study_of_tree({**tree, **blocks}, origin="here"), default_root=str(root))


def test_entries_are_stored_cheapest_first_each_once_and_without_the_baseline(corpus_root: Path) -> None:
    first = [
        {"family": "vae", "h_dim": 8},
        {"family": "stat", "decay": 0.5},
        {"family": "vae", "h_dim": 16},
        {"family": "stat", "decay": 0.5},
    ]

    ready = prepared(corpus_root, first, model=[VAE, STAT], baseline={"family": "vae", "h_dim": 16})

    assert ready.study.search.first == [first[1], first[0]]
    assert ready.study.tried_first == {0: ready.study.baseline, 1: first[1], 2: first[0]}
    assert ready.warnings == ()


def test_a_family_that_the_clips_cannot_serve_takes_its_entries_with_it_and_others_are_renamed(
    corpus_root: Path,
) -> None:
    # Clips of 1 s have 32 frames: too few for crops of 64.
    model = [{**VAE, "z_dim": {"low": 2, "high": 8}}, CAE]
    first = [{"family": "cae", "cae.z_dim": 2}, {"family": "vae", "vae.z_dim": 4, "h_dim": 8}]

    ready = prepared(corpus_root, first, model=model)

    assert ready.study.search.first == [{"z_dim": 4, "h_dim": 8}]
    assert ready.warnings[0].startswith("model: dropped cae: ")
    assert ready.warnings[1] == "search.first: left out family cae, cae.z_dim 2: the family cae was dropped"


def test_an_entry_that_the_clips_cannot_serve_is_left_out_with_a_warning(corpus_root: Path) -> None:
    ready = prepared(corpus_root, [{"context": 99, "h_dim": 8}, {"context": 3}])

    assert ready.study.search.first == [{"context": 3}]
    (warning,) = ready.warnings
    assert warning.startswith("search.first: left out context 99, h_dim 8: ")


def test_an_entry_with_a_dropped_source_of_training_clips_is_left_out(corpus_root: Path) -> None:
    train_on = {"choices": ["development", "additional"]}

    ready = prepared(
        corpus_root, [{"train_on": "additional"}, {"train_on": "development"}], corpus={"train_on": train_on}
    )

    assert ready.study.search.first == [{"train_on": "development"}]
    assert any(w.startswith("search.first: left out train_on additional: ") for w in ready.warnings)


def test_without_any_entry_that_can_be_served_the_study_has_no_portfolio(corpus_root: Path) -> None:
    assert "first" not in prepared(corpus_root, [{"context": 99}]).study.tree["search"]


@pytest.mark.parametrize(("trials", "warns"), [(2, True), (3, False)])
def test_a_budget_smaller_than_the_portfolio_is_warned_of(corpus_root: Path, trials: int, warns: bool) -> None:
    ready = prepared(corpus_root, [{"h_dim": 8}, {"h_dim": 9}], baseline={"h_dim": 16}, search={"trials": trials})

    said = "search.trials: the budget of 2 ends before the 3 trials that are tried first"
    assert [warning.startswith(said) for warning in ready.warnings] == [True] * warns


# Entries of other studies and recipes.


def finish(study: TinyStudy, values: dict[int, tuple[int, float | None]]) -> None:
    """Ends trials with h_dim and a value; a trial without a value is pruned."""
    first = {number: {"h_dim": h_dim} for number, (h_dim, _) in values.items()}
    worker = study.worker(quick=True)
    for _, value in values.values():
        hold = study.ledger.claim("worker", first=first)
        assert hold is not None
        worker.suggestions.settled_trial(hold).set_user_attr("threads", 1)
        state = "pruned" if value is None else "complete"
        hold.finish(state, values=[value or 0.0], scores=np.zeros(len(study.stored.truth)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def database_of_other(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    study = made(f"sqlite:///{folder / 'made.db'}", corpus_root, trials=9, study="other")
    finish(study, {0: (20, 0.7), 1: (60, 0.6), 2: (30, 0.9), 3: (40, None), 4: (50, 0.5)})
    return whole_copy(study, folder / "other.db")


@pytest.fixture
def other(database_of_other: Path, corpus_root: Path, tmp_path: Path) -> TinyStudy:
    """A study whose trials 2, 0 and 1 are the best, in this order; its trial 3 was pruned."""
    shutil.copy(database_of_other, tmp_path / "tiny.db")
    return made(f"sqlite:///{tmp_path / 'tiny.db'}", corpus_root, trials=9, study="other")


def opened(first: Any, **blocks: Any) -> str:
    tree = {"study": "new", "model": VAE | {"h_dim": {"low": 8, "high": 40}}, "search": {"first": first}, **blocks}
    return to_yaml(tree)


def found(study: Study, url: str) -> list[dict[str, Any]]:
    return with_choices(study, url).search.first or []


def test_the_best_trials_of_a_study_become_entries_with_the_values_that_lie_in_the_ranges_here(
    other: TinyStudy,
) -> None:
    study = load(opened([{"h_dim": 8}, {"from": ["other"], "top": 3}]))

    # Their context is 3. Trial 1 has h_dim 60, which is beyond the range here.
    assert found(study, other.url) == [
        {"h_dim": 8},
        {"context": 3, "h_dim": 30},
        {"context": 3, "h_dim": 20},
        {"context": 3},
    ]


def test_five_of_them_unless_the_study_says_how_many(other: TinyStudy) -> None:
    assert len(found(load(opened({"from": ["other"]})), other.url)) == 3, "of four complete ones, two are the same here"
    assert found(load(opened([{"from": ["other"], "top": 1}])), other.url) == [{"context": 3, "h_dim": 30}]


def test_a_study_s_file_stands_for_the_stored_study_and_a_recipe_s_file_for_its_values(other: TinyStudy) -> None:
    Path("other.yaml").write_text(to_yaml(dict(other.stored.tree)))
    Path("recipe.yaml").write_text(to_yaml(export_recipe(other.storage, other.stored, number=0).tree()))

    study = load(opened([{"from": ["recipe.yaml", "other.yaml"], "top": 1}]))

    assert found(study, other.url) == [{"context": 3, "h_dim": 20}, {"context": 3, "h_dim": 30}]


def test_a_trial_without_a_value_in_the_ranges_here_is_passed_over_and_equal_ones_count_once(other: TinyStudy) -> None:
    ranges = {"family": "vae", "h_dim": {"low": 45, "high": 60, "step": 5}}

    # Of h_dim 30, 20, 60 and 50, the best first.
    assert found(load(opened({"from": ["other"], "top": 2}, model=ranges)), other.url) == [{"h_dim": 60}, {"h_dim": 50}]
    context = {"family": "vae", "context": {"low": 3, "high": 4}}
    assert found(load(opened({"from": ["other"], "top": 2}, model=context)), other.url) == [{"context": 3}]


def test_of_two_branches_of_a_family_that_with_the_recipe_s_features_is_taken(other: TinyStudy) -> None:
    score = {"choices": ["mahalanobis", "knn"]}
    whole = {"family": "stat", "name": "whole", "features": {"kind": "clip_spectrum"}, "score": score}
    model = [VAE, {"family": "stat", "score": score}, whole]
    tree = {"study": "r", "features": {"kind": "clip_spectrum"}, "model": {"family": "stat", "score": "knn"}}
    Path("whole.yaml").write_text(to_yaml(tree))
    Path("bands.yaml").write_text(to_yaml({**tree, "features": {"kind": "logmel"}}))

    assert found(load(opened([{"from": ["whole.yaml", "bands.yaml"]}], model=model)), other.url) == [
        {"family": "whole", "whole.score": "knn"},
        {"family": "stat", "stat.score": "knn"},
    ]


def test_of_several_families_only_trials_of_families_here_are_taken(other: TinyStudy) -> None:
    text = opened([{"from": ["other"], "top": 1}], model=[STAT, VAE])

    assert found(load(text), other.url) == [{"family": "vae", "context": 3, "h_dim": 30}]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("othr", {}, "othr: no such file, and .* holds .*; did you mean other?"),
    ("vae", {}, "vae is a study file that ships, and .* holds .*: search it first, or name a recipe"),
    ("open.yaml", {}, "open.yaml is the file of the study new, and .* holds .*: search it first"),
    ("gone.yaml", {}, "gone.yaml: no such file, and .* holds .*: name a study that it holds, or a recipe that"),
    ("bad.yaml", {}, "bad.yaml, line 2: not valid YAML: "),
    ("other", {"model": STAT}, "other is of the family vae, and this study of stat: name a study or recipe of"),
    (
        "other",
        {"model": {"family": "vae", "kld_weight": {"low": 0.5, "high": 1.0}}},
        "other has no value for an open setting of this study \\(kld_weight\\) that lies in its range",
    ),
    ("recipe.yaml", {"model": STAT}, "recipe.yaml is of the family vae, and this study of stat"),
    ("empty", {}, "empty has no complete trial yet: search it first"),
    ("several", {}, "several has several objectives \\(auc, parameters\\), and so no best trials. Export"),
    ("broken.yaml", {}, "broken.yaml, line 1: modle is not a setting"),
]


def test_a_source_that_is_missing_or_of_another_space_is_refused_with_its_place(other: TinyStudy) -> None:
    made(other.url, other.root, study="empty")
    made(other.url, other.root, study="several", validation={"metric": ["auc", "parameters"]})
    Path("recipe.yaml").write_text(to_yaml(export_recipe(other.storage, other.stored, number=0).tree()))
    Path("broken.yaml").write_text("modle: 3\n")
    Path("bad.yaml").write_text("model: {family: [vae\n")
    Path("open.yaml").write_text(opened([]))
    for source, blocks, message in REFUSED:
        text = opened([{"from": ["recipe.yaml" if blocks == {} else source, source]}], **blocks)
        line = next(n for n, line in enumerate(text.splitlines(), start=1) if line.strip() == f"- {source}")
        place = 0 if blocks else 1

        with pytest.raises(
            StudyFileError,
            match=f"^study.yaml, line {line}: search.first.0.from.{place} cannot be used: .*{message}",
        ):
            with_choices(load(text), other.url)


def test_a_source_in_a_storage_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"search.first.0.from.0 cannot be used: .*there is no study storage"):
        with_choices(load(opened([{"from": ["other"]}])), f"sqlite:///{tmp_path / 'none.db'}")


def stored(text: str, url: str, root: Path) -> StoredStudy:
    """Creates or joins the study of a file, as `offkey search` does."""
    ready = prepare(with_choices(load(text), url), default_root=str(root))
    storage = StudyStorage(url)
    return create_or_join(storage, ready.study, ready.corpus, ready.validation_data.truth)


def test_what_was_found_stays_when_the_other_study_moves_on(other: TinyStudy, corpus_root: Path) -> None:
    text = opened([{"from": ["other"], "top": 1}, {"h_dim": 8}])
    created = stored(text, other.url, corpus_root)
    finish(other, {5: (25, 0.99)})

    joined = stored(text, other.url, corpus_root)

    assert joined.uid == created.uid
    assert joined.first == created.first == [{"context": 3, "h_dim": 30}, {"h_dim": 8}]


def test_a_study_is_joined_without_its_sources(other: TinyStudy, corpus_root: Path) -> None:
    text = opened([{"from": ["other"], "top": 1}])
    created = stored(text, other.url, corpus_root)
    other.ledger.delete()

    assert stored(text, other.url, corpus_root).first == created.first
    by_name = prepare(with_choices(created.study(), other.url), default_root=None)
    again = create_or_join(StudyStorage(other.url), by_name.study, by_name.corpus, by_name.validation_data.truth)
    assert again.uid == created.uid


def test_two_processes_that_create_a_study_while_its_source_moves_on_share_the_portfolio_of_the_first(
    other: TinyStudy, corpus_root: Path
) -> None:
    text = opened([{"from": ["other"], "top": 1}])
    late = prepare(with_choices(load(text), other.url), default_root=str(corpus_root))
    finish(other, {5: (25, 0.99)})
    created = stored(text, other.url, corpus_root)

    joined = create_or_join(StudyStorage(other.url), late.study, late.corpus, late.validation_data.truth)

    assert late.study.search.first == [{"context": 3, "h_dim": 30}]
    assert joined.first == created.first == [{"context": 3, "h_dim": 25}]


def test_another_portfolio_is_another_study(other: TinyStudy, corpus_root: Path) -> None:
    top: dict[str, Any] = {"from": ["other"], "top": 1}
    stored(opened([top]), other.url, corpus_root)

    for other_first in ([{**top, "top": 2}], [{"h_dim": 9}], [top, {"h_dim": 9}], []):
        with pytest.raises(StudyError, match=r"search.first: stored \[\{'from': \['other'\], 'top': 1\}\], here"):
            stored(opened(other_first), other.url, corpus_root)


def test_its_entries_written_out_are_the_same_study(other: TinyStudy, corpus_root: Path) -> None:
    created = stored(opened([{"from": ["other"], "top": 1}]), other.url, corpus_root)

    assert stored(opened([{"context": 3, "h_dim": 30}]), other.url, corpus_root).uid == created.uid
