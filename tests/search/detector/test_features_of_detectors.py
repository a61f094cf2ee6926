"""The settings of a model's features: kinds, normalisation, cleaning; from trial to bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from optuna.trial import FixedTrial

from features.cleaning import features_of
from features.clips.corpus import Corpus, read_corpus
from features.errors import ClipTooShortError
from search.detector.bundle import load_bundle, save_bundle
from search.detector.scored_clips import score_clips
from search.errors import StudyFileError
from search.preparation.clip_checks import require_served
from search.study.recipe import Recipe, ValidationSettings
from search.study.study import Study
from search.study.study_file import study_of_tree, to_yaml
from search.study.trial_recipe import trial_recipe
from search.training.loop import Training
from search.training.objective import objective
from search.validation.split import blind, held_out_clips
from search.validation.views import validation_data_of
from tests.support.detectors import detector_of
from tests.support.training import models_of

CPU = torch.device("cpu")


def tree_with(**blocks: Any) -> dict[str, Any]:
    return {
        "study": "hearing",
        "features": {"n_mels": 32},
        "model": {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4},
        "training": {"learning_rate": 0.01, "batch_size": 64, "epochs": 1, "seed": 1, "threads": 1},
        **blocks,
    }


def study_with(**blocks: Any) -> Study:
    return study_of_tree(tree_with(**blocks), origin="here")


def recipe_with(**blocks: Any) -> Recipe:
    return Recipe.model_validate(tree_with(**blocks))


@pytest.fixture
def corpus(corpus_root: Path) -> Corpus:
    return read_corpus(corpus_root)


FEATURES: dict[str, dict[str, Any]] = {
    "chroma": {"kind": "chroma"},
    "a stack, each bin normalised": {"kind": ["logmel", "rms", "zero_crossings"], "n_mels": 16, "normalize": "bin"},
    "coefficients, each clip normalised": {"kind": "mfcc", "n_mels": 32, "normalize": "clip"},
    "a log-spectrum": {"kind": "logspectrum", "n_fft": 256},
}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_a_bundle_scores_as_its_training_did_whatever_its_features(
    corpus: Corpus, tmp_path: Path, features: dict[str, Any]
) -> None:
    recipe = recipe_with(features=features)
    held_out = held_out_clips(corpus, ValidationSettings())[:3]
    training = Training(recipe, blind(corpus, ValidationSettings()), CPU)
    training.run_epoch()
    expected = training.scores_of(held_out)

    save_bundle(detector_of(recipe, corpus, CPU), tmp_path / "bundle")
    rows = list(score_clips(load_bundle(tmp_path / "bundle"), [clip.path for clip in held_out], CPU))

    np.testing.assert_allclose([row.score or 0.0 for row in rows], expected, rtol=1e-5)
    assert len(set(expected)) == 3


class TestAWholeClipsSpectrum:
    """One frame for each clip: for models of a single frame alone."""

    SPECTRUM: ClassVar[dict[str, Any]] = {"kind": "clip_spectrum", "n_bands": 64}

    @pytest.mark.parametrize(
        "blocks",
        [
            {"model": {"family": "stat"}},
            {"model": {"family": "stat", "score": "knn"}, "features": {**SPECTRUM, "normalize": "clip"}},
            {"model": {"family": "vae", "context": 1, "h_dim": 16, "z_dim": 4}},
            {
                "model": {
                    "family": "fusion",
                    "members": {
                        "whole": {"model": {"family": "stat"}},
                        "frames": {"model": {"family": "stat"}, "features": {"kind": "logmel"}},
                    },
                }
            },
        ],
        ids=["stat", "stat, normalised", "vae", "beside log-mel in an ensemble"],
    )
    def test_a_bundle_scores_as_its_training_did(self, corpus: Corpus, tmp_path: Path, blocks: dict[str, Any]) -> None:
        recipe = recipe_with(**{"features": self.SPECTRUM, **blocks})
        held_out = held_out_clips(corpus, ValidationSettings())[:3]
        training = Training(recipe, blind(corpus, ValidationSettings()), CPU)
        training.run_epoch()
        expected = training.scores_of(held_out)

        save_bundle(detector_of(recipe, corpus, CPU), tmp_path / "bundle")
        rows = list(score_clips(load_bundle(tmp_path / "bundle"), [clip.path for clip in held_out], CPU))

        np.testing.assert_allclose([row.score or 0.0 for row in rows], expected, rtol=1e-5)
        assert len(set(expected)) == 3
        assert training.frames_of(held_out[0]).shape[0] == 1

    @pytest.mark.parametrize(
        ("model", "setting"),
        [
            ({"family": "vae", "context": 3}, "model.context is 3 frames"),
            ({"family": "classifier"}, "model.frames is 64 frames"),
        ],
    )
    def test_a_model_of_several_frames_is_refused_with_what_would_do(
        self, corpus: Corpus, model: dict[str, Any], setting: str
    ) -> None:
        recipe = recipe_with(features=self.SPECTRUM, model=model)
        message = (
            f"{setting}, but .* has only 1: .*clip_spectrum has one .* model.family stat, or one with model.context: 1"
        )

        with pytest.raises(ClipTooShortError, match=message):
            require_served(recipe, corpus, ())
        with pytest.raises(ClipTooShortError, match=message):
            Training(recipe, blind(corpus, ValidationSettings()), CPU)

    @pytest.mark.parametrize("normalize", ["none", "clip", "bin"])
    def test_a_clip_with_fewer_bins_than_bands_is_named(self, corpus: Corpus, tmp_path: Path, normalize: str) -> None:
        recipe = recipe_with(
            features={"kind": "clip_spectrum", "n_bands": 8002, "normalize": normalize}, model={"family": "stat"}
        )
        message = (
            r"\.wav is too short: its spectrum has fewer bins than there are bands. Lower features.n_bands, or remove"
        )

        with pytest.raises(ClipTooShortError, match=message):
            require_served(recipe, corpus, ())
        with pytest.raises(ClipTooShortError, match=message):
            Training(recipe, blind(corpus, ValidationSettings()), CPU)

    def test_a_detector_says_so_of_a_clip_to_be_scored(self, corpus: Corpus, tmp_path: Path) -> None:
        recipe = recipe_with(features={**self.SPECTRUM, "normalize": "clip"}, model={"family": "stat"})
        save_bundle(detector_of(recipe, corpus, CPU), tmp_path / "bundle")
        path = tmp_path / "compressor" / "normal_id_00_00000000.wav"
        path.parent.mkdir()
        soundfile.write(path, np.full(100, 0.1), 16000)

        (scored,) = score_clips(load_bundle(tmp_path / "bundle"), [path], CPU)

        assert scored.score is None
        assert "is too short: its spectrum has fewer bins" in (scored.error or "")

    def test_cleaning_is_the_same_in_a_trial_and_in_its_recipe(self) -> None:
        features = {"kind": {"choices": ["logmel", "clip_spectrum"]}, "n_fft": 256, "hop_length": 128, "n_mels": 20}
        study = study_with(features=features, model={"family": "stat"}, cleaning={"method": "neighbours"})
        recipe = trial_recipe(study, FixedTrial({"kind": "clip_spectrum"}))
        again = Recipe.model_validate(recipe.tree())

        assert features_of("logmel", again.features).key == features_of("logmel", recipe.features).key

    @pytest.mark.parametrize("setting", ["n_fft", "hop_length", "n_mels"])
    def test_settings_of_frames_are_refused(self, setting: str) -> None:
        with pytest.raises(
            StudyFileError, match=f"features.{setting} has no effect on clip_spectrum: it is a setting of"
        ):
            study_with(features={**self.SPECTRUM, setting: 128}, model={"family": "stat"})


def test_bins_are_normalised_by_the_training_clips_alone(corpus_root: Path, tmp_path: Path) -> None:
    recipe = recipe_with(features={"n_mels": 32, "normalize": "bin"})
    root = Path(shutil.copytree(corpus_root, tmp_path / "other"))
    for path in root.rglob("test/*.wav"):
        sound, rate = soundfile.read(path)
        soundfile.write(path, 0.1 * sound, rate)

    scales = []
    for folder in (corpus_root, root):
        training = Training(recipe, blind(read_corpus(folder), ValidationSettings()), CPU)
        scales.append(models_of(training)[0].state_dict()["scale.lowest"])
        frames = np.concatenate([training.frames_of(clip) for clip in training.clips.train]).astype(np.float64)
        np.testing.assert_allclose(scales[-1], frames.mean(axis=0) - 4 * frames.std(axis=0), rtol=1e-4)
    assert torch.equal(*scales)


class TestCleaning:
    CLEANED: ClassVar[dict[str, Any]] = {"cleaning": {"method": "zscore", "drop": 0.2}}  # one of five of each ID

    def test_leaves_clips_out_of_the_training_and_of_nothing_else(self, corpus: Corpus) -> None:
        plain = Training(recipe_with(), blind(corpus, ValidationSettings()), CPU)
        cleaned = Training(recipe_with(**self.CLEANED), blind(corpus, ValidationSettings()), CPU)
        dropped = [outlier.clip for outlier in cleaned.dropped]
        assert [clip.machine_id for clip in dropped] == ["00", "02", "04"]
        assert cleaned.clips.train == tuple(clip for clip in plain.clips.train if clip not in dropped)
        assert cleaned.clips.withheld == plain.clips.withheld
        assert cleaned.validation_clips == plain.validation_clips

    def test_is_the_same_in_a_trial_and_in_the_final_training(self, corpus: Corpus) -> None:
        value = objective(FixedTrial({}), study_with(**self.CLEANED), validation_data_of(corpus, ValidationSettings()))
        assert detector_of(recipe_with(**self.CLEANED), corpus, CPU).validation.auc == value
        assert detector_of(recipe_with(), corpus, CPU).validation.auc != value

    def test_never_looks_at_a_test_clip(self, corpus_root: Path, tmp_path: Path) -> None:
        root = Path(shutil.copytree(corpus_root, tmp_path / "other"))
        for path in root.rglob("test/*.wav"):
            soundfile.write(path, np.random.default_rng(0).normal(0, 0.3, 16000), 16000)
        names = []
        for folder in (corpus_root, root):
            training = Training(recipe_with(**self.CLEANED), blind(read_corpus(folder), ValidationSettings()), CPU)
            names.append([outlier.clip.name for outlier in training.dropped])
        assert names[0] == names[1]

    def test_says_so_where_a_share_is_not_one_clip(self, corpus: Corpus, caplog: pytest.LogCaptureFixture) -> None:
        recipe = recipe_with(cleaning={"method": "zscore", "drop": 0.05})
        assert Training(recipe, blind(corpus, ValidationSettings()), CPU).dropped == ()
        assert "cleaning left out no training clip: 0.05 of them is less than one of any ID" in caplog.text

    def test_can_be_searched(self, corpus: Corpus) -> None:
        study = study_with(cleaning={"method": {"choices": ["none", "zscore"]}, "drop": {"low": 0.0, "high": 0.05}})
        recipe = trial_recipe(study, FixedTrial({"method": "zscore", "drop": 0.03}))
        assert (recipe.cleaning.method, recipe.cleaning.drop) == ("zscore", 0.03)


class TestAnOpenKind:
    OPEN: ClassVar[dict[str, Any]] = {
        "kind": {"choices": ["logmel", "chroma", "logmel+chroma"]},
        "n_mels": {"choices": [16, 32]},
        "n_chroma": 12,
    }

    def test_takes_the_settings_of_each_of_its_choices(self) -> None:
        study = study_with(features=self.OPEN)
        recipe = trial_recipe(study, FixedTrial({"kind": "logmel+chroma", "n_mels": 16}))
        assert recipe.features.bins == 16 + 12

    def test_exports_what_its_trial_used_as_a_study_file_of_its_own(self) -> None:
        tree = trial_recipe(study_with(features=self.OPEN), FixedTrial({"kind": "chroma", "n_mels": 16})).tree()
        assert tree["features"]["kind"] == "chroma"
        assert "n_mels" not in tree["features"]
        assert study_of_tree(tree, origin=to_yaml(tree)).space.settings == ()

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            ({"kind": "chroma", "n_mels": 64}, "n_mels has no effect on chroma: it is a setting of logmel, mfcc"),
            (
                {"kind": {"choices": ["rms", "chroma+rms"]}, "n_mfcc": {"low": 5, "high": 9}},
                r"n_mfcc has no effect on rms, chroma\+rms: it is a setting of mfcc",
            ),
            ({"kind": "melody"}, "each kind must be one of logmel, .*got 'melody'"),
            ({"kind": ["logmel", "chrom"]}, r"got 'chrom'; did you mean chroma\?"),
        ],
    )
    def test_refuses_what_none_of_its_choices_uses(self, features: dict[str, Any], message: str) -> None:
        with pytest.raises(StudyFileError, match=message):
            study_with(features=features)


DECAY = {"low": 0.1, "high": 0.9}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"scoring": {"pooling": "mean", "decay": DECAY}}, "scoring.decay.*counts with scoring.pooling: gwrp"),
        ({"scoring": {"top_share": DECAY}}, "scoring.top_share.*counts with scoring.pooling: top"),
        (
            {"cleaning": {"drop": {"low": 0.0, "high": 0.1}}},
            "cleaning.drop.*counts with cleaning.method: zero_crossings or",
        ),
    ],
)
def test_what_can_have_no_effect_is_not_searched(blocks: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyFileError, match=message):
        study_with(**blocks)


def test_what_has_an_effect_in_some_trials_is_searched() -> None:
    study = study_with(scoring={"pooling": {"choices": ["mean", "gwrp"]}, "decay": DECAY})
    assert {setting.name for setting in study.space.settings} == {"pooling", "decay"}
