"""Which clips are for training, which are withheld, which validate trials, and which are held out."""

from __future__ import annotations

import ast
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

import search
from features.clips.clip import ANOMALY, NORMAL, Clip, Source, Split
from features.clips.corpus import Corpus, read_corpus
from search.artifacts.checkpoints import Checkpoints
from search.errors import StudyError
from search.preparation.prepared import prepare
from search.storage.stored_study import create_or_join
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.recipe import Recipe, ValidationSettings
from search.study.study_file import study_of_tree
from search.study.trial_recipe import trial_recipe
from search.training.objective import objective
from search.validation.split import (
    blind,
    held_out_clips,
    labelled_test_clips,
    serves,
    training_clips,
    undefined_ids,
    validation_clips,
)
from search.validation.views import validation_data_of
from search.workers.worker import Worker
from tests.support.detectors import detector_of

SETTINGS = ValidationSettings()


def clips(
    count: int, *, machine: str = "fan", machine_id: str = "00", split: Split = "test", label: int | None = NORMAL,
    source: Source = "development", first: int = 0,
) -> list[Clip]:  # fmt: skip
    """Clips of one stratum."""
    word = {NORMAL: "normal", ANOMALY: "anomaly", None: "unknown"}[label]
    data_set = "dev_data" if source == "development" else "eval_data"
    names = [
        f"{data_set}/{machine}/{split}/{word}_id_{machine_id}_{number:08d}.wav"
        for number in range(first, first + count)
    ]
    return [
        Clip(
            path=Path("root", name), name=name, machine=machine, machine_id=machine_id, split=split, label=label,
            source=source, domain=None, attributes="", sample_rate=16000, samples=16000, digest=name,
        )
        for name in names
    ]  # fmt: skip


def corpus_of(*groups: Sequence[Clip]) -> Corpus:
    return Corpus(root=Path("root"), clips=tuple(clip for group in groups for clip in group), unreadable=())


def validation_names(corpus: Corpus, settings: ValidationSettings = SETTINGS) -> list[str]:
    """The names of the validation clips."""
    return [clip.name for clip in labelled_test_clips(blind(corpus, settings))]


def held_out_names(corpus: Corpus, settings: ValidationSettings = SETTINGS) -> list[str]:
    return [clip.name for clip in held_out_clips(corpus, settings)]


def recipe_with(**training: Any) -> Recipe:
    return Recipe.model_validate({"study": "split", "model": {"family": "vae"}, "training": training})


STRATA = st.lists(
    st.tuples(
        st.sampled_from(["fan", "pump"]),
        st.sampled_from(["00", "02"]),
        st.sampled_from([NORMAL, ANOMALY]),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda stratum: stratum[:3],
)
BY_SET_OR_PROXY = st.sampled_from([ValidationSettings(clips="development"), ValidationSettings(metric="proxy")])
SPLITS = st.builds(ValidationSettings, share=st.floats(0.05, 0.95), seed=st.integers(0, 5))


def corpus_of_strata(strata: Sequence[tuple[str, str, int, int]]) -> Corpus:
    return corpus_of(*(clips(n, machine=m, machine_id=i, label=label) for m, i, label, n in strata))


@settings(max_examples=60, deadline=None, database=None)
@given(STRATA, SPLITS)
def test_each_labelled_clip_is_for_validation_or_held_out_and_none_is_both(
    strata: list[tuple[str, str, int, int]], settings: ValidationSettings
) -> None:
    corpus = corpus_of_strata(strata)

    both = validation_names(corpus, settings) + held_out_names(corpus, settings)

    assert sorted(both) == sorted(clip.name for clip in corpus.clips)


@settings(max_examples=60, deadline=None, database=None)
@given(STRATA, st.one_of(SPLITS, BY_SET_OR_PROXY))
def test_the_validation_clips_are_those_whose_labels_a_search_sees(
    strata: list[tuple[str, str, int, int]], settings: ValidationSettings
) -> None:
    corpus = corpus_of_strata(strata)

    assert validation_clips(corpus, settings) == labelled_test_clips(blind(corpus, settings))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_by_set_the_development_clips_validate_and_the_evaluation_clips_are_held_out(share: float) -> None:
    sets: tuple[Source, Source] = ("development", "evaluation")
    of_set = {
        of: [clip for label in (NORMAL, ANOMALY) for clip in clips(5, source=of, machine_id=machine_id, label=label)]
        for of, machine_id in zip(sets, ("00", "01"), strict=True)
    }
    corpus, by_set = corpus_of(*of_set.values()), ValidationSettings(clips="development", share=share)

    assert validation_names(corpus, by_set) == [clip.name for clip in of_set["development"]]
    assert held_out_names(corpus, by_set) == [clip.name for clip in of_set["evaluation"]]
    hidden = {clip.label for clip in blind(corpus, by_set).clips if clip.source == "evaluation"}
    assert hidden == {None}


@settings(max_examples=60, deadline=None, database=None)
@given(STRATA, SPLITS)
def test_each_machine_id_and_label_is_divided_by_the_share(
    strata: list[tuple[str, str, int, int]], settings: ValidationSettings
) -> None:
    corpus = corpus_of_strata(strata)

    chosen = Counter(
        (clip.machine, clip.machine_id, clip.label) for clip in labelled_test_clips(blind(corpus, settings))
    )

    for machine, machine_id, label, count in strata:
        share = chosen[machine, machine_id, label]
        if count == 1:
            assert share == 1  # it is for validation: a search without it would be blind to its ID
        else:
            assert 1 <= share <= count - 1
            assert share in (round(settings.share * count), 1, count - 1)


@settings(max_examples=60, deadline=None, database=None)
@given(STRATA, SPLITS, st.randoms(use_true_random=False))
def test_the_order_of_the_clips_changes_nothing(
    strata: list[tuple[str, str, int, int]], settings: ValidationSettings, random: Any
) -> None:
    corpus = corpus_of_strata(strata)
    shuffled = list(corpus.clips)
    random.shuffle(shuffled)

    assert set(held_out_names(corpus_of(shuffled), settings)) == set(held_out_names(corpus, settings))


def test_the_order_changes_nothing_where_two_folders_hold_clips_of_one_name() -> None:
    twins = clips(1) + clips(1, source="evaluation")

    assert held_out_names(corpus_of(twins)) == held_out_names(corpus_of(twins[::-1]))


def test_a_clip_whose_name_is_not_utf_8_is_divided_like_any_other() -> None:
    odd = [
        replace(clip, path=Path(f"root/\udcff{number}.wav"), name=f"\udcff{number}.wav")
        for number, clip in enumerate(clips(4))
    ]

    assert len(held_out_names(corpus_of(odd))) == 2


@settings(max_examples=60, deadline=None, database=None)
@given(STRATA, SPLITS)
def test_clips_of_other_strata_change_nothing(
    strata: list[tuple[str, str, int, int]], settings: ValidationSettings
) -> None:
    alone = corpus_of_strata(strata)
    others = corpus_of(alone.clips, clips(5, machine="valve"), clips(3, machine="valve", label=ANOMALY))

    assert [name for name in held_out_names(others, settings) if "valve" not in name] == held_out_names(alone, settings)


def test_another_seed_divides_otherwise() -> None:
    corpus = corpus_of(clips(20), clips(20, label=ANOMALY))

    parts = {tuple(held_out_names(corpus, ValidationSettings(seed=seed))) for seed in range(10)}

    assert len(parts) == 10


def test_the_split_is_the_same_on_every_host_and_in_every_release() -> None:
    # Golden: `printf 0/fan/normal_id_00_0000000N.wav | sha256sum` for N = 0…5, sorted, gives 2 4 0 3 1 5; the first
    # half is for validation. A change here changes the validation clips of every stored study.
    corpus = corpus_of(clips(6))

    assert [name[-5] for name in held_out_names(corpus)] == ["1", "3", "5"]


def test_blind_hides_the_held_out_labels_and_nothing_else() -> None:
    corpus = corpus_of(clips(6), clips(7, label=ANOMALY), clips(4, split="train"), clips(2, label=None, first=90))

    seen = blind(corpus, SETTINGS)

    hidden = {before.name for before, after in zip(corpus.clips, seen.clips, strict=True) if before != after}
    assert hidden == set(held_out_names(corpus))
    assert all(clip.label is None for clip in seen.clips if clip.name in hidden)
    assert seen.clips == tuple(replace(c, label=None) if c.name in hidden else c for c in corpus.clips)


def test_a_blinded_corpus_is_blinded_once_for_all() -> None:
    corpus = corpus_of(clips(6), clips(6, label=ANOMALY))

    assert len(held_out_names(blind(corpus, SETTINGS))) < len(held_out_names(corpus))
    assert not set(held_out_names(blind(corpus, SETTINGS))) & set(held_out_names(corpus))


@pytest.mark.parametrize(
    ("normals", "anomalies", "undefined"),
    [(3, 3, []), (3, 0, ["fan/00"]), (0, 3, ["fan/00"]), (0, 0, [])],
)
def test_an_id_with_one_label_has_no_auc(normals: int, anomalies: int, undefined: list[str]) -> None:
    assert undefined_ids(clips(normals) + clips(anomalies, label=ANOMALY)) == undefined


@pytest.mark.parametrize(
    ("train_on", "counts"),
    [
        ("development", {"development": 5}),
        ("additional", {"additional": 7}),
        ("development+additional", {"development": 5, "additional": 7}),
    ],
)
def test_train_on_chooses_the_training_clips(train_on: str, counts: dict[str, int]) -> None:
    corpus = corpus_of(clips(5, split="train"), clips(7, split="train", source="additional"), clips(9))
    recipe = Recipe.model_validate({"study": "s", "model": {"family": "vae"}, "corpus": {"train_on": train_on}})

    parts = training_clips(corpus, recipe)

    assert Counter(clip.source for clip in parts.train + parts.withheld) == counts


@pytest.mark.parametrize(
    ("train_on", "served"), [("development", True), ("additional", False), ("development+additional", False)]
)
def test_training_clips_that_the_corpus_lacks_are_an_error(train_on: str, served: bool) -> None:
    corpus = corpus_of(clips(5, split="train"), clips(5))
    recipe = Recipe.model_validate({"study": "s", "model": {"family": "vae"}, "corpus": {"train_on": train_on}})

    assert serves(corpus, train_on) == served
    if not served:
        with pytest.raises(StudyError, match=f"corpus.train_on is {train_on.replace('+', '.')}, but root does not"):
            training_clips(corpus, recipe)


@pytest.mark.parametrize(
    ("share", "of_one", "of_six", "of_forty"), [(0, 0, 0, 0), (0.1, 0, 1, 4), (0.25, 0, 2, 10), (0.5, 0, 3, 20)]
)
def test_the_calibration_share_of_each_id_is_withheld_from_training(
    share: float, of_one: int, of_six: int, of_forty: int
) -> None:
    corpus = corpus_of(
        clips(1, split="train", machine_id="00"),
        clips(6, split="train", machine_id="02"),
        clips(40, split="train", machine_id="04"),
    )

    parts = training_clips(corpus, recipe_with(calibration_share=share))

    withheld = Counter(clip.machine_id for clip in parts.withheld)
    assert [withheld[machine_id] for machine_id in ("00", "02", "04")] == [of_one, of_six, of_forty]
    assert set(parts.train).isdisjoint(parts.withheld)
    assert set(parts.train) | set(parts.withheld) == set(corpus.clips)


TINY: dict[str, Any] = {
    "study": "poisoned",
    "features": {"n_mels": 32},
    "model": {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4},
    "training": {"learning_rate": 0.01, "batch_size": 64, "epochs": 2, "calibration_share": 0.34, "threads": 1},
}


def value_and_detector(root: Path) -> tuple[float, Any]:
    """A trial's value on the clips below a root, and the final detector of its recipe."""
    corpus, study, trial = read_corpus(root), study_of_tree(TINY, origin="here"), FixedTrial({}, number=1)
    value = objective(trial, study, validation_data_of(corpus, SETTINGS))
    assert isinstance(value, float)
    return value, detector_of(trial_recipe(study, trial), corpus, torch.device("cpu"))


def swap(root: Path, one: Clip, other: Clip) -> None:
    """Exchanges the sounds of two clips, names and all else staying: an exchange of labels, if they have two."""
    first, second = root / one.name, root / other.name
    sound = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(sound)


@pytest.mark.parametrize(
    ("part", "value_changes", "test_auc_changes"), [("held out", False, True), ("validation", True, False)]
)
def test_exchanged_labels_of_held_out_clips_change_the_test_auc_and_no_trial_s_value(
    tmp_path: Path, corpus_root: Path, part: str, value_changes: bool, test_auc_changes: bool
) -> None:
    root = tmp_path / "poisoned"
    shutil.copytree(corpus_root, root)
    corpus = read_corpus(root)
    poisoned = held_out_clips(corpus, SETTINGS) if part == "held out" else labelled_test_clips(blind(corpus, SETTINGS))
    before, detector_before = value_and_detector(root)

    for machine_id in ("00", "02", "04"):
        normals = [clip for clip in poisoned if (clip.machine_id, clip.label) == (machine_id, NORMAL)]
        anomalies = [clip for clip in poisoned if (clip.machine_id, clip.label) == (machine_id, ANOMALY)]
        for normal, anomaly in zip(normals, anomalies, strict=True):
            swap(root, normal, anomaly)
    after, detector_after = value_and_detector(root)

    # Exchanging all labels of an ID turns its AUC into 1 − AUC.
    assert after == pytest.approx(1 - before) if value_changes else after == before
    assert (detector_after.test.auc != detector_before.test.auc) == test_auc_changes
    assert (detector_after.validation == detector_before.validation) != value_changes


def test_withheld_clips_set_thresholds_and_never_train(tmp_path: Path, corpus_root: Path) -> None:
    root = tmp_path / "poisoned"
    shutil.copytree(corpus_root, root)
    corpus = read_corpus(root)
    recipe = study_of_tree(TINY, origin="here").first_recipe()
    anomalies = [clip for clip in corpus.clips if clip.label == ANOMALY]
    value_before, before = value_and_detector(root)

    for withheld, anomaly in zip(training_clips(corpus, recipe).withheld, anomalies, strict=False):
        (root / withheld.name).write_bytes((root / anomaly.name).read_bytes())
    value_after, after = value_and_detector(root)

    assert value_after == value_before
    assert after.test == before.test
    assert after.thresholds.keys() == before.thresholds.keys()
    assert all(after.thresholds[name] != before.thresholds[name] for name in before.thresholds)


SEARCHED: dict[str, Any] = {
    "study": "searched",
    "features": {"n_mels": 16},
    "model": [
        {"family": "vae", "context": 2, "h_dim": {"low": 4, "high": 64}, "z_dim": {"low": 1, "high": 8}},
        {"family": "stat", "decay": {"low": 0.0, "high": 1.0}},
    ],
    "training": {
        "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
        "batch_size": 128,
        "epochs": 2,
        "threads": 1,
    },
    "search": {"trials": 6, "sampler": "tpe", "pruner": "none"},
}


@dataclass(frozen=True)
class SearchedTrial:
    """All that a search knows and uses of a trial."""

    params: dict[str, Any]
    value: float | None
    reports: dict[int, float]
    scores: bytes  # of the validation clips, float64


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[Callable[[Corpus], list[SearchedTrial]]]:
    """Searches a corpus with all its labels, anew each time; gives the trials."""

    def run(corpus: Corpus) -> list[SearchedTrial]:
        url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path_factory.mktemp('search') / 'study.db')}"
        tree = {**SEARCHED, "corpus": {"root": str(corpus.root)}}
        study = prepare(study_of_tree(tree, origin="here"), default_root=None).study
        storage = StudyStorage(url)
        stored = create_or_join(storage, study, corpus, validation_data_of(corpus, study.validation).truth)
        Worker(storage, stored, stored.validation_data(corpus), Checkpoints(None, stored.uid)).run()
        scores = StudyLedger(storage, stored).scores()
        return [
            SearchedTrial(trial.params, trial.value, trial.intermediate_values, scores[trial.number].tobytes())
            for trial in optuna.load_study(study_name=stored.name, storage=storage).trials
        ]

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(tmp_path_factory.mktemp("cache")))
        # Families share time: what a machine takes decides nothing here.
        patched.setattr("search.sampling.families.seconds_of", lambda trial: 1.0)
        yield run


@pytest.fixture(scope="module")
def unpoisoned(searched: Callable[[Corpus], list[SearchedTrial]], corpus_root: Path) -> list[SearchedTrial]:
    return searched(read_corpus(corpus_root))


def with_labels_exchanged(corpus: Corpus, part: Sequence[Clip]) -> Corpus:
    """With the labels of some normal and as many anomalous clips of a part exchanged.

    The parts are drawn by label and by name. Labels are exchanged only where that leaves both parts as they were:
    else the comparison would be of two splits, not of two truths.
    """
    parts, exchanged = held_out_names(corpus), corpus
    for normal in (clip for clip in part if clip.label == NORMAL):
        for anomaly in (clip for clip in part if clip.label == ANOMALY and clip.id_name == normal.id_name):
            now = {clip.name: clip.label for clip in exchanged.clips}
            if (now[normal.name], now[anomaly.name]) != (NORMAL, ANOMALY):
                continue
            labels = now | {normal.name: ANOMALY, anomaly.name: NORMAL}
            changed = replace(
                exchanged, clips=tuple(replace(clip, label=labels[clip.name]) for clip in exchanged.clips)
            )
            if held_out_names(changed) == parts:
                exchanged = changed
    return exchanged


def with_noise_for_sound(corpus: Corpus, part: Sequence[Clip], root: Path) -> Corpus:
    """Copied below a root, with the clips of a part replaced by noise."""
    shutil.copytree(corpus.root, root)
    for seed, clip in enumerate(part):
        soundfile.write(root / clip.name, np.random.default_rng(seed).normal(0, 0.3, clip.samples), clip.sample_rate)
    return read_corpus(root)


@pytest.mark.parametrize("what", ["labels", "sound"])
def test_nothing_that_a_search_does_depends_on_the_clips_that_are_held_out(
    tmp_path: Path,
    corpus_root: Path,
    searched: Callable[[Corpus], list[SearchedTrial]],
    unpoisoned: list[SearchedTrial],
    what: str,
) -> None:
    corpus = read_corpus(corpus_root)
    part = held_out_clips(corpus, SETTINGS)
    poisoned = (
        with_labels_exchanged(corpus, part)
        if what == "labels"
        else with_noise_for_sound(corpus, part, tmp_path / "noise")
    )

    changed = {one.name for one, other in zip(corpus.clips, poisoned.clips, strict=True) if one.label != other.label}
    assert held_out_names(poisoned) == held_out_names(corpus)
    assert changed <= {clip.name for clip in part} and (len(changed) >= 2) == (what == "labels")
    assert searched(poisoned) == unpoisoned


def test_what_a_search_does_depends_on_the_labels_of_the_validation_clips(
    corpus_root: Path, searched: Callable[[Corpus], list[SearchedTrial]], unpoisoned: list[SearchedTrial]
) -> None:
    corpus = read_corpus(corpus_root)
    part = labelled_test_clips(blind(corpus, SETTINGS))
    poisoned = with_labels_exchanged(corpus, part)

    otherwise = searched(poisoned)

    assert held_out_names(poisoned) == held_out_names(corpus)
    assert [trial.value for trial in otherwise] != [trial.value for trial in unpoisoned]
    assert otherwise[0].params == unpoisoned[0].params  # nothing is known before the first
    assert [trial.params for trial in otherwise] != [trial.params for trial in unpoisoned]
    assert {trial.params["family"] for trial in unpoisoned} == {"vae", "stat"}
    assert {len(trial.reports) for trial in unpoisoned if trial.params["family"] == "vae"} == {2}


@pytest.mark.parametrize("validation", [{}, {"share": 0.2, "seed": 3}, {"folds": 2}, {"metric": "pauc"}], ids=str)
def test_no_view_of_a_search_has_a_label_of_a_held_out_clip(corpus_root: Path, validation: dict[str, Any]) -> None:
    settings, corpus = ValidationSettings(**validation), read_corpus(corpus_root)
    validation_data = validation_data_of(corpus, settings)
    hidden = set(held_out_names(corpus, settings))

    assert len(hidden) >= 18
    for view in validation_data.views:
        assert {clip.label for clip in view.clips if clip.name in hidden} == {None}
        assert not hidden & {clip.name for clip in labelled_test_clips(view)}
    assert len(validation_data.truth) == sum(len(labelled_test_clips(view)) for view in validation_data.views)


def test_no_module_that_a_trial_runs_through_can_name_the_held_out_clips() -> None:
    house = Path(search.__file__).parent
    naming = set()
    for module in house.rglob("*.py"):
        source = module.read_text(encoding="utf-8")
        tree = ast.walk(ast.parse(source)) if "held_out_clips" in source else ()
        if any(isinstance(node, ast.Name) and node.id == "held_out_clips" for node in tree):
            naming.add(str(module.relative_to(house)))

    # The split itself, the test evaluation, warnings before a search, and what an analysis leaves out.
    assert naming == {
        "validation/split.py",
        "detector/final_training.py",
        "detector/making.py",
        "preparation/clip_checks.py",
        "analysis/view.py",
    }
