"""One model for each machine ID, and one model that is given machine IDs: through the one training, and as a bundle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from features.clips.clip import Clip
from features.clips.corpus import Corpus, read_corpus
from features.errors import UnservedError
from search.detector.bundle import load_bundle, save_bundle
from search.detector.scored_clips import ScoredClip, score_clips
from search.study.recipe import Recipe, ValidationSettings
from search.training.loop import Training
from search.validation.split import blind
from tests.support.detectors import detector_of
from tests.support.training import models_of, trained

CPU = torch.device("cpu")
FAMILIES: dict[str, dict[str, Any]] = {
    "vae": {"context": 3, "h_dim": 16, "z_dim": 4},
    "ae": {"context": 3, "layers": 1, "h_dim": 16, "z_dim": 4},
}
IDS = ("compressor/00", "compressor/02", "compressor/04")


def recipe_of(family: str = "vae", *, normalize: str = "none", calibration: str = "none", **model: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "study": "per-id",
            "features": {"n_mels": 16, "normalize": normalize},
            "model": {"family": family, **FAMILIES[family], **model},
            "training": {
                "learning_rate": 0.01,
                "batch_size": 64,
                "epochs": 2,
                "calibration_share": 0.34,  # two of six clips
                "seed": 1,
                "threads": 1,
            },
            "scoring": {"calibration": calibration},
        }
    )


def blinded(root: Path) -> Corpus:
    return blind(read_corpus(root), ValidationSettings())


@pytest.fixture
def corpus(corpus_root: Path) -> Corpus:
    return blinded(corpus_root)


@pytest.fixture
def copied(corpus_root: Path, tmp_path: Path) -> Path:
    """A corpus that may be changed."""
    return Path(shutil.copytree(corpus_root, tmp_path / "copied"))


def remove(root: Path, pattern: str) -> None:
    for path in root.rglob(pattern):
        path.unlink()


def of_id(clips: tuple[Clip, ...], name: str) -> list[Clip]:
    return [clip for clip in clips if clip.id_name == name]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("family", "normalize"), [("vae", "none"), ("vae", "bin"), ("ae", "none")])
def test_an_id_s_model_is_the_one_that_its_clips_alone_would_make(
    corpus: Corpus, copied: Path, family: str, normalize: str
) -> None:
    for other in ("00", "04"):
        remove(copied, f"*_id_{other}_*.wav")
    whole = trained(recipe_of(family, normalize=normalize, per_id=True), corpus)
    alone = trained(recipe_of(family, normalize=normalize), blinded(copied))
    clips = of_id(whole.validation_clips, "compressor/02")

    assert len(models_of(whole)) == len(IDS)
    assert same(whole.scorer.single_of("compressor/02").model.state_dict(), models_of(alone)[0].state_dict())
    np.testing.assert_array_equal(whole.scores_of(clips), alone.validation_scores())
    np.testing.assert_array_equal(whole.reconstruction_of(clips[0]), alone.reconstruction_of(alone.validation_clips[0]))


def test_models_of_two_ids_differ_by_their_clips_alone(corpus: Corpus) -> None:
    fresh, after = Training(recipe_of(per_id=True), corpus, CPU), trained(recipe_of(per_id=True), corpus)

    assert same(models_of(fresh)[0].state_dict(), models_of(fresh)[1].state_dict())
    assert not same(models_of(after)[0].state_dict(), models_of(after)[1].state_dict())


@pytest.mark.parametrize("calibration", ["none", "z"])
def test_what_becomes_of_another_id_s_clips_changes_no_score(corpus: Corpus, copied: Path, calibration: str) -> None:
    rng = np.random.default_rng(0)
    for path in copied.glob("*/train/*_id_00_*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, np.clip(samples + 0.1 * rng.standard_normal(len(samples)), -1, 1), rate, "PCM_16")
    recipe = recipe_of(per_id=True, calibration=calibration)
    before, after = trained(recipe, corpus), trained(recipe, blinded(copied))

    unchanged = [clip.id_name != "compressor/00" for clip in before.validation_clips]
    assert [clip.name for clip in before.validation_clips] == [clip.name for clip in after.validation_clips]
    np.testing.assert_array_equal(before.validation_scores() == after.validation_scores(), unchanged)


def test_an_id_without_training_clips_is_refused_before_any_training(copied: Path) -> None:
    remove(copied / "compressor" / "train", "*_id_04_*.wav")

    with pytest.raises(UnservedError) as refused:
        Training(recipe_of(per_id=True), blinded(copied), CPU)

    assert str(refused.value) == (
        "model.family vae cannot score compressor/04: no training clip of it. "
        "Train on it (corpus.train_on, corpus.machines), or set model.unknown_id: shared"
    )


def test_an_id_without_training_clips_may_go_to_a_model_of_all_the_others(copied: Path) -> None:
    remove(copied / "compressor" / "train", "*_id_04_*.wav")
    corpus = blinded(copied)
    shared = trained(recipe_of(per_id=True, unknown_id="shared"), corpus)
    of_all = trained(recipe_of(), corpus)
    remove(copied, "*_id_04_*.wav")
    own = trained(recipe_of(per_id=True), blinded(copied))
    unknown = of_id(shared.validation_clips, "compressor/04")
    known = [clip for clip in shared.validation_clips if clip not in unknown]

    assert len(models_of(shared)) == 3
    np.testing.assert_array_equal(shared.scores_of(unknown), of_all.scores_of(unknown))
    np.testing.assert_array_equal(shared.scores_of(known), own.validation_scores())
    assert (shared.scores_of(known) != of_all.scores_of(known)).all()


def test_clips_of_unknown_ids_are_calibrated_by_how_the_model_of_all_scores_normal_clips(corpus: Corpus) -> None:
    training = trained(recipe_of(per_id=True, unknown_id="shared", calibration="z"), corpus)
    withheld = training.recordings_of(training.clips.withheld)
    training.validation_scores()

    # As of an unknown ID, the clips that the scale was made of lie around 0, one deviation wide.
    scores = training.scorer.scores_of(withheld.anonymous)

    assert (scores.mean(), scores.std(ddof=1)) == pytest.approx((0, 1), abs=1e-9)


@pytest.mark.parametrize(
    "model",
    [
        {"conditional": True, "score": "knn", "unknown_id": "shared"},
        {"conditional": True, "per_id": True, "unknown_id": "shared"},
    ],
)
def test_a_network_that_refuses_unknown_ids_is_calibrated_by_the_known_ones(
    corpus: Corpus, model: dict[str, Any]
) -> None:
    training = trained(recipe_of(calibration="z", **model), corpus)

    withheld = training.scores_of(training.clips.withheld)

    training.validation_scores()
    assert (withheld.mean(), withheld.std()) == pytest.approx((0, 1), abs=0.4)  # of each ID, two clips: 0.7 apart


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_each_id_go_on_from_a_checkpoint_as_if_undisturbed(corpus: Corpus, family: str) -> None:
    recipe = recipe_of(family, per_id=True, calibration="z")
    undisturbed, interrupted = trained(recipe, corpus), Training(recipe, corpus, CPU)
    interrupted.run_epoch()
    file = BytesIO()
    interrupted.save(file)
    file.seek(0)

    resumed = Training(recipe, corpus, CPU)
    resumed.resume(file)
    resumed.run_epoch()

    np.testing.assert_array_equal(resumed.validation_scores(), undisturbed.validation_scores())
    assert same(resumed.scorer.state_dict(), undisturbed.scorer.state_dict())


def scored(recipe: Recipe, root: Path, folder: Path) -> tuple[dict[str, ScoredClip], dict[str, float]]:
    """A bundle's rows of the test clips and of one unknown machine ID; and the scores of the training itself."""
    detector = detector_of(recipe, read_corpus(root), CPU)
    save_bundle(detector, folder / "bundle")
    clip = next((root / "compressor" / "test").glob("normal_id_04_*.wav"))
    stranger = folder / "compressor" / "normal_id_06_00000000.wav"
    stranger.parent.mkdir()
    shutil.copy(clip, stranger)
    paths = [*sorted(clip.parent.iterdir()), stranger]
    rows = {Path(row.path).name: row for row in score_clips(load_bundle(folder / "bundle"), paths, CPU)}
    training = trained(recipe, blinded(root))
    scores = training.scores_of(training.validation_clips).tolist()
    return rows, {clip.path.name: score for clip, score in zip(training.validation_clips, scores, strict=True)}


@pytest.mark.parametrize(
    ("family", "model", "error"),
    [
        (
            "vae",
            {"per_id": True},
            "compressor/06 was not trained on, and has no model (model.unknown_id: shared makes one)",
        ),
        ("ae", {"conditional": True}, "ae cannot score compressor/06: it was not trained on this machine ID"),
        ("vae", {"conditional": True}, "vae cannot score compressor/06: it was not trained on this machine ID"),
    ],
)
def test_a_bundle_scores_as_training_did_and_says_which_id_it_does_not_know(
    corpus_root: Path, tmp_path: Path, family: str, model: dict[str, Any], error: str
) -> None:
    rows, scores = scored(recipe_of(family, **model), corpus_root, tmp_path)

    unknown = rows.pop("normal_id_06_00000000.wav")
    assert (unknown.score, unknown.decision, unknown.error) == (None, None, error)
    assert {row.error for row in rows.values()} == {None}
    assert {row.decision for row in rows.values()} <= {0, 1}
    # Clips are scored one by one here, many at a time there: sums differ in their last bits.
    assert {name: rows[name].score for name in scores} == pytest.approx(scores, rel=1e-5)


def test_a_bundle_with_a_model_of_all_scores_an_unknown_id_and_decides_nothing(
    corpus_root: Path, tmp_path: Path
) -> None:
    rows, _ = scored(recipe_of("ae", per_id=True, unknown_id="shared"), corpus_root, tmp_path)

    unknown = rows["normal_id_06_00000000.wav"]
    assert unknown.score is not None and unknown.score > 0
    assert unknown.decision is None
    assert unknown.error is not None and "no decision: compressor/06 was not trained on" in unknown.error


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conditional_model_scores_a_clip_otherwise_under_another_id(corpus: Corpus, family: str) -> None:
    training = trained(recipe_of(family, conditional=True), corpus)
    clips = training.recordings_of(of_id(training.validation_clips, "compressor/02"))

    own = training.scorer.scores_of(clips)
    under_another = training.scorer.scores_of(replace(clips, ids=("compressor/04",) * len(clips)))

    assert (own != under_another).all()
    with pytest.raises(UnservedError, match=".* cannot score compressor/06: it was not trained on this machine ID"):
        training.scorer.scores_of(replace(clips, ids=("compressor/06",) * len(clips)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conditional_model_is_refused_an_id_without_training_clips_and_has_none_for_all(
    copied: Path, family: str
) -> None:
    remove(copied / "compressor" / "train", "*_id_04_*.wav")

    with pytest.raises(UnservedError) as refused:
        Training(recipe_of(family, conditional=True, unknown_id="shared"), blinded(copied), CPU)

    assert str(refused.value) == (
        f"model.family {family} cannot score compressor/04: no training clip of it. "
        "Train on it (corpus.train_on, corpus.machines)"
    )
