"""Each test evaluation is counted in the storage of its study: which clips it used, and which recipe it measured."""

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
from search.evaluation.decisions import Decisions
from search.evaluation.interval import Interval
from search.storage import database
from search.storage.counted_evaluations import (
    NO_STORAGE,
    MeasuredOnTest,
    TestEvaluationRow,
    TestEvaluations,
    clips_digest,
    enter_test_evaluation,
    latest_evaluation_of,
    recipe_digest,
)
from search.storage.study_storage import open_storage
from search.storage.tables import database_now
from search.study.recipe import Recipe, ValidationSettings
from search.validation.split import held_out_clips

if TYPE_CHECKING:
    from features.clips.clip import Clip
    from search.detector.detector import Detector

CPU = torch.device("cpu")

#: Why an AUC has no interval.
TOO_FEW = "no interval: it takes 5 normal clips"

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


def test_the_count_distinguishes_a_first_evaluation_a_repeat_and_another_recipe(
    storage_url: str, held_out: tuple[Clip, ...]
) -> None:
    one, other = recipe_of(), recipe_of(model={"family": "stat", "decay": 0.5})

    counts = [enter_test_evaluation(storage_url, held_out, recipe, 0.7, TOO_FEW) for recipe in (one, one, other, one)]

    clips = len(held_out)
    assert counts[0] == TestEvaluations(1, 1, clips=clips)
    assert counts[1:] == [TestEvaluations(*numbers, clips=clips, seen=clips) for numbers in ((2, 1), (3, 2), (4, 2))]


@on_both_databases
def test_an_evaluation_counts_for_each_set_that_shares_a_clip_with_it(
    storage_url: str, held_out: tuple[Clip, ...]
) -> None:
    one, other = recipe_of(), recipe_of(validation={"seed": 1})
    first, second, third = held_out[:6], held_out[4:10], held_out[10:]

    def evaluate(clips: tuple[Clip, ...], recipe: Recipe = one) -> TestEvaluations:
        return enter_test_evaluation(storage_url, clips, recipe, 0.7, TOO_FEW)

    assert evaluate(first) == TestEvaluations(1, 1, clips=6)
    assert evaluate(third) == TestEvaluations(1, 1, clips=len(held_out) - 10)  # shares no clip with the first set
    assert evaluate(second, other) == TestEvaluations(2, 2, clips=6, seen=2)
    assert evaluate(second, other) == TestEvaluations(3, 2, clips=6, seen=6)
    assert evaluate(first) == TestEvaluations(4, 2, clips=6, seen=6)
    assert evaluate(held_out) == TestEvaluations(6, 2, clips=len(held_out), seen=len(held_out))


@pytest.mark.parametrize("change", [{"label": None}, {"name": "elsewhere"}, {"split": "train"}])
def test_a_clip_of_an_earlier_evaluation_is_recognised_by_its_contents(
    storage_url: str, held_out: tuple[Clip, ...], change: dict[str, Any]
) -> None:
    enter_test_evaluation(storage_url, held_out[:5], recipe_of(), 0.7, TOO_FEW)

    again = enter_test_evaluation(
        storage_url, [replace(clip, **change) for clip in held_out[4:]], recipe_of(), 0.7, TOO_FEW
    )

    assert (again.count, again.seen) == (2, 1)


def test_a_row_keeps_clips_time_recipe_and_auc(storage_url: str, held_out: tuple[Clip, ...]) -> None:
    enter_test_evaluation(storage_url, held_out, recipe_of(), 0.75, TOO_FEW)

    with engine_of(storage_url).connect() as connection:
        row = connection.execute(select(TestEvaluationRow.__table__)).one()
        now = connection.execute(select(database_now())).scalar_one()
    assert (row.recipe, row.auc, row.clips) == ("levels", 0.75, clips_digest(held_out))
    assert now - 60 < row.looked <= now


@on_both_databases
def test_the_latest_evaluation_of_a_recipe_is_known_with_its_interval_and_decisions(
    storage_url: str, held_out: tuple[Clip, ...]
) -> None:
    one, other, neither = (
        recipe_of(),
        recipe_of(model={"family": "stat", "decay": 0.5}),
        recipe_of(validation={"seed": 3}),
    )
    enter_test_evaluation(storage_url, held_out, one, 0.6, TOO_FEW)
    enter_test_evaluation(storage_url, held_out, one, 0.7, Interval(0.6, 0.8), Decisions(60, 3, 44, 41))
    enter_test_evaluation(storage_url, held_out[1:], other, 0.8, TOO_FEW)

    engine = engine_of(storage_url)
    renamed = recipe_of(study="another-name")

    assert latest_evaluation_of(engine, renamed) == MeasuredOnTest(
        auc=0.7,
        interval=Interval(0.6, 0.8),
        why_no_interval="",
        decisions=Decisions(60, 3, 44, 41),
        evaluations=TestEvaluations(3, 2, clips=len(held_out), seen=len(held_out)),
    )
    of_other = latest_evaluation_of(engine, other)
    assert of_other is not None
    assert (of_other.auc, of_other.interval, of_other.why_no_interval, of_other.decisions) == (0.8, None, TOO_FEW, None)
    assert latest_evaluation_of(engine, neither) is None


@on_both_databases
def test_evaluations_at_the_same_moment_are_all_kept_and_one_counts_them_all(
    storage_url: str, held_out: tuple[Clip, ...]
) -> None:
    recipes = [recipe_of(training={"seed": seed, "threads": 1}) for seed in range(6)]

    with ThreadPoolExecutor(6) as pool:
        counts = list(
            pool.map(lambda recipe: enter_test_evaluation(storage_url, held_out, recipe, 0.7, TOO_FEW), recipes)
        )

    assert max(test_evaluations.count or 0 for test_evaluations in counts) == 6
    assert enter_test_evaluation(storage_url, held_out, recipes[0], 0.7, TOO_FEW) == TestEvaluations(
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
def test_a_storage_from_a_version_that_did_not_count_begins_to_count(
    storage_url: str, held_out: tuple[Clip, ...]
) -> None:
    make_older(storage_url, "3")
    assert not inspect(engine_of(storage_url)).has_table(TestEvaluationRow.__tablename__)

    assert enter_test_evaluation(storage_url, held_out, recipe_of(), 0.7, TOO_FEW) == TestEvaluations(
        1, 1, clips=len(held_out)
    )


@on_both_databases
def test_evaluations_without_a_list_of_clips_count_for_the_same_set_and_are_mentioned_for_another(
    storage_url: str, held_out: tuple[Clip, ...]
) -> None:
    for _ in range(2):
        enter_test_evaluation(storage_url, held_out, recipe_of(), 0.7, TOO_FEW)
    make_older(storage_url, "4")

    another = enter_test_evaluation(storage_url, held_out[1:], recipe_of(), 0.7, TOO_FEW)
    the_same = enter_test_evaluation(storage_url, held_out, recipe_of(), 0.7, TOO_FEW)

    clips = len(held_out)
    assert another == TestEvaluations(1, 1, clips=clips - 1, unlisted=2)
    assert "as far as this storage knows; it does not know the clips of 2 that an earlier version entered" in (
        another.in_words
    )
    assert the_same == TestEvaluations(4, 1, clips=clips, seen=clips)


def test_an_evaluation_of_a_version_that_kept_no_interval_says_so(storage_url: str, held_out: tuple[Clip, ...]) -> None:
    enter_test_evaluation(storage_url, held_out, recipe_of(), 0.7, Interval(0.6, 0.8))
    make_older(storage_url, "8")
    with open_storage(storage_url) as storage:  # brings it up to date
        shown = latest_evaluation_of(storage.engine, recipe_of())

    assert shown is not None
    assert (shown.interval, shown.why_no_interval) == (None, "no interval: an earlier version of Offkey entered it")


@pytest.mark.parametrize("url", ["sqlite:///{}/none.db", "sqlite:///file:{}/none.db?uri=true"])
def test_no_storage_is_created_where_there_is_none(tmp_path: Path, held_out: tuple[Clip, ...], url: str) -> None:
    assert enter_test_evaluation(url.format(tmp_path), held_out, recipe_of(), 0.7, TOO_FEW) == NO_STORAGE
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("empty_url", ["sqlite", "postgresql"], indirect=True)
def test_a_database_without_studies_is_no_storage_and_gets_no_tables(
    empty_url: str, held_out: tuple[Clip, ...]
) -> None:
    if empty_url.startswith("sqlite"):
        sqlite3.connect(empty_url.removeprefix("sqlite:///")).execute("CREATE TABLE others (id INTEGER)")

    assert enter_test_evaluation(empty_url, held_out, recipe_of(), 0.7, TOO_FEW) == NO_STORAGE
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
def test_a_set_of_clips_is_identified_by_contents_and_labels(
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
def test_a_recipe_is_identified_by_the_settings_that_its_metrics_depend_on(
    changes: dict[str, Any], is_same: bool
) -> None:
    assert (recipe_digest(recipe_of(**changes)) == recipe_digest(recipe_of())) == is_same


@pytest.mark.parametrize(
    ("test_evaluations", "sentence"),
    [
        (
            TestEvaluations(1, 1),
            "This is the first test evaluation on the held-out clips, as far as this storage knows",
        ),
        (
            TestEvaluations(3, 1),
            "were used in 3 test evaluations, this one included, all of this recipe: nothing was chosen by them",
        ),
        (
            TestEvaluations(5, 4),
            "were used in 5 test evaluations, this one included, of 4 different recipes: the best test AUC among "
            "these is biased upwards",
        ),
        (
            TestEvaluations(3, 2, clips=120, seen=80),
            "80 of the 120 held-out test clips were used before: 3 test evaluations, this one included, used at least "
            "one of them, of 2 different recipes: the best test AUC among these is biased upwards",
        ),
        (NO_STORAGE, "are not counted: no study storage here (--storage names one)"),
    ],
)
def test_a_count_is_reported_with_its_meaning(test_evaluations: TestEvaluations, sentence: str) -> None:
    assert sentence in test_evaluations.in_words


def train(root: Path, folder: str, tell: Callable[[str], None], *, storage: str | None) -> Detector:
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
def test_a_storage_that_cannot_be_written_gives_a_warning_and_the_detector_is_saved(
    storage_url: str, corpus_root: Path, storage: str, reason: str
) -> None:
    path, messages = storage_url.removeprefix("sqlite:///"), list[str]()
    Path(f"{path}-broken").write_bytes(b"no database " * 100)

    detector = train(corpus_root, "bundle", messages.append, storage=storage.format(path))

    assert detector.test_evaluations.count is None
    assert "could not be written" in detector.test_evaluations.in_words
    assert [line for line in messages if line.startswith("this test evaluation is not counted") and reason in line]
    assert "could not be written" in Path("bundle/README.md").read_text()


def test_a_url_that_is_no_storage_is_refused_before_any_work(corpus_root: Path) -> None:
    with pytest.raises(StorageError, match="must be sqlite:///FILE or postgresql://"):
        train(corpus_root, "bundle", print, storage="mysql://host/offkey")
    assert not Path("bundle").exists()


def test_without_a_test_auc_no_evaluation_is_counted(tmp_path: Path, corpus_root: Path, storage_url: str) -> None:
    root = Path(shutil.copytree(corpus_root, tmp_path / "few"))
    for path in root.rglob("anomaly_*_0000000[1-5].wav"):
        path.unlink()
    messages: list[str] = []

    detector = train(root, "bundle", messages.append, storage=storage_url)

    assert detector.test is None
    assert messages == [
        "compressor/00, compressor/02, compressor/04: too few labelled clips for a held-out test",
    ]
    with engine_of(storage_url).connect() as connection:
        assert connection.execute(select(TestEvaluationRow.look)).all() == []


def test_a_folder_that_exists_is_refused_before_any_test_evaluation(corpus_root: Path, storage_url: str) -> None:
    Path("bundle").mkdir()

    with pytest.raises(BundleError, match="exists already"):
        train(corpus_root, "bundle", print, storage=storage_url)
    with engine_of(storage_url).connect() as connection:
        assert connection.execute(select(TestEvaluationRow.look)).all() == []
