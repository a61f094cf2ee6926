"""The final detector repeats its recipe's trial, and as a bundle on disk it scores as it did in memory."""

from __future__ import annotations

import io
import json
import logging
import resource
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from optuna.trial import FixedTrial
from rich.console import Console
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest

from features.clips.corpus import Corpus, read_corpus
from search.cli.detector.detector_tables import detector_metrics
from search.detector.bundle import load_bundle, require_free, save_bundle
from search.detector.bundle_files import metrics_of
from search.detector.caveats import SPREAD, sentences_beside
from search.detector.detector import Detector
from search.detector.model_card import model_card
from search.detector.optimism import Optimism, optimism_of
from search.detector.scored_clips import score_clips
from search.errors import BundleError
from search.evaluation.interval import Interval
from search.evaluation.truth import Truth
from search.results.export import export_recipe
from search.results.status import read_status
from search.storage.counted_evaluations import TestEvaluations
from search.study.ensembles import ensemble_of
from search.study.recipe import Recipe, ValidationSettings
from search.study.study_file import load_study, study_of_tree
from search.study.trial_recipe import trial_recipe
from search.training.loop import Training
from search.training.objective import objective
from search.validation.split import blind, held_out_clips, labelled_test_clips, training_clips
from search.validation.views import validation_data_of
from tests.support.detectors import change_details, detector_of, make_older

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

CPU = torch.device("cpu")
VALIDATION = ValidationSettings()
BUNDLE_FILES = {"README.md", "detector.json", "metrics.json", "recipe.yaml", "scores.json", "weights.safetensors"}

TINY: dict[str, Any] = {
    "study": "final",
    "features": {"n_mels": 32},
    "model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4},
    "training": {"learning_rate": 0.01, "batch_size": 64, "epochs": 2},
}


@pytest.fixture(scope="module")
def corpus(corpus_root: Path) -> Corpus:
    return read_corpus(corpus_root)


def recipe_with(**training: Any) -> Recipe:
    tree = {**TINY, "training": {**TINY["training"], **training}}
    return trial_recipe(study_of_tree(tree, origin="here"), FixedTrial({"h_dim": 16}, number=3))


@pytest.fixture(scope="module")
def detector(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """Shared: nobody changes it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return detector_of(recipe_with(threads=1), corpus, CPU)


@pytest.fixture
def bundle(detector: Detector, tmp_path: Path) -> Path:
    save_bundle(detector, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_final_detector_is_the_trial_s_computation_once_more(corpus: Corpus, detector: Detector) -> None:
    trial = FixedTrial({"h_dim": 16}, number=3)

    value = objective(trial, study_of_tree(TINY, origin="here"), validation_data_of(corpus, VALIDATION))

    assert detector.validation.auc == value


def test_an_exported_trial_trained_again_has_the_value_in_the_storage(
    tiny_study: Callable[..., TinyStudy], corpus: Corpus
) -> None:
    import optuna

    tiny = tiny_study(trials=2)
    tiny.worker().run()
    status = read_status(tiny.storage, tiny.stored, optuna.load_study(study_name="tiny", storage=tiny.url))

    for trial in status.finished:
        recipe = export_recipe(tiny.storage, tiny.stored, number=trial.number)
        assert detector_of(recipe, corpus, CPU).validation.auc == trial.value
    assert len(status.finished) == 2


def test_the_test_metrics_are_of_the_clips_that_no_search_uses(corpus: Corpus, detector: Detector) -> None:
    held_out = held_out_clips(corpus, VALIDATION)
    validation_data = labelled_test_clips(blind(corpus, VALIDATION))

    assert detector.test is not None
    counted = sum(of_id.normal + of_id.anomaly for of_id in detector.test.per_id.values())
    assert counted == len(held_out) == 18
    assert not {clip.name for clip in held_out} & {clip.name for clip in validation_data}
    assert detector.test.auc != detector.validation.auc


def test_without_labels_to_hold_out_there_are_no_test_metrics(tmp_path: Path, corpus_root: Path) -> None:
    root = Path(shutil.copytree(corpus_root, tmp_path / "few"))
    for path in root.rglob("anomaly_*_0000000[1-5].wav"):
        path.unlink()

    detector = detector_of(recipe_with(), read_corpus(root), CPU)

    assert detector.test is None
    assert metrics_of(detector)["test"] is None


@pytest.mark.parametrize("validation", [{}, {"folds": 2}], ids=["one split", "folds"])
def test_the_spread_over_seeds_is_of_what_each_seed_s_model_is_worth_alone(
    corpus: Corpus, validation: dict[str, Any]
) -> None:
    recipe = Recipe.model_validate(
        {**recipe_with(seed=3, epochs=1, batch_size=128, threads=1).tree(), "validation": validation}
    )
    alone = [
        detector_of(
            recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})}), corpus, CPU
        )
        for seed in (3, 4)
    ]

    detector = detector_of(ensemble_of([("recipe.yaml", recipe)], combine="mean", seeds=2), corpus, CPU)

    ((name, spread),) = detector.seeds.items()
    assert (name, spread.seeds) == ("final", (3, 4))
    assert spread.validation.aucs == tuple(one.validation.auc for one in alone)
    assert spread.test is not None
    assert spread.test.aucs == tuple(one.test.auc for one in alone if one.test is not None)
    one, other = spread.validation.aucs
    seeds = metrics_of(detector)["seeds"]
    assert (seeds["count"], seeds["validation"]["auc"]) == (2, [one, other])
    assert seeds["validation"]["mean"] == pytest.approx((one + other) / 2)
    assert seeds["validation"]["sd"] == pytest.approx(abs(one - other) / 2**0.5)
    assert f"| 2 of final | test | {spread.test.mean:.3f} | {spread.test.deviation:.3f} |" in model_card(detector)
    assert SPREAD in model_card(detector)
    assert [detector.seeds for detector in alone] == [{}, {}]


def test_seeds_that_change_nothing_have_no_spread(corpus: Corpus) -> None:
    tree = {"study": "final", "features": {"n_mels": 32}, "model": {"family": "stat"}}
    recipe = Recipe.model_validate(tree)

    detector = detector_of(ensemble_of([("recipe.yaml", recipe)], combine="mean", seeds=2), corpus, CPU)

    shown = io.StringIO()
    Console(file=shown, width=200).print(detector_metrics(detector))
    for text in (shown.getvalue(), model_card(detector)):
        assert "The 2 models of final score every clip alike: nothing in them depends on the seed" in text
        assert "one seed's model" not in text
    assert metrics_of(detector)["seeds"]["seed_matters"] is False


def test_the_search_s_optimism_stands_beside_both_aucs(detector: Detector, bundle: Path) -> None:
    assert detector.test is not None
    assert detector.optimism is not None

    assert detector.optimism.difference == detector.validation.auc - detector.test.auc
    assert json.loads((bundle / "metrics.json").read_text())["optimism"] == {
        "difference": detector.optimism.difference,
        "interval": None,  # three clips of each label
    }
    assert f"Validation − test is {detector.optimism.difference:+.3f}" in (bundle / "README.md").read_text()


def test_the_interval_of_a_difference_between_two_parts_is_of_independent_clips() -> None:
    # The variance of a difference of independent AUCs is the sum of theirs; a paired difference would have 0 here.
    scores, truth = np.random.default_rng(0).normal(size=60), Truth(("fan/00",) * 60, (0, 1) * 30)

    optimism = optimism_of(scores, truth, scores, truth)

    assert optimism is not None
    assert optimism.interval is not None
    deviation = optimism.interval.high / 1.96
    alone = 0.0745  # (1/12 · 61/900)½: Mann and Whitney (1947), of one AUC without any difference between labels
    assert optimism.difference == 0
    assert deviation == pytest.approx(2**0.5 * alone, rel=0.15)


def test_optimism_is_of_the_machine_ids_that_have_both_aucs() -> None:
    ids, labels = ("fan/00",) * 20 + ("fan/02",) * 20 + ("fan/04",) * 20, (0, 1) * 30
    scores = np.random.default_rng(0).normal(size=60)
    validation_data, held_out = Truth(ids[:40], labels[:40]), Truth(ids[20:], labels[20:])
    common = Truth(ids[20:40], labels[20:40])

    assert optimism_of(scores[:40], validation_data, scores[20:], held_out) == optimism_of(
        scores[20:40], common, scores[20:40], common
    )
    assert optimism_of(scores[:20], Truth(ids[:20], labels[:20]), scores[20:], held_out) is None


def test_the_machine_ids_that_the_optimism_covers_are_named_where_it_is_not_all(detector: Detector) -> None:
    assert detector.test is not None
    one_less = dict(list(detector.test.per_id.items())[1:])

    sentences = list(sentences_beside(replace(detector, test=replace(detector.test, per_id=one_less))))

    assert "Validation minus test covers only the machine IDs that both have: compressor/02, compressor/04" in sentences
    assert not any("machine IDs" in sentence for sentence in sentences_beside(detector))


def test_sets_of_other_machine_ids_are_not_compared(tmp_path: Path, corpus_root: Path) -> None:
    # As in the challenge since 2020: some machine IDs are of the development set, the others of the evaluation set.
    for path in corpus_root.rglob("*.wav"):
        folder = tmp_path / ("eval_data" if "id_04" in path.name else "dev_data") / path.relative_to(corpus_root).parent
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    tree = {
        "study": "levels",
        "corpus": {"train_on": "development+additional"},
        "model": {"family": "stat"},
        "validation": {"clips": "development"},
    }

    detector = detector_of(Recipe.model_validate(tree), read_corpus(tmp_path), CPU)

    assert detector.test is not None
    assert (detector.optimism, metrics_of(detector)["optimism"]) == (None, None)
    assert "The validation clips and the test clips are of different machine IDs" in model_card(detector)


def test_no_model_is_trained_while_another_takes_the_memory(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Training] = weakref.WeakSet()
    others: list[int] = []

    class Counted(Training):
        def __init__(self, *arguments: Any) -> None:
            others.append(len(alive))
            alive.add(self)
            super().__init__(*arguments)

    monkeypatch.setattr("search.detector.final_training.Training", Counted)
    recipe = Recipe.model_validate({"study": "l", "model": {"family": "stat"}, "validation": {"folds": 2}})

    detector_of(recipe, corpus, CPU)

    assert others == [0, 0, 0]  # two folds, and the detector itself


@pytest.mark.parametrize(("interval", "is_noted"), [((-0.1, 0.2), True), ((0.01, 0.2), False), ((-0.2, -0.1), False)])
def test_a_difference_whose_interval_includes_0_may_be_chance(
    detector: Detector, interval: tuple[float, float], is_noted: bool
) -> None:
    card = model_card(replace(detector, optimism=Optimism(0.1, Interval(*interval))))

    assert ("may be chance" in card) == is_noted


def test_synthetic_faults_are_not_compared_with_recorded_ones(corpus_root: Path) -> None:
    validation = {"metric": "proxy", "share": 0.34, "proxies": ["noise 1"]}
    recipe = Recipe.model_validate({"study": "levels", "model": {"family": "stat"}, "validation": validation})

    detector = detector_of(recipe, read_corpus(corpus_root), CPU)
    card = model_card(detector)

    assert detector.test is not None
    assert (detector.optimism, detector.test_value) == (None, None)
    assert metrics_of(detector)["metric"] == {"name": "proxy", "validation": detector.value, "test": None}
    assert f"AUC on synthetic faults {detector.validation.auc:.3f}" in card
    assert "their difference is not the search's optimism" in card


def test_the_objective_is_named_where_it_is_not_the_auc(corpus: Corpus) -> None:
    recipe = Recipe.model_validate({"study": "l", "model": {"family": "stat"}, "validation": {"metric": "worst_id"}})

    detector = detector_of(recipe, corpus, CPU)

    assert detector.test is not None
    lowest = [min(of_id.auc for of_id in part.per_id.values()) for part in (detector.validation, detector.test)]
    assert metrics_of(detector)["metric"] == {"name": "worst_id", "validation": lowest[0], "test": lowest[1]}
    objective = f"lowest AUC of a machine ID: validation {lowest[0]:.3f}, test {lowest[1]:.3f}"
    assert objective in model_card(detector)


def test_the_number_of_test_evaluations_stands_in_the_bundle(detector: Detector, tmp_path: Path) -> None:
    save_bundle(replace(detector, test_evaluations=TestEvaluations(7, 3)), tmp_path / "seen")

    metrics = json.loads((tmp_path / "seen" / "metrics.json").read_text())
    assert (metrics["test_looks"], metrics["test_recipes"]) == (7, 3)
    card = (tmp_path / "seen" / "README.md").read_text()
    assert "used in 7 test evaluations, this one included, of 3 different recipes" in card
    assert metrics_of(detector)["test_looks"] is None


def test_each_id_s_threshold_rests_on_its_withheld_clips(corpus: Corpus, bundle: Path, detector: Detector) -> None:
    withheld = training_clips(corpus, detector.recipe).withheld
    scored = {clip.path: clip.score for clip in score_clips(load_bundle(bundle), [c.path for c in withheld], CPU)}

    assert detector.threshold_clips == {f"compressor/{machine_id}": 1 for machine_id in ("00", "02", "04")}
    for clip in withheld:  # one each: the threshold is its score
        assert detector.thresholds[clip.id_name] == pytest.approx(scored[str(clip.path)], rel=1e-6)


@pytest.mark.parametrize(("share", "clips"), [(0.0, None), (0.1, 1), (0.5, 3)])
def test_the_calibration_share_sets_how_many_clips_each_threshold_rests_on(
    corpus: Corpus, share: float, clips: int | None
) -> None:
    detector = detector_of(recipe_with(calibration_share=share, epochs=1), corpus, CPU)

    assert set(detector.threshold_clips.values()) == (set() if clips is None else {clips})
    assert detector.thresholds.keys() == detector.threshold_clips.keys()


def test_a_recipe_written_by_hand_gets_a_seed_and_threads(corpus: Corpus) -> None:
    recipe = recipe_with().model_copy(
        update={"training": recipe_with().training.model_copy(update={"seed": None, "threads": None})}
    )

    detector = detector_of(recipe, corpus, CPU)

    assert (detector.recipe.training.seed, detector.recipe.training.threads) == (0, torch.get_num_threads())


def test_a_recipe_that_leaves_its_precision_open_is_closed_in_the_detector(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    recipe = recipe_with()
    left_open = recipe.model_copy(update={"training": recipe.training.model_copy(update={"precision": "auto"})})

    assert detector_of(left_open, corpus, CPU).recipe.training.precision == "bfloat16"


def test_each_epoch_is_reported(corpus: Corpus) -> None:
    reported: list[tuple[int, int]] = []

    detector_of(recipe_with(epochs=3), corpus, CPU, on_epoch=lambda *epochs: reported.append(epochs))

    assert reported == [(1, 3), (2, 3), (3, 3)]


def test_the_same_recipe_twice_writes_the_same_weights(corpus: Corpus, tmp_path: Path) -> None:
    for name in ("one", "other"):
        save_bundle(detector_of(recipe_with(), corpus, CPU), tmp_path / name)

    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_another_seed_writes_other_weights(corpus: Corpus, tmp_path: Path) -> None:
    for seed in (1, 2):
        save_bundle(detector_of(recipe_with(seed=seed), corpus, CPU), tmp_path / str(seed))

    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "12")
    assert one != other


def test_a_bundle_s_own_recipe_makes_the_bundle_again(corpus: Corpus, bundle: Path, tmp_path: Path) -> None:
    recipe = load_study(bundle / "recipe.yaml").first_recipe()

    save_bundle(detector_of(recipe, corpus, CPU), tmp_path / "again")

    for name in BUNDLE_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()


def test_a_loaded_bundle_scores_bit_for_bit_as_the_detector_that_was_saved(
    corpus: Corpus, bundle: Path, detector: Detector
) -> None:
    paths = [clip.path for clip in corpus.clips]

    loaded = load_bundle(bundle)
    after = [clip.score for clip in score_clips(loaded, paths, CPU)]
    loaded.scorer.load_state_dict(detector.scorer.state_dict())
    before = [clip.score for clip in score_clips(loaded, paths, CPU)]

    assert loaded.recipe == detector.recipe
    assert loaded.thresholds == detector.thresholds
    np.testing.assert_array_equal(after, before)
    assert len(set(after)) == len(paths)


def test_a_bundle_is_six_files_and_none_is_a_pickle(bundle: Path) -> None:
    assert {path.name for path in bundle.iterdir()} == BUNDLE_FILES
    for path in bundle.iterdir():
        start = path.read_bytes()[:2]
        assert start[:1] != b"\x80"  # pickle's protocol mark
        assert start != b"PK"  # the zip of torch.save


def test_metrics_and_model_card_state_what_was_measured(bundle: Path, detector: Detector) -> None:
    assert detector.test is not None
    metrics = json.loads((bundle / "metrics.json").read_text())
    card = (bundle / "README.md").read_text()

    assert metrics == json.loads(json.dumps(metrics_of(detector)))
    assert metrics["test"]["auc"] == detector.test.auc
    assert metrics["test"]["interval"] is None
    assert f"Held-out test AUC {detector.test.auc:.3f} ({detector.test.why_no_interval})" in card
    assert metrics["test"]["pauc"] is None  # three normal clips an ID
    assert metrics["test"]["pooled_auc"] == detector.test.pooled
    assert f"Held-out test AUC {detector.test.auc:.3f}" in card
    assert f"all machine IDs together it is {detector.test.pooled:.3f}" in card
    assert "| vae | vae | logmel | 2 |" in card
    for name, threshold in detector.thresholds.items():
        assert f"| {name} | {threshold:.6g} | 1 | 0.500 | 0.000 to 0.975 |" in card


@pytest.mark.parametrize(
    ("scoring", "meaning"),
    [
        (
            {},
            "Each threshold is the score of a normal clip that was withheld from training\n(scoring.threshold: quant",
        ),
        ({"false_alarm_rate": 0.05, "threshold": "gamma"}, "Each threshold is a quantile of a gamma distribution"),
        ({"calibration": "z"}, "(scoring.calibration: z). Thresholds are on this scale."),
        ({"calibration": "empirical"}, "(scoring.calibration: empirical). Thresholds are on this scale."),
    ],
)
def test_the_model_card_says_what_a_threshold_means(detector: Detector, scoring: dict[str, Any], meaning: str) -> None:
    recipe = Recipe.model_validate({**detector.recipe.tree(), "scoring": scoring})

    card = model_card(replace(detector, recipe=recipe))

    assert meaning in card
    assert ("scoring.calibration" in card) == ("calibration" in scoring)


def test_the_model_card_of_a_family_without_epochs_says_so(detector: Detector) -> None:
    recipe = Recipe.model_validate({"study": "levels", "model": {"family": "stat"}})

    assert "| stat | stat | logmel | not trained |" in model_card(replace(detector, recipe=recipe))
    assert "epochs" not in recipe.tree()["training"]


def test_nothing_is_ever_overwritten(detector: Detector, bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    with pytest.raises(BundleError, match="exists already, and is left as it is"):
        save_bundle(detector, bundle)
    with pytest.raises(BundleError, match="exists already"):
        require_free(bundle)

    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_a_bundle_s_folder_is_made_with_the_folders_above_it(detector: Detector, tmp_path: Path) -> None:
    save_bundle(detector, tmp_path / "new" / "deep" / "bundle")

    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["bundle"]


def test_a_bundle_that_cannot_be_written_is_an_error_and_leaves_nothing(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(BundleError, match="cannot be written"):
        save_bundle(detector, tmp_path / "file" / "bundle")

    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_is_an_error_and_leaves_no_half_a_bundle(detector: Detector, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "detectors"

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # bytes of one file: the weights are more
    try:
        with pytest.raises(BundleError, match="bundle cannot be written: .*File too large"):
            save_bundle(detector, folder / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(folder.iterdir()) == []


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def drop_an_array(path: Path) -> None:
    arrays = load_file(path)
    arrays.popitem()
    save_file(arrays, path)


def change(key: str, value: Any) -> Callable[[Path], None]:
    """Another value for a key of a JSON file, or none."""

    def mutate(path: Path) -> None:
        document = json.loads(path.read_text())
        document.pop(key)
        path.write_text(json.dumps(document if value is None else {**document, key: value}))

    return mutate


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", cut_in_half),
        ("weights.safetensors", drop_an_array),
        ("weights.safetensors", Path.unlink),
        ("recipe.yaml", Path.unlink),
        ("recipe.yaml", cut_in_half),
        ("detector.json", Path.unlink),
        ("detector.json", cut_in_half),
        ("detector.json", lambda path: path.write_text("[]")),
        ("detector.json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("detector.json", change("thresholds", None)),
        ("detector.json", change("format", None)),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused(bundle: Path, name: str, damage: Callable[[Path], object]) -> None:
    damage(bundle / name)

    with pytest.raises(BundleError, match="is not a bundle, or not a whole one"):
        load_bundle(bundle)


def other_version(name: str, value: str | None) -> Callable[[dict[str, Any]], None]:
    """Another version of what wrote a bundle, or none of it."""

    def mutate(details: dict[str, Any]) -> None:
        versions = {key: kept for key, kept in details["versions"].items() if key != name}
        details["versions"] = versions if value is None else versions | {name: value}

    return mutate


@pytest.mark.parametrize(
    ("damage", "warning"),
    [
        (other_version("offkey", "0.0.1"), "was written with offkey 0.0.1 (here "),
        (other_version("torch", "2.0.0"), "was written with torch 2.0.0 (here "),
        (other_version("computation", "0"), "was written with computation 0 (here "),
        (other_version("code", "0123456789ab"), "was written with code 0123456789ab (here —)"),  # by an earlier Offkey
        (other_version("torch", torch.__version__.partition("+")[0] + "+cpu"), None),
        (other_version("python", "3.12.0"), None),
        (other_version("librosa", None), None),
        (lambda details: details.pop("versions"), None),
        (lambda details: None, None),
    ],
)
def test_a_bundle_of_other_versions_is_loaded_with_a_warning_in_the_log(
    bundle: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[dict[str, Any]], None], warning: str | None
) -> None:
    change_details(bundle, damage)

    with caplog.at_level(logging.WARNING, logger="search.detector.bundle"):
        loaded = load_bundle(bundle)

    assert loaded.thresholds.keys() == {f"compressor/{machine_id}" for machine_id in ("00", "02", "04")}
    assert len(caplog.messages) == (warning is not None)
    assert warning is None or warning in caplog.messages[0]


def test_a_bundle_says_what_it_was_made_of_and_with(bundle: Path, corpus: Corpus) -> None:
    details = json.loads((bundle / "detector.json").read_text())

    assert details["false_alarm_rate"] == 0.1
    assert details["corpus_fingerprint"] == corpus.fingerprint
    assert details["versions"].keys() >= {
        "offkey",
        "computation",
        "torch",
        "numpy",
        "librosa",
        "scikit-learn",
        "python",
    }


def test_a_bundle_of_an_earlier_version_is_loaded_and_says_what_it_lacks(
    bundle: Path, caplog: pytest.LogCaptureFixture, detector: Detector
) -> None:
    make_older(bundle)

    with caplog.at_level(logging.WARNING, logger="search.detector.bundle"):
        loaded = load_bundle(bundle)

    assert (loaded.thresholds, loaded.scores) == (detector.thresholds, None)
    (message,) = caplog.messages
    assert "no digests, by which damage would be noticed, and no withheld scores" in message


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["metrics.json", "recipe.yaml", "scores.json", "weights.safetensors"])
def test_one_flipped_bit_is_noticed_and_its_file_named(bundle: Path, name: str) -> None:
    flip_a_bit(bundle / name)

    with pytest.raises(BundleError, match=f"{name} is not as it was written: its SHA-256 digest is another"):
        load_bundle(bundle)


@pytest.mark.parametrize("bit", range(1, 1000, 37))
def test_one_flipped_bit_in_the_file_of_the_digests_is_noticed(bundle: Path, bit: int) -> None:
    content = bytearray((bundle / "detector.json").read_bytes())
    content[bit] ^= 1
    (bundle / "detector.json").write_bytes(content)

    with pytest.raises(BundleError, match=r"detector\.json"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", sorted(BUNDLE_FILES - {"README.md"}))
def test_a_file_that_is_missing_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()

    with pytest.raises(BundleError, match=f"not a whole one: .*{name}"):
        load_bundle(bundle)


def test_the_model_card_may_be_added_to(bundle: Path) -> None:
    with (bundle / "README.md").open("a") as card:
        card.write("Trained for hall 7.\n")

    assert load_bundle(bundle).thresholds


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_threshold_that_is_not_finite_is_refused(bundle: Path, value: float, is_older: bool) -> None:
    change_details(bundle, lambda details: details["thresholds"].update({"compressor/02": value}))
    if is_older:
        make_older(bundle)

    with pytest.raises(BundleError, match=r"detector\.json: thresholds\.compressor/02 should be a finite number"):
        load_bundle(bundle)


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(bundle: Path, value: float, is_older: bool) -> None:
    arrays = load_file(bundle / "weights.safetensors")
    name = next(name for name, array in arrays.items() if array.is_floating_point())
    arrays[name].view(-1)[0] = value
    save_file(arrays, bundle / "weights.safetensors")
    change_details(bundle, lambda details: None)
    if is_older:
        make_older(bundle)

    with pytest.raises(BundleError, match=rf"weights\.safetensors: {name} has numbers that are not finite"):
        load_bundle(bundle)


def test_a_detector_with_a_weight_that_is_not_finite_is_not_written(corpus: Corpus, tmp_path: Path) -> None:
    broken = detector_of(recipe_with(epochs=1), corpus, CPU)
    name, weight = next(iter(broken.scorer.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = torch.nan

    with pytest.raises(BundleError, match=f"the detector is not written: {name} is not finite"):
        save_bundle(broken, tmp_path / "detectors" / "broken")
    assert list((tmp_path / "detectors").iterdir()) == []


def test_the_card_and_the_metrics_say_what_was_decided_on_the_test_clips(bundle: Path, detector: Detector) -> None:
    decisions = detector.decisions
    assert decisions is not None
    interval = binomtest(decisions.found, 9).proportion_ci(0.95, method="exact")

    written = json.loads((bundle / "metrics.json").read_text())["decisions"]
    assert (decisions.normal, decisions.anomaly) == (9, 9)
    assert (written["false_alarms"], written["found"]) == (decisions.false_alarms, decisions.found)
    assert written["found_interval"] == [interval.low, interval.high]
    card = (bundle / "README.md").read_text()
    assert f"Of 9 normal test clips {decisions.false_alarms} " in card
    assert f"of 9 faulty ones {decisions.found} " in card


def test_the_card_says_that_one_clip_cannot_promise_the_rate(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()

    assert (
        "cannot promise a false-alarm rate of 0.1, which takes 9 withheld clips of each machine ID: they have 1" in card
    )
    assert "50 % of normal clips" in card


def test_a_bundle_of_a_later_format_says_so(bundle: Path) -> None:
    change("format", 4)(bundle / "detector.json")

    with pytest.raises(BundleError, match="a bundle of format 4; this Offkey reads 3"):
        load_bundle(bundle)


@pytest.mark.parametrize("what", ["nothing", "file", "empty folder"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "other"
    if what == "file":
        path.write_text("text")
    elif what == "empty folder":
        path.mkdir()

    with pytest.raises(BundleError, match="is not a bundle, or not a whole one"):
        load_bundle(path)
