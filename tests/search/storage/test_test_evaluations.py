"""Each evaluation on held-out clips is counted where its study is stored, by which clips and by which recipe."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, inspect, select

from features.clips.corpus import read_corpus
from search.detector.making import make_detector
from search.errors import BundleError, StorageError
from search.storage import database
from search.storage.tables import database_now
from search.storage.test_evaluations import (
    NO_STORAGE,
    TestEvaluationRow,
    TestEvaluations,
    clips_digest,
    enter_test_evaluation,
    recipe_digest,
)
from search.study.recipe import Recipe, ValidationSettings
from search.validation.split import held_out_clips

if TYPE_CHECKING:
    from features.clips.clip import Clip
    from search.detector.detector import Detector

CPU = torch.device("cpu")

on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)

TREE: dict[str, Any] = {
    "study": "levels",
    "features": {"n_mels": 16},
    "model": {"family": "stat"},
    "training": {"seed": 0, "threads": 1},
}


def recipe_of(**changes: Any) -> Recipe:
    return Recipe.model_validate({**TREE, **changes})


@pytest.fixture(scope="module")
def held_out(corpus_root: Path) -> tuple[Clip, ...]:
    return held_out_clips(read_corpus(corpus_root), ValidationSettings())


def engine_of(url: str) -> Engine:
    return database.engine_of_one(database.parse_url(url), lease=30.0)


def test_a_first_look_a_repeat_and_another_recipe_are_told_apart(storage_url: str, held_out: tuple[Clip, ...]) -> None:
    one, other = recipe_of(), recipe_of(model={"family": "stat", "decay": 0.5})

    seen = [enter_test_evaluation(storage_url, held_out, recipe, 0.7) for recipe in (one, one, other, one)]

    clips = len(held_out)
    assert seen[0] == TestEvaluations(1, 1, clips=clips)
    assert seen[1:] == [TestEvaluations(*counts, clips=clips, seen=clips) for counts in ((2, 1), (3, 2), (4, 2))]


@on_both_databases
def test_a_look_counts_for_each_set_that_shares_a_clip_with_it(storage_url: str, held_out: tuple[Clip, ...]) -> None:
    one, other = recipe_of(), recipe_of(validation={"seed": 1})
    first, second, third = held_out[:6], held_out[4:10], held_out[10:]

    def look(clips: tuple[Clip, ...], recipe: Recipe = one) -> TestEvaluations:
        return enter_test_evaluation(storage_url, clips, recipe, 0.7)

    assert look(first) == TestEvaluations(1, 1, clips=6)
    assert look(third) == TestEvaluations(1, 1, clips=len(held_out) - 10)  # other ones
    assert look(second, other) == TestEvaluations(2, 2, clips=6, seen=2)
    assert look(second, other) == TestEvaluations(3, 2, clips=6, seen=6)
    assert look(first) == TestEvaluations(4, 2, clips=6, seen=6)
    assert look(held_out) == TestEvaluations(6, 2, clips=len(held_out), seen=len(held_out))


@pytest.mark.parametrize("change", [{"label": None}, {"name": "elsewhere"}, {"split": "train"}])
def test_a_clip_that_was_looked_at_is_known_by_its_contents(
    storage_url: str, held_out: tuple[Clip, ...], change: dict[str, Any]
) -> None:
    enter_test_evaluation(storage_url, held_out[:5], recipe_of(), 0.7)

    again = enter_test_evaluation(storage_url, [replace(clip, **change) for clip in held_out[4:]], recipe_of(), 0.7)

    assert (again.count, again.seen) == (2, 1)


def test_what_was_looked_at_when_by_which_recipe_is_kept(storage_url: str, held_out: tuple[Clip, ...]) -> None:
    enter_test_evaluation(storage_url, held_out, recipe_of(), 0.75)

    with engine_of(storage_url).connect() as connection:
        row = connection.execute(select(TestEvaluationRow.__table__)).one()
        now = connection.execute(select(database_now())).scalar_one()
    assert (row.recipe, row.auc, row.clips) == ("levels", 0.75, clips_digest(held_out))
    assert now - 60 < row.looked <= now


@on_both_databases
def test_of_looks_at_the_same_moment_none_is_lost_and_one_has_seen_all(
    storage_url: str, held_out: tuple[Clip, ...]
) -> None:
    recipes = [recipe_of(training={"seed": seed, "threads": 1}) for seed in range(6)]

    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(lambda recipe: enter_test_evaluation(storage_url, held_out, recipe, 0.7), recipes))

    assert max(test_evaluations.count or 0 for test_evaluations in seen) == 6
    assert enter_test_evaluation(storage_url, held_out, recipes[0], 0.7) == TestEvaluations(
        7, 6, clips=len(held_out), seen=len(held_out)
    )


def make_older(url: str, revision: str) -> None:
    """Takes a storage's tables back to those of an earlier version."""
    engine, config = engine_of(url), Config()
    config.set_main_option("script_location", database._MIGRATIONS)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()


@on_both_databases
def test_a_storage_of_before_looks_were_counted_begins_to_count(storage_url: str, held_out: tuple[Clip, ...]) -> None:
    make_older(storage_url, "3")
    assert not inspect(engine_of(storage_url)).has_table(TestEvaluationRow.__tablename__)

    assert enter_test_evaluation(storage_url, held_out, recipe_of(), 0.7) == TestEvaluations(1, 1, clips=len(held_out))


@on_both_databases
def test_looks_of_before_each_clip_was_kept_count_for_the_same_set_and_are_told_of_at_another(
    storage_url: str, held_out: tuple[Clip, ...]
) -> None:
    for _ in range(2):
        enter_test_evaluation(storage_url, held_out, recipe_of(), 0.7)
    make_older(storage_url, "4")

    another = enter_test_evaluation(storage_url, held_out[1:], recipe_of(), 0.7)
    the_same = enter_test_evaluation(storage_url, held_out, recipe_of(), 0.7)

    clips = len(held_out)
    assert another == TestEvaluations(1, 1, clips=clips - 1, unlisted=2)
    assert "first time, as far as this storage knows: of 2 looks that an earlier version entered" in another.in_words
    assert the_same == TestEvaluations(4, 1, clips=clips, seen=clips)


@pytest.mark.parametrize("url", ["sqlite:///{}/none.db", "sqlite:///file:{}/none.db?uri=true"])
def test_where_there_is_no_storage_none_is_made(tmp_path: Path, held_out: tuple[Clip, ...], url: str) -> None:
    assert enter_test_evaluation(url.format(tmp_path), held_out, recipe_of(), 0.7) == NO_STORAGE
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("empty_url", ["sqlite", "postgresql"], indirect=True)
def test_a_database_without_studies_is_no_storage_and_gets_no_tables(
    empty_url: str, held_out: tuple[Clip, ...]
) -> None:
    if empty_url.startswith("sqlite"):
        sqlite3.connect(empty_url.removeprefix("sqlite:///")).execute("CREATE TABLE others (id INTEGER)")

    assert enter_test_evaluation(empty_url, held_out, recipe_of(), 0.7) == NO_STORAGE
    assert set(inspect(engine_of(empty_url)).get_table_names()) <= {"others"}


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        (lambda clips: reversed(clips), True),
        (lambda clips: [replace(clip, name=f"elsewhere/{clip.name}", path=Path("x.wav")) for clip in clips], True),
        (lambda clips: clips[1:], False),
        (lambda clips: [*clips, clips[0]], False),
        (lambda clips: [replace(clips[0], label=1 - clips[0].label), *clips[1:]], False),
        (lambda clips: [replace(clips[0], digest="0"), *clips[1:]], False),
    ],
    ids=["another order", "other places", "one less", "one twice", "another label", "other contents"],
)
def test_clips_are_known_by_contents_and_labels(
    held_out: tuple[Clip, ...], change: Callable[[tuple[Clip, ...]], Any], is_same: bool
) -> None:
    assert (clips_digest(change(held_out)) == clips_digest(held_out)) == is_same


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"study": "another-name"}, True),
        ({"from": {"study": "levels", "trial": 3}}, True),
        ({"corpus": {"root": "elsewhere"}}, True),
        ({"training": {"seed": 0, "threads": 2}}, True),
        ({"training": {"seed": 1, "threads": 1}}, False),
        ({"model": {"family": "stat", "decay": 0.9}}, False),
        ({"scoring": {"pooling": "max"}}, False),
    ],
)
def test_a_recipe_is_known_by_what_its_figures_depend_on(changes: dict[str, Any], is_same: bool) -> None:
    assert (recipe_digest(recipe_of(**changes)) == recipe_digest(recipe_of())) == is_same


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        (TestEvaluations(1, 1), "were looked at for the first time, as far as this storage knows"),
        (
            TestEvaluations(3, 1),
            "were seen 3 times, this one included, always by this recipe: nothing was chosen by them",
        ),
        (
            TestEvaluations(5, 4),
            "were seen 5 times, this one included, by 4 different recipes: the best of these flatters itself",
        ),
        (
            TestEvaluations(3, 2, clips=120, seen=80),
            "80 of the 120 held-out test clips were seen before: 3 looks, this one included, were at some of them, by "
            "2 different recipes: the best of these flatters itself",
        ),
        (NO_STORAGE, "is not counted: no study storage here (--storage names one)"),
    ],
)
def test_a_count_is_told_with_what_it_means(test_evaluations: TestEvaluations, said: str) -> None:
    assert said in test_evaluations.in_words


def made(root: Path, folder: str, tell: Callable[[str], None], *, storage: str | None) -> Detector:
    recipe = recipe_of(corpus={"root": str(root)})
    return make_detector(recipe, Path(folder), device=CPU, storage=storage, tell=tell)


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("sqlite:///file:{}?mode=ro&uri=true", "attempt to write a readonly database"),
        ("postgresql://nobody@127.0.0.1:1/none", "refused"),
        ("sqlite:///{}-broken", "file is not a database"),
    ],
    ids=["read-only", "away", "broken"],
)
def test_a_storage_that_cannot_be_written_costs_a_warning_and_not_the_detector(
    storage_url: str, corpus_root: Path, storage: str, reason: str
) -> None:
    path, told = storage_url.removeprefix("sqlite:///"), list[str]()
    Path(f"{path}-broken").write_bytes(b"no database " * 100)

    detector = made(corpus_root, "bundle", told.append, storage=storage.format(path))

    assert detector.test_evaluations.count is None
    assert "could not be written" in detector.test_evaluations.in_words
    assert [line for line in told if line.startswith("this test evaluation is not counted") and reason in line]
    assert "could not be written" in Path("bundle/README.md").read_text()


def test_what_is_no_storage_is_refused_before_any_work(corpus_root: Path) -> None:
    with pytest.raises(StorageError, match="must be sqlite:///FILE or postgresql://"):
        made(corpus_root, "bundle", print, storage="mysql://host/offkey")
    assert not Path("bundle").exists()


def test_without_a_test_figure_nothing_was_looked_at(tmp_path: Path, corpus_root: Path, storage_url: str) -> None:
    root = Path(shutil.copytree(corpus_root, tmp_path / "few"))
    for path in root.rglob("anomaly_*_0000000[1-5].wav"):
        path.unlink()
    told: list[str] = []

    detector = made(root, "bundle", told.append, storage=storage_url)

    assert detector.test is None
    assert told == [
        "compressor/00, compressor/02, compressor/04: too few labelled clips for a held-out test",
    ]
    with engine_of(storage_url).connect() as connection:
        assert connection.execute(select(TestEvaluationRow.look)).all() == []


def test_a_folder_that_is_taken_is_refused_before_anybody_looks(corpus_root: Path, storage_url: str) -> None:
    Path("bundle").mkdir()

    with pytest.raises(BundleError, match="exists already"):
        made(corpus_root, "bundle", print, storage=storage_url)
    with engine_of(storage_url).connect() as connection:
        assert connection.execute(select(TestEvaluationRow.look)).all() == []
