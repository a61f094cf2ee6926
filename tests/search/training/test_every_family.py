"""What holds for every family of models, on real files through the one training: ten clips, two machine IDs."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_corpus import SAMPLE_RATE, synthesize
from models.families import FAMILIES
from search.detector.bundle import Bundle, load_bundle, save_bundle
from search.detector.scored_clips import score_clips
from search.evaluation.metrics import id_aucs
from search.evaluation.truth import Truth
from search.study.recipe import Recipe, ValidationSettings
from search.training.loop import Training
from search.validation.split import blind
from tests.support.detectors import detector_of
from tests.support.training import trained

CPU = torch.device("cpu")
IDS = ("00", "02")
N_MELS = 32

#: Of each family a small model, and what else its recipe says.
SMALL: dict[str, dict[str, Any]] = {
    "vae": {"model": {"context": 3, "h_dim": 32, "z_dim": 8}, "training": {"epochs": 15}},
    "ae": {"model": {"context": 3, "h_dim": 32, "z_dim": 8, "layers": 2}, "training": {"epochs": 15}},
    "cae": {"model": {"frames": 32, "crops_per_clip": 4, "width": 4, "z_dim": 8}, "training": {"epochs": 12}},
    "made": {"model": {"context": 2, "h_dim": 64}, "training": {"epochs": 10}},
    "group_made": {"model": {"context": 3, "h_dim": 64}, "training": {"epochs": 10}},
    "classifier": {
        "model": {"frames": 32, "crops_per_clip": 4, "backbone": "small"},
        "training": {"epochs": 8, "learning_rate": 0.0003},  # steps are few: running averages lag behind large ones
    },
    "stat": {"model": {"score": "knn"}},
    "fusion": {
        "model": {
            "members": {
                "levels": {"model": {"family": "stat"}},
                "windows": {"model": {"family": "vae", "context": 3, "h_dim": 32, "z_dim": 8}},
            }
        },
        "training": {"epochs": 10},
    },
}


def recipe_of(family: str, **training: Any) -> Recipe:
    small = SMALL[family]
    common = {"learning_rate": 0.003, "batch_size": 32, "seed": 1, "threads": 1, "calibration_share": 0.2}
    return Recipe.model_validate(
        {
            "study": family,
            "features": {"n_mels": N_MELS},
            "model": {"family": family, **small["model"]},
            "training": {**common, **small.get("training", {}), **training},
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training clips of each ID; two normal test clips of each, and two that hiss."""
    root = tmp_path_factory.mktemp("ten-clips")
    for machine_id in IDS:
        for split, label, count in (("train", "normal", 5), ("test", "normal", 4), ("test", "anomaly", 4)):
            folder = root / "compressor" / split
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                rng = np.random.default_rng([int(machine_id), split == "train", label == "anomaly", number])
                sound = synthesize(machine_id, rng, seconds=1.2)
                if label == "anomaly":
                    sound = 0.2 * sound + 0.1 * rng.standard_normal(len(sound))
                path = folder / f"{label}_id_{machine_id}_{number:08d}.wav"
                soundfile.write(path, np.clip(sound, -1, 1), SAMPLE_RATE, "PCM_16")
    return root


@pytest.fixture
def corpus(root: Path) -> Corpus:
    return blind(read_corpus(root), ValidationSettings())


# Others that are registered are stand-ins of the tests.
@pytest.fixture(params=[name for name, module in FAMILIES.items() if module.startswith("models.")])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_the_scores_of_the_clips_that_it_learns_fall(family: str, corpus: Corpus) -> None:
    recipe = recipe_of(family)
    training = Training(recipe, corpus, CPU)
    untrained = training.scores_of(training.clips.train)
    while training.epoch < recipe.epochs:
        training.run_epoch()
    learnt = training.scores_of(training.clips.train)

    if not recipe.model.is_trained or family == "fusion":  # whose scores are relative to these clips'
        assert np.isfinite(learnt).all()
    else:
        assert (learnt < untrained).mean() > 0.9


def test_it_detects_an_obvious_anomaly(family: str, corpus: Corpus) -> None:
    tree = recipe_of(family).tree()
    if (
        family == "classifier"
    ):  # it only tells two machines apart: a clip that hisses is one of them, but an unlikely one
        tree["model"] |= {"score": "mahalanobis"}
    training = trained(Recipe.model_validate(tree), corpus)

    aucs = id_aucs(training.validation_scores(), Truth.of(training.validation_clips))
    assert aucs == {f"compressor/{machine_id}": 1.0 for machine_id in IDS}


def test_one_seed_is_one_model_another_seed_another(family: str, corpus: Corpus) -> None:
    recipes = [recipe_of(family, epochs=1), recipe_of(family, epochs=1), recipe_of(family, epochs=1, seed=2)]
    one, same, other = (trained(recipe, corpus).scorer.state_dict() for recipe in recipes)

    assert all(torch.equal(one[name], same[name]) for name in one)
    if family != "stat":  # which draws nothing
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_its_loss_reaches_every_parameter(family: str, corpus: Corpus) -> None:
    training = Training(recipe_of(family), corpus, CPU)
    clips = training.recordings_of(training.clips.train)
    for single in training.scorer.singles():
        if single.member.model.is_trained:
            single.model.train()
            excerpts = clips.excerpts(single.member.features, single.member.model, single.labels)
            for batch in excerpts.shuffled(32, torch.Generator().manual_seed(0)):
                single.model.loss(batch).backward()  # type: ignore[no-untyped-call]
            parameters = dict(single.model.named_parameters())
            assert [name for name, p in parameters.items() if p.grad is None or not p.grad.any()] == []


def test_it_goes_on_from_a_checkpoint_and_ends_with_the_same_scores(family: str, corpus: Corpus) -> None:
    recipe = recipe_of(family, epochs=2)
    undisturbed = trained(recipe, corpus)
    file = BytesIO()
    interrupted = Training(recipe, corpus, CPU)
    interrupted.run_epoch()
    interrupted.save(file)
    file.seek(0)

    resumed = Training(recipe, corpus, CPU)
    resumed.resume(file)
    while resumed.epoch < recipe.epochs:
        resumed.run_epoch()

    np.testing.assert_array_equal(resumed.validation_scores(), undisturbed.validation_scores())


def test_a_bundle_scores_bit_for_bit_as_what_was_trained(family: str, root: Path, tmp_path: Path) -> None:
    detector = detector_of(recipe_of(family, epochs=1), read_corpus(root), CPU)
    save_bundle(detector, tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle")
    kept = Bundle(detector.recipe, detector.scorer.eval(), detector.labels, dict(detector.thresholds))

    paths = sorted((root / "compressor" / "test").iterdir())
    scored = list(score_clips(loaded, paths, CPU))

    assert [clip.error for clip in scored] == [None] * len(paths)
    assert scored == list(score_clips(kept, paths, CPU))


def test_how_many_excerpts_are_scored_at_a_time_changes_nothing(
    family: str, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = trained(recipe_of(family, epochs=1), corpus)
    whole = training.validation_scores()
    monkeypatch.setattr("models.scoring.network_pass._MOST_EXCERPTS", 3)

    np.testing.assert_allclose(training.validation_scores(), whole, rtol=2e-5, atol=1e-6)
