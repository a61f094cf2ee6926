"""A study is checked against its recordings: what does not fit is refused or warned of before any work."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
from optuna.distributions import CategoricalDistribution

from features.clips.corpus import read_corpus
from features.errors import CorpusError, UnservedError
from models.labels import Labels
from models.settings import WindowSettings
from search.errors import StudyError
from search.evaluation.evaluate import evaluate
from search.preparation.prepared import Prepared, prepare
from search.study.recipe import ValidationSettings
from search.study.study_file import study_of_tree
from search.validation.split import labelled_test_clips
from search.validation.views import validation_data_of
from tests.support.families import add_family


def prepared(root: Path | None, **blocks: Any) -> Prepared:
    """A study of the VAE, prepared with the clips below a root."""
    tree = {"study": "here", "model": {"family": "vae"}, **blocks}
    return prepare(study_of_tree(tree, origin="here"), default_root=None if root is None else str(root))


@pytest.fixture
def corpus_copy(tmp_path: Path, corpus_root: Path) -> Path:
    """A copy of the corpus, to be changed."""
    return Path(shutil.copytree(corpus_root, tmp_path / "copy"))


def remove(root: Path, pattern: str) -> None:
    """Removes the clips that match; at least one does."""
    found = list(root.rglob(pattern))
    assert found
    for path in found:
        path.unlink()


def add_additional(root: Path) -> Path:
    """The corpus in the challenge's tree, with additional training clips of other IDs."""
    folder = root.with_name("challenge")
    shutil.copytree(root, folder / "dev_data")
    extra = folder / "eval_data" / "compressor" / "train"
    extra.mkdir(parents=True)
    for number, path in enumerate(sorted((root / "compressor" / "train").glob("*id_00*"))):
        shutil.copy(path, extra / f"normal_id_01_{number:08d}.wav")
    return folder


def test_a_study_without_a_corpus_says_how_to_give_one() -> None:
    with pytest.raises(StudyError, match=r"corpus.root is missing: .*--set corpus.root=DIR.*\$OFFKEY_DATA"):
        prepared(None)


def test_the_study_s_own_root_comes_before_the_default(corpus_root: Path, tmp_path: Path) -> None:
    ready = prepared(tmp_path / "nowhere", corpus={"root": str(corpus_root)})

    assert ready.corpus.root == corpus_root
    assert ready.warnings == ()


@pytest.mark.parametrize(
    "validation",
    [{}, {"folds": 2}, {"metric": "proxy"}, {"metric": "proxy", "proxies": ["knock 1", "other IDs"]}],
    ids=str,
)
def test_what_comes_of_it_is_what_workers_compute_from_the_study(corpus_root: Path, validation: dict[str, Any]) -> None:
    ready = prepared(corpus_root, features={"n_mels": 32}, validation=validation)

    assert ready.validation == ready.study.validation
    assert ready.validation_data == validation_data_of(ready.corpus, ready.study.validation)


def test_the_root_is_written_down_as_it_lies_on_this_host(corpus_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus_root.parent)

    ready = prepared(Path(corpus_root.name))

    assert ready.study.first_recipe().corpus.root == str(corpus_root)


def test_what_else_the_study_says_stays_as_it_is(corpus_root: Path) -> None:
    blocks: dict[str, Any] = {
        "model": {"family": "vae", "h_dim": {"low": 8, "high": 64}},
        "baseline": {"h_dim": 16},
        "search": {"trials": 7, "pruner": "none"},
    }

    ready = prepared(corpus_root, **blocks)

    assert ready.study.tree == {
        "study": "here",
        **blocks,
        "corpus": {"root": str(corpus_root)},
        "search": {"trials": 7, "sampler": "tpe", "pruner": "none", "seed": 0, "duplicates": "fresh"},
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "No wav file below"),
        (lambda folder: folder.write_text("sounds"), "is not a folder"),
    ],
)
def test_a_root_without_clips_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "sounds")

    with pytest.raises(CorpusError, match=message):
        prepared(tmp_path / "sounds")


def test_a_machine_that_the_corpus_lacks_is_refused(corpus_root: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus.machines: fan not found in .*; it holds compressor"):
        prepared(corpus_root, corpus={"machines": ["compressor", "fan"]})


def test_clips_of_other_machines_than_the_study_s_are_left_alone(corpus_copy: Path) -> None:
    shutil.copytree(corpus_copy / "compressor" / "train", corpus_copy / "fan" / "train")
    (corpus_copy / "fan" / "train" / "broken.wav").write_bytes(b"")

    assert prepared(corpus_copy, corpus={"machines": ["compressor"]}).corpus.machines == ["compressor"]
    with pytest.raises(CorpusError, match="fan/train/broken.wav: "):
        prepared(corpus_copy)


@pytest.mark.parametrize("content", [b"", b"no sound at all, but text", b"RIFF\xff\0\0\0WAVE"])
def test_a_clip_that_cannot_be_read_is_listed_with_a_reason(corpus_copy: Path, content: bytes) -> None:
    (corpus_copy / "compressor" / "train" / "normal_id_00_00000002.wav").write_bytes(content)

    with pytest.raises(CorpusError, match=r"1 of the wav files .*\n  compressor/train/normal_id_00_00000002\.wav: \w+"):
        prepared(corpus_copy)


def test_clips_of_another_sample_rate_are_refused_with_one_of_them_named(corpus_copy: Path) -> None:
    odd = corpus_copy / "compressor" / "test" / "normal_id_02_00000099.wav"
    soundfile.write(odd, np.zeros(8000), 8000)

    with pytest.raises(
        CorpusError, match=r"16000 Hz, but 1 of 55 clips differ: .*normal_id_02_00000099.wav has 8000 Hz"
    ):
        prepared(corpus_copy)


def test_a_sample_rate_that_the_study_asks_for_must_be_the_clips_own(corpus_root: Path) -> None:
    with pytest.raises(CorpusError, match="features.sample_rate is 8000 Hz, but 54 of 54 clips differ"):
        prepared(corpus_root, features={"sample_rate": 8000, "n_mels": {"choices": [32, 64]}})


def test_choices_of_train_on_that_the_corpus_cannot_serve_are_dropped_with_a_warning(corpus_root: Path) -> None:
    ready = prepared(
        corpus_root, corpus={"train_on": {"choices": ["development", "additional", "development+additional"]}}
    )

    assert ready.study.space.distributions() == {"train_on": CategoricalDistribution(["development"])}
    (warning,) = ready.warnings
    assert warning.startswith("corpus.train_on: dropped additional, development+additional, since ")


@pytest.mark.parametrize(
    ("baseline", "kept"),
    [
        ({"train_on": "additional", "epochs": 9}, {"epochs": 9}),
        ({"train_on": "development", "epochs": 9}, {"train_on": "development", "epochs": 9}),
    ],
)
def test_a_dropped_choice_leaves_the_baseline_too(
    corpus_root: Path, baseline: dict[str, Any], kept: dict[str, Any]
) -> None:
    ready = prepared(
        corpus_root,
        corpus={"train_on": {"choices": ["development", "additional"]}},
        training={"epochs": {"choices": [9, 18]}},
        baseline=baseline,
    )

    assert ready.study.baseline == kept


@pytest.mark.parametrize("train_on", [{"choices": ["additional", "development+additional"]}, "additional"])
def test_a_study_that_can_train_on_nothing_is_refused(corpus_root: Path, train_on: Any) -> None:
    with pytest.raises(StudyError, match="corpus.train_on"):
        prepared(corpus_root, corpus={"train_on": train_on})


def test_training_on_both_sets_is_refused_where_there_is_one(corpus_root: Path) -> None:
    with pytest.raises(StudyError, match=r"corpus.train_on is development\+additional, but .* does not have them all"):
        prepared(corpus_root, corpus={"train_on": "development+additional"})


def test_every_choice_is_kept_where_the_corpus_has_additional_clips(corpus_root: Path, tmp_path: Path) -> None:
    root = add_additional(Path(shutil.copytree(corpus_root, tmp_path / "plain")))
    choices = ["development", "additional", "development+additional"]

    ready = prepared(root, corpus={"train_on": {"choices": choices}})

    assert ready.study.space.distributions() == {"train_on": CategoricalDistribution(choices)}
    assert ready.warnings == ()


@pytest.fixture
def both_sets(corpus_root: Path, tmp_path: Path) -> Path:
    """A challenge's tree: machine ID 00 for development, 01 in the additional training and evaluation sets."""
    folder = tmp_path / "challenge"
    for path in sorted(corpus_root.rglob("*_id_00_*.wav")):
        split, machine = path.parent.name, path.parent.parent.name
        for data_set, name in (("dev_data", path.name), ("eval_data", path.name.replace("id_00", "id_01"))):
            target = folder / data_set / machine / split / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


BY_SET = {"clips": "development"}


def test_by_set_only_the_development_set_s_clips_validate(both_sets: Path) -> None:
    ready = prepared(both_sets, validation=BY_SET)

    assert {clip.source for clip in ready.corpus.clips} == {"development", "additional", "evaluation"}
    assert set(ready.validation_data.truth.ids) == {"compressor/00"}
    assert len(ready.validation_data.truth) == 12


def test_by_set_there_must_be_two(corpus_root: Path) -> None:
    with pytest.raises(StudyError, match="has no labelled test clips of the evaluation set: they lie in dev_data/"):
        prepared(corpus_root, validation=BY_SET)


def test_a_classifier_must_know_the_ids_that_are_held_out(both_sets: Path) -> None:
    model = {"family": "classifier", "classes": "augmentations", "frames": 32}
    classifier: dict[str, Any] = {"model": model, "validation": BY_SET}
    with pytest.raises(UnservedError, match="compressor/01"):
        prepared(both_sets, **classifier)

    prepared(both_sets, **classifier, corpus={"train_on": "development+additional"})


def test_an_id_with_normal_clips_only_is_left_out_with_a_warning(corpus_copy: Path) -> None:
    remove(corpus_copy, "anomaly_id_02_*")

    ready = prepared(corpus_copy)

    assert ready.warnings == ("compressor/02: one label only in validation, AUC undefined, left out of the mean",)


def test_an_id_with_too_few_anomalies_for_both_parts_is_warned_of(corpus_copy: Path) -> None:
    remove(corpus_copy, "anomaly_id_02_0000000[1-5].wav")

    assert prepared(corpus_copy).warnings == ("compressor/02: too few labelled clips for a held-out test",)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("anomaly_*", r"\(compressor/00, compressor/02, compressor/04\) have normal clips only"),
        ("test/normal_*", r"\(compressor/00, compressor/02, compressor/04\) have anomalies only"),
        ("test/*.wav", "has no labelled test clips to validate on"),
    ],
)
def test_where_no_id_has_both_labels_auc_is_undefined_and_nothing_starts(
    corpus_copy: Path, pattern: str, message: str
) -> None:
    remove(corpus_copy, pattern)

    with pytest.raises(StudyError, match=f"AUC is undefined: .*{message}"):
        prepared(corpus_copy)


class TestFolds:
    """Normal training clips validate too: the labels of all validation clips count together."""

    def test_without_normal_test_clips_those_of_the_folds_are_told_from_the_faults(self, corpus_copy: Path) -> None:
        remove(corpus_copy, "test/normal_*")

        ready = prepared(corpus_copy, validation={"folds": 3})

        ids = "compressor/00, compressor/02, compressor/04"
        assert ready.warnings == (f"{ids}: too few labelled clips for a held-out test",)
        assert evaluate(np.zeros(len(ready.validation_data.truth)), ready.validation_data.truth).per_id.keys() == set(
            ids.split(", ")
        )

    @pytest.mark.parametrize(("training_clips", "is_judged"), [(2, True), (1, False)])
    def test_an_id_without_normal_validation_clips_is_left_out_with_a_warning(
        self, corpus_copy: Path, training_clips: int, is_judged: bool
    ) -> None:
        remove(corpus_copy, "test/normal_id_02_*")
        remove(corpus_copy, f"train/normal_id_02_0000000[{training_clips}-5].wav")

        ready = prepared(corpus_copy, validation={"folds": 2})

        left_out = "compressor/02: one label only in validation, AUC undefined, left out of the mean"
        assert (left_out not in ready.warnings) == is_judged
        judged = evaluate(np.zeros(len(ready.validation_data.truth)), ready.validation_data.truth).per_id
        assert ("compressor/02" in judged) == is_judged

    def test_without_a_fault_no_fold_has_an_auc(self, corpus_copy: Path) -> None:
        remove(corpus_copy, "anomaly_*")

        with pytest.raises(StudyError, match="AUC is undefined: .* have normal clips only"):
            prepared(corpus_copy, validation={"folds": 3})

    def test_a_fold_without_normal_clips_is_refused_where_trials_are_compared_by_it_alone(
        self, corpus_copy: Path
    ) -> None:
        remove(corpus_copy, "test/normal_*")
        folds = {"folds": 7}  # six training clips of each machine ID

        prepared(corpus_copy, validation=folds, search={"pruner": "median"})
        with pytest.raises(StudyError, match="fold 7 alone of 7 cannot compare them: use fewer folds.* undefined"):
            prepared(corpus_copy, validation=folds, search={"pruner": "wilcoxon"})

    def test_a_metric_that_the_first_folds_leave_undefined_is_refused_though_all_of_them_define_it(
        self, corpus_root: Path, tmp_path: Path
    ) -> None:
        sound = next(corpus_root.rglob("*.wav"))
        target = "fan/train/section_00_target_train_normal_0000.wav"
        names = [f"fan/train/section_00_source_train_normal_{number:04d}.wav" for number in range(21)]
        names += [target, *(f"fan/test/section_00_target_test_anomaly_{number:04d}.wav" for number in range(2))]
        for name in names:
            (tmp_path / "target" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sound, tmp_path / "target" / name)
        corpus = read_corpus(tmp_path / "target")

        def fold_of_target(seed: int) -> int:
            views = validation_data_of(corpus, ValidationSettings(folds=2, seed=seed)).views
            return [target in {clip.name for clip in labelled_test_clips(view)} for view in views].index(True)

        seeds = {fold_of_target(seed): seed for seed in range(10)}
        official: dict[str, Any] = {"metric": "official", "folds": 2}
        prepared(corpus.root, validation={**official, "seed": seeds[0]})
        with pytest.raises(StudyError, match="the first 1 of 2 cannot compare .* has none of the target domain"):
            prepared(corpus.root, validation={**official, "seed": seeds[1]})


@pytest.mark.parametrize(("test_folder", "warned"), [("source_test", True), ("test", False)])
def test_an_official_score_of_another_year_than_the_clips_state_is_warned_of(
    tmp_path: Path, corpus_root: Path, test_folder: str, warned: bool
) -> None:
    """2021 has folders of its own for each domain, and a rule of its own. Trials are validated by 2022's."""
    clips = corpus_root / "compressor"
    for split, (wavs, labels) in {"train": (12, ["normal"]), test_folder: (40, ["normal", "anomaly"])}.items():
        folder = tmp_path / "clips" / "fan" / split
        folder.mkdir(parents=True)
        for domain in ("source", "target"):
            for label in labels:
                for number in range(wavs):
                    source = sorted((clips / "train").iterdir())[number % 5]
                    name = f"section_00_{domain}_{split[-5:].strip('_')}_{label}_{number:04d}_a.wav"
                    shutil.copy(source, folder / name)

    by_domains = prepared(tmp_path / "clips", validation={"metric": "official"})
    by_the_year = prepared(tmp_path / "clips", validation={"metric": "official", "year": 2021})

    assert (by_domains.validation_data.truth.year, by_the_year.validation_data.truth.year) == (2022, 2021)
    text = "validates trials by the rule of 2022 and later, which goes by the clips' domains, but by their names these"
    assert any(text in warning for warning in by_domains.warnings) == warned
    assert not any(text in warning for warning in by_the_year.warnings)


def test_test_clips_without_a_label_in_their_names_are_no_labelled_clips(corpus_copy: Path) -> None:
    for path in (corpus_copy / "compressor" / "test").glob("*.wav"):
        word, _, rest = path.name.partition("_")
        path.rename(path.with_name(rest if word == "normal" else f"id_{rest[3:5]}_1{rest[7:]}"))

    with pytest.raises(StudyError, match="has no labelled test clips"):
        prepared(corpus_copy)


def test_a_test_clip_that_was_trained_on_is_warned_of(corpus_copy: Path) -> None:
    machine = corpus_copy / "compressor"
    shutil.copy(machine / "train/normal_id_00_00000000.wav", machine / "test/normal_id_00_00000099.wav")
    (warning,) = prepared(corpus_copy).warnings
    assert warning.startswith(
        "1 test clips are training clips too, for example compressor/test/normal_id_00_00000099.wav (compr"
    )


def test_contents_that_are_trained_on_twice_are_warned_of_where_one_copy_validates_beside_the_other(
    corpus_copy: Path,
) -> None:
    train = corpus_copy / "compressor/train"
    for number in range(1, 6):
        shutil.copy(train / "normal_id_00_00000000.wav", train / f"normal_id_00_{number:08d}.wav")

    assert prepared(corpus_copy, validation={"share": 0.5}).warnings == ()
    for validation, count in (({"folds": 3}, 6), ({"metric": "proxy", "proxies": ["other IDs"]}, 2)):
        warning, *_ = prepared(corpus_copy, validation=validation).warnings
        assert warning.startswith(f"{count} training clips validate models that are trained on the same")


def test_supplemental_clips_are_no_part_of_a_study(corpus_root: Path, corpus_copy: Path) -> None:
    machine = corpus_copy / "compressor"
    (machine / "supplemental").mkdir()
    shutil.copy(machine / "test/anomaly_id_00_00000000.wav", machine / "supplemental/section_00_0000.wav")
    plain, corpus = (prepared(root).corpus for root in (corpus_root, corpus_copy))
    assert [clip.name for clip in corpus.clips] == [clip.name for clip in plain.clips]
    assert corpus.fingerprint == plain.fingerprint


def test_what_the_corpus_warns_of_is_passed_on(corpus_copy: Path) -> None:
    (corpus_copy / "ground_truth_compressor_section_00_test.csv").write_text("section_00_0000.wav,1\n")
    (warning,) = prepared(corpus_copy).warnings
    assert warning.startswith("ground_truth_compressor_section_00_test.csv: not used")


@pytest.mark.parametrize(
    ("validation", "refusal"),
    [
        ({}, None),
        ({"folds": 2}, "of the clips that `validation.folds: 2` leaves a trial to train on: .* has 1 of 3: train"),
        (
            {"metric": "proxy", "share": 0.5, "proxies": ["other IDs"]},
            "of the clips that `validation.metric: proxy` leaves a trial to train on: .* has 1 of 3: train on",
        ),
    ],
    ids=["share", "folds", "proxy"],
)
def test_what_a_recipe_asks_of_training_clips_is_asked_of_those_that_a_trial_is_left(
    corpus_root: Path, validation: dict[str, Any], refusal: str | None
) -> None:
    blocks: dict[str, Any] = {"scoring": {"calibration": "z"}, "training": {"calibration_share": 0.34}}  # 2 of 6 clips

    if refusal is None:
        prepared(corpus_root, validation=validation, **blocks)
    else:
        with pytest.raises(UnservedError, match=refusal):
            prepared(corpus_root, validation=validation, **blocks)


class PickySettings(WindowSettings):
    """A family that has to tell machine IDs apart."""

    family: Literal["picky"] = "picky"
    h_dim: int = 8
    fewest: int = 2

    def require(self, labels: Labels, judged: Collection[str]) -> None:
        if len(labels.ids) < self.fewest:
            raise UnservedError(f"picky takes {self.fewest} machine IDs, but there is {len(labels.ids)}")


@pytest.fixture
def picky_family(monkeypatch: pytest.MonkeyPatch) -> None:
    add_family(monkeypatch, "picky", Settings=PickySettings)


@pytest.fixture
def one_id(corpus_copy: Path) -> Path:
    """The corpus with a single machine ID."""
    remove(corpus_copy, "*_id_0[24]_*")
    return corpus_copy


OF_EACH = {"low": 4, "high": 16}


@pytest.mark.usefixtures("picky_family")
@pytest.mark.parametrize(
    ("baseline", "kept"),
    [
        ({"family": "vae", "vae.h_dim": 8, "epochs": 9}, {"h_dim": 8, "epochs": 9}),
        ({"family": "picky", "picky.h_dim": 8, "epochs": 9}, {}),
        ({"epochs": 9}, {"epochs": 9}),
    ],
)
def test_a_family_that_the_corpus_cannot_serve_is_dropped_with_a_warning_and_the_baseline_follows(
    one_id: Path, baseline: dict[str, Any], kept: dict[str, Any]
) -> None:
    model = [{"family": "picky", "h_dim": OF_EACH}, {"family": "vae", "h_dim": OF_EACH}]

    ready = prepared(one_id, model=model, training={"epochs": {"choices": [9, 18]}}, baseline=baseline)

    assert ready.warnings == ("model: dropped picky: picky takes 2 machine IDs, but there is 1",)
    assert ready.study.space.families == ("vae",)
    assert ready.study.space.distributions().keys() == {"h_dim", "epochs"}
    assert ready.study.baseline == kept


@pytest.mark.usefixtures("picky_family")
@pytest.mark.parametrize(
    "model",
    [
        {"family": "picky"},
        [{"family": "picky"}],
        {"family": "picky", "fewest": {"low": 2, "high": 4}},
        {"family": "fusion", "members": {"a": {"model": {"family": "vae"}}, "b": {"model": {"family": "picky"}}}},
    ],
)
def test_a_family_that_the_corpus_cannot_serve_is_refused_where_it_is_the_only_one(one_id: Path, model: Any) -> None:
    with pytest.raises(UnservedError, match="picky takes 2 machine IDs, but there is 1"):
        prepared(one_id, model=model)


@pytest.mark.usefixtures("picky_family")
def test_a_family_that_some_of_its_settings_serve_is_kept(one_id: Path) -> None:
    ready = prepared(one_id, model={"family": "picky", "fewest": {"choices": [2, 1]}})

    assert ready.warnings == ()


@pytest.mark.parametrize("context", [{"choices": [200, 5]}, {"low": 5, "high": 200}])
def test_an_open_window_may_be_longer_than_a_clip_at_one_end_and_not_at_both(corpus_root: Path, context: Any) -> None:
    prepared(corpus_root, model={"family": "vae", "context": context})

    with pytest.raises(UnservedError, match="model.context is 150 frames"):
        prepared(corpus_root, model={"family": "vae", "context": {"low": 150, "high": 200}})


@pytest.mark.parametrize(
    ("model", "idle"),
    [
        (
            {"family": "stat"},
            (
                "training.epochs has no effect: stat is not trained",
                "training.batch_size has no effect: stat is not trained",
            ),
        ),
        ([{"family": "vae"}, {"family": "stat"}], ()),  # they are for the other
        ({"family": "vae"}, ()),
        (
            {
                "family": "fusion",
                "members": {
                    "a": {"model": {"family": "vae"}},
                    "b": {"model": {"family": "stat"}, "training": {"learning_rate": 0.1}},
                },
            },
            ("model.members.b.training.learning_rate has no effect: stat is not trained",),
        ),
    ],
)
def test_a_setting_of_training_for_a_family_that_is_not_trained_is_warned_of(
    corpus_root: Path, model: Any, idle: tuple[str, ...]
) -> None:
    ready = prepared(corpus_root, model=model, training={"epochs": 3, "batch_size": 8})

    assert ready.warnings == idle


@pytest.mark.parametrize(
    ("blocks", "idle"),
    [
        (
            {"model": {"family": "vae", "unknown_id": "shared"}},
            "model.unknown_id has no effect: it counts with model.per_id: True, or with model.score: mahalanobis or "
            "gmm or knn or lof or ocsvm or exposure",
        ),
        ({"model": {"family": "vae", "unknown_id": "shared", "per_id": {"choices": [True, False]}}}, None),
        ({"model": {"family": "stat", "unknown_id": "shared"}}, None),
        (
            {"model": {"family": "made", "unknown_id": "shared"}},
            "model.unknown_id has no effect: it counts with model.per_id: True",
        ),
        (
            {"model": {"family": "vae", "per_id": True, "conditional": True}},
            "model.conditional has no effect: it counts with model.per_id: False",
        ),
        (
            {"model": {"family": "vae", "score": "knn"}, "scoring": {"pooling": "max"}},
            "scoring.pooling has no effect: a density gives a clip's score, and windows have none to pool",
        ),
        (
            {
                "model": {"family": "vae", "score": {"choices": ["knn", "reconstruction"]}},
                "scoring": {"pooling": "max"},
            },
            None,
        ),
        ({"model": {"family": "vae"}, "scoring": {"pooling": "mean", "decay": 0.9}}, None),  # the default
        (
            {"model": {"family": "vae"}, "scoring": {"decay": 0.5}},
            "scoring.decay has no effect: it counts with scoring.pooling: gwrp",
        ),
        ({"model": {"family": "vae"}, "scoring": {"decay": 0.5}, "from": {"study": "other", "trial": 3}}, None),
        (
            {"model": [{"family": "vae"}, {"family": "ae", "neighbours": 3}]},
            "model.1.neighbours has no effect: it counts with model.score: knn or lof",
        ),
        ({"model": {"family": "vae", "score": "knn", "statistic": "maximum+loud", "share": 0.2}}, None),
        ({"model": {"family": "stat", "statistic": ["change", "quantile"], "share": 0.2}}, None),
        ({"model": {"family": "stat", "statistic": {"choices": ["mean", "quiet+loud"]}, "share": 0.2}}, None),
        (
            {"model": {"family": "stat", "statistic": "quantile+maximum", "decay": 0.5}},
            "model.decay has no effect: it counts with model.statistic: mean",
        ),
    ],
)
def test_a_value_without_effect_is_warned_of(corpus_root: Path, blocks: dict[str, Any], idle: str | None) -> None:
    assert prepared(corpus_root, **blocks).warnings == (() if idle is None else (idle,))
