"""The family without a network, through the one training: what it hears, what it learns, what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from pydantic import ValidationError
from scipy.ndimage import median_filter
from sklearn.covariance import LedoitWolf

from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_corpus import SAMPLE_RATE, synthesize
from features.frames.feature_settings import FeatureSettings
from features.windows.excerpts import Batch
from models.labels import Labels
from models.layers.scale import Scale
from models.settings import BACKENDS
from models.stat import Model, Settings
from search.detector.bundle import load_bundle, save_bundle
from search.detector.scored_clips import score_clips
from search.study.recipe import Recipe, ValidationSettings
from search.training.loop import Training
from search.validation.split import blind
from tests.support.detectors import detector_of
from tests.support.training import trained

Array = npt.NDArray[np.float64]

CPU = torch.device("cpu")
BINS = 16


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two machine IDs of five training clips, and of four and four test clips."""
    root = tmp_path_factory.mktemp("stat")
    for split, label, count in (("train", "normal", 5), ("test", "normal", 4), ("test", "anomaly", 4)):
        (root / "fan" / split).mkdir(parents=True, exist_ok=True)
        for machine_id in ("00", "02"):
            for number in range(count):
                rng = np.random.default_rng([int(machine_id), split == "train", label == "anomaly", number])
                sound = synthesize(machine_id, rng, seconds=0.6)
                if label == "anomaly":
                    sound[2000:2500] += 0.3 * rng.standard_normal(500)  # a knock
                path = root / "fan" / split / f"{label}_id_{machine_id}_{number:08d}.wav"
                soundfile.write(path, np.clip(sound, -1, 1), SAMPLE_RATE, "PCM_16")
    return read_corpus(root)


def recipe_of(**model: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "study": "stat",
            "features": {"n_mels": BINS},
            "model": {"family": "stat", **model},
            "training": {"seed": 0, "threads": 1, "calibration_share": 0.2},
        }
    )


@pytest.fixture
def training_of(corpus: Corpus) -> Callable[..., Training]:
    return lambda **model: trained(recipe_of(**model), blind(corpus, ValidationSettings()))


def profile(training: Training, path: Path, decay: float) -> Array:
    """A clip's bands over time from the definition, scaled as the entry's: (x + 90) / 114 within [0, 1]."""
    clip = next(clip for clip in training.validation_clips + training.clips.train if clip.path == path)
    scaled = np.clip((training.frames_of(clip).astype(np.float64) + 90) / 114, 0, 1)
    weights = [decay**rank for rank in range(len(scaled))]
    return np.asarray(np.average(-np.sort(-scaled, axis=0), axis=0, weights=weights))


def test_its_defaults_are_the_mean_over_time_and_the_distance_from_the_healthy_ones() -> None:
    settings = Settings()
    assert (settings.statistic, settings.decay, settings.whiten) == ("mean", 1.0, 0)
    assert (settings.score, settings.backend) == ("mahalanobis", "mahalanobis")
    assert (settings.excerpt_frames(128), settings.is_trained) == (1, False)


def test_it_embeds_frames_as_they_are_between_the_bins_limits() -> None:
    model = Model(Settings(), Scale(FeatureSettings(n_mels=2).limits), Labels.of([("fan/00", "")]))
    levels = torch.tensor([[-90.0, 24.0], [-33.0, 300.0], [-300.0, -33.0]])
    embedded = model.embed(Batch(inputs=levels, clips=torch.zeros(3, dtype=torch.int64)))
    np.testing.assert_allclose(embedded, [[0.0, 1.0], [0.5, 1.0], [0.0, 0.5]], atol=1e-6)
    assert list(model.parameters()) == []


@pytest.mark.parametrize("decay", [0.0, 0.8, 1.0])
def test_its_score_is_a_density_of_each_ids_bands_pooled_by_rank(
    training_of: Callable[..., Training], decay: float
) -> None:
    training = training_of(decay=decay)
    scores = training.validation_scores()
    for index, clip in enumerate(training.validation_clips):
        of_the_id = [normal for normal in training.clips.train if normal.id_name == clip.id_name]
        healthy = np.stack([profile(training, normal.path, decay) for normal in of_the_id])
        expected = LedoitWolf().fit(healthy).mahalanobis(profile(training, clip.path, decay)[None])
        assert scores[index] == pytest.approx(float(expected[0]) ** 0.5, rel=1e-3)


def test_statistics_are_stacked_and_whitened_part_by_part(training_of: Callable[..., Training]) -> None:
    training = training_of(statistic="quantile+maximum", share=0.25, whiten=5)
    rows = {}
    for clip in training.validation_clips + training.clips.train:
        scaled = np.clip((training.frames_of(clip).astype(np.float64) + 90) / 114, 0, 1)
        parts = np.quantile(scaled, 0.25, axis=0), scaled.max(axis=0)
        rows[clip.path] = np.concatenate([part - median_filter(part, 5, mode="nearest") for part in parts])
    scores = training.validation_scores()
    for index, clip in enumerate(training.validation_clips):
        healthy = [rows[normal.path] for normal in training.clips.train if normal.id_name == clip.id_name]
        expected = LedoitWolf().fit(healthy).mahalanobis(rows[clip.path][None])
        assert scores[index] == pytest.approx(float(expected[0]) ** 0.5, rel=1e-3)


def test_noise_that_comes_and_goes_hides_a_hum_from_the_loud_side_and_not_from_the_quiet_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, label, count in (("train", "normal", 8), ("test", "normal", 6), ("test", "anomaly", 6)):
        (tmp_path / "fan" / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
            noise = np.where(np.sin(2 * np.pi * (2 * time + rng.uniform())) > -0.5, rng.uniform(0.05, 0.3), 0.001)
            hum = (0.005 if label == "anomaly" else 0.002) * np.sin(2 * np.pi * 1000 * time)
            sound = hum + noise * rng.standard_normal(SAMPLE_RATE)
            path = tmp_path / "fan" / split / f"{label}_id_00_{number:08d}.wav"
            soundfile.write(path, np.clip(sound, -1, 1), SAMPLE_RATE, "PCM_16")
    corpus = read_corpus(tmp_path)

    aucs = {}
    for statistic in ("maximum", "loud", "quantile", "quiet"):
        recipe = recipe_of(statistic=statistic, share=0.1)
        aucs[statistic] = detector_of(recipe, corpus, CPU).validation.auc

    assert min(aucs["quantile"], aucs["quiet"]) == 1.0
    assert max(aucs["maximum"], aucs["loud"]) < 0.9


def test_a_short_knock_is_heard_by_the_loudest_frames_and_lost_in_the_mean(
    training_of: Callable[..., Training],
) -> None:
    ratios = []
    for decay in (1.0, 0.0):
        training = training_of(decay=decay)
        scores = training.validation_scores()
        labels = np.array([clip.label for clip in training.validation_clips])
        ratios.append(scores[labels == 1].mean() / scores[labels == 0].mean())
    assert ratios[1] > 1.5 * ratios[0]


def test_it_takes_one_pass_that_trains_nothing(training_of: Callable[..., Training], corpus: Corpus) -> None:
    recipe = recipe_of()
    untouched = Training(recipe, blind(corpus, ValidationSettings()), CPU).validation_scores()
    training = training_of()
    assert (recipe.epochs, training.epoch) == (1, 1)
    np.testing.assert_array_equal(training.validation_scores(), untouched)


@pytest.mark.parametrize(
    "model",
    [*({"score": score} for score in BACKENDS), {"per_id": True}, {"statistic": "mean+loud", "whiten": 3}],
    ids=str,
)
def test_a_bundle_scores_as_what_was_saved(corpus: Corpus, model: dict[str, Any], tmp_path: Path) -> None:
    detector = detector_of(recipe_of(decay=0.5, **model), corpus, CPU)
    save_bundle(detector, tmp_path / "bundle")

    loaded = load_bundle(tmp_path / "bundle")
    paths = [clip.path for clip in corpus.clips]
    after = [clip.score for clip in score_clips(loaded, paths, CPU)]
    loaded.scorer.load_state_dict(detector.scorer.state_dict())
    before = [clip.score for clip in score_clips(loaded, paths, CPU)]

    assert after == before
    # Few normal clips make a narrow kernel: clips that are far from them have one score.
    assert detector.validation.auc > (0.7 if model.get("score") == "exposure" else 0.9)
    assert loaded.thresholds.keys() == {"fan/00", "fan/02"}


def test_one_frame_is_enough(tmp_path: Path) -> None:
    # n_fft 1024, centred: a clip of 100 samples is one frame.
    for split, label, count in (("train", "normal", 3), ("test", "normal", 2), ("test", "anomaly", 2)):
        (tmp_path / "fan" / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise = np.random.default_rng([split == "train", label == "anomaly", number]).standard_normal(600)
            gain = 0.5 if label == "anomaly" else 0.01
            soundfile.write(tmp_path / "fan" / split / f"{label}_id_00_{number:08d}.wav", gain * noise, SAMPLE_RATE)
    recipe = recipe_of()

    detector = detector_of(recipe, read_corpus(tmp_path), CPU)

    assert detector.validation.auc == 1.0


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"decay": 1.1}, "less than or equal to 1"),
        ({"decay": -0.1}, "greater than or equal to 0"),
        ({"score": "reconstruction"}, "should be 'mahalanobis', 'gmm', 'knn', 'lof', 'ocsvm' or 'exposure'"),
        ({"context": 3}, "Extra inputs are not permitted"),
        ({"neighbours": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Settings.model_validate(content)
