"""The one training that trials and final training share: seeds, batches, checkpoints, scores."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from features.corpus import Corpus, read_corpus
from features.errors import CorpusError, StoreError
from features.windows import Batch
from models import families
from models.anomaly_model import AnomalyModel
from models.settings import FamilySettings
from search.recipe import Recipe, ValidationSettings
from search.split import blind
from search.training import Training, TrialFailure

CPU = torch.device("cpu")
FRAMES = 32  # of a clip of one second: 1 + 16000 // 512


def recipe_with(*, context: int = 3, sample_rate: int = 16000, **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "study": "training",
            "features": {"n_mels": 32, "sample_rate": sample_rate},
            "model": {"family": "vae", "context": context, "h_dim": 16, "z_dim": 4},
            "training": {"learning_rate": 0.01, "batch_size": 64, "epochs": 3, "seed": 1, "threads": 1, **training},
        }
    )


@pytest.fixture
def corpus(corpus_root: Path) -> Corpus:
    """Blinded, as a search sees it."""
    return blind(read_corpus(corpus_root), ValidationSettings())


class ProbingSettings(FamilySettings):
    """A family that shows what a training does to its model."""

    family: Literal["probe"] = "probe"
    context: int = 1
    what: Literal["noise", "order", "dropout"]


class ProbingModel(AnomalyModel):
    """One weight, moved by drawn noise alone, by the batches' levels in their order, or scored through dropout."""

    def __init__(self, settings: ProbingSettings, *, bins: int) -> None:
        super().__init__()
        self.what = settings.what
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)
        self.modes: dict[str, set[bool]] = {"loss": set(), "score": set()}

    def loss(self, batch: Batch) -> Tensor:
        self.modes["loss"].add(self.training)
        level = torch.randn(()) if self.what == "noise" else batch.inputs.double().mean().float() + 60
        return torch.mul(self.weight, level)

    def score(self, batch: Batch) -> Tensor:
        self.modes["score"].add(self.training)
        dropped: Tensor = self.dropout(batch.inputs)
        return dropped.mean(dim=1)


@pytest.fixture
def probing_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family `probe`, added as any is: a module, and a line in FAMILIES."""
    module = ModuleType("family_probe")
    vars(module).update(Settings=ProbingSettings, Model=ProbingModel)
    monkeypatch.setitem(sys.modules, "family_probe", module)
    monkeypatch.setitem(families.FAMILIES, "probe", "family_probe")


def recipe_of_probe(what: str, batch_size: int) -> Recipe:
    recipe = recipe_with(batch_size=batch_size).tree()
    return Recipe.model_validate({**recipe, "model": {"family": "probe", "what": what}})


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: array.clone() for name, array in training.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("missing", ["seed", "threads"])
def test_a_training_needs_a_seed_and_a_number_of_threads(corpus: Corpus, missing: str) -> None:
    closed: dict[str, Any] = {missing: None}
    recipe = recipe_with(**closed)

    with pytest.raises(ValueError, match="has a seed and a number of threads"):
        Training(recipe, corpus, CPU)


def test_a_training_runs_on_its_recipe_s_threads(corpus: Corpus) -> None:
    Training(recipe_with(threads=2), corpus, CPU)

    assert torch.get_num_threads() == 2


def test_one_seed_is_one_training_whatever_was_drawn_before(corpus: Corpus) -> None:
    one = Training(recipe_with(), corpus, CPU)
    one.run_epoch()

    torch.manual_seed(99)
    np.random.seed(99)
    other = Training(recipe_with(), corpus, CPU)
    torch.rand(7)
    other.run_epoch()

    assert same(weights(one), weights(other))


def test_another_seed_is_another_training_from_the_first_weight_on(corpus: Corpus) -> None:
    one, other = (Training(recipe_with(seed=seed), corpus, CPU) for seed in (1, 2))

    assert not same(weights(one), weights(other))


@pytest.mark.usefixtures("probing_family")
@pytest.mark.parametrize(
    ("what", "batch_size"),
    [("noise", 100_000), ("order", 7)],  # one batch: the order of its windows changes nothing
)
def test_each_epoch_draws_numbers_of_its_own(corpus: Corpus, what: str, batch_size: int) -> None:
    recipe = recipe_of_probe(what, batch_size)
    two_epochs, first_epoch_twice = (Training(recipe, corpus, CPU) for _ in range(2))

    for _ in range(2):
        two_epochs.run_epoch()
        first_epoch_twice.epoch = 0
        first_epoch_twice.run_epoch()

    assert not same(weights(two_epochs), weights(first_epoch_twice))


@pytest.mark.usefixtures("probing_family")
def test_dropout_is_for_training_and_never_for_scoring(corpus: Corpus) -> None:
    training = Training(recipe_of_probe("dropout", 64), corpus, CPU)
    assert isinstance(training.model, ProbingModel)

    training.run_epoch()
    first, second = training.validation_scores(), training.validation_scores()
    training.run_epoch()

    np.testing.assert_array_equal(first, second)
    assert training.model.modes == {"loss": {True}, "score": {False}}


@pytest.mark.parametrize("batch_size", [1000, 64, 7])
def test_an_epoch_is_every_training_window_once(corpus: Corpus, batch_size: int) -> None:
    training = Training(recipe_with(batch_size=batch_size), corpus, CPU)
    windows = len(training.clips.train) * (FRAMES - 3 + 1)
    asked = 0

    def before_batch() -> None:
        nonlocal asked
        asked += 1

    training.run_epoch(before_batch)

    assert asked == math.ceil(windows / batch_size)
    assert training.epoch == 1


def test_training_lowers_the_loss_of_the_clips_it_hears(corpus: Corpus) -> None:
    training = Training(recipe_with(), corpus, CPU)
    before = training.scores_of(training.clips.train).mean()

    for _ in range(3):
        training.run_epoch()

    assert training.scores_of(training.clips.train).mean() < before / 2


def test_a_clip_s_score_does_not_depend_on_the_clips_beside_it(corpus: Corpus) -> None:
    training = Training(recipe_with(), corpus, CPU)
    together = training.scores_of(training.validation_clips)

    alone = [training.scores_of([clip])[0] for clip in training.validation_clips]
    turned = training.scores_of(training.validation_clips[::-1])

    np.testing.assert_allclose(together, alone, rtol=1e-6)
    np.testing.assert_allclose(together, turned[::-1], rtol=1e-6)
    assert len(set(alone)) == len(alone)


def test_scoring_changes_nothing(corpus: Corpus) -> None:
    training = Training(recipe_with(), corpus, CPU)
    before = weights(training)

    first, second = training.validation_scores(), training.validation_scores()

    np.testing.assert_array_equal(first, second)
    assert same(before, weights(training))
    assert first.shape == (len(training.validation_clips),)


def test_only_clips_with_a_label_are_validated_on(corpus: Corpus) -> None:
    training = Training(recipe_with(), corpus, CPU)

    assert {clip.label for clip in training.validation_clips} == {0, 1}
    assert len(training.validation_clips) == 3 * (3 + 3)  # half of 6 + 6 clips of each of three IDs


@pytest.mark.parametrize("saved_after", [1, 2])
def test_a_training_that_goes_on_from_a_checkpoint_ends_with_the_same_weights(
    corpus: Corpus, tmp_path: Path, saved_after: int
) -> None:
    undisturbed, first, second = (Training(recipe_with(), corpus, CPU) for _ in range(3))
    for _ in range(3):
        undisturbed.run_epoch()
    for _ in range(saved_after):
        first.run_epoch()

    first.save(tmp_path / "new" / "checkpoint.pt")
    second.resume(tmp_path / "new" / "checkpoint.pt")
    while second.epoch < 3:
        second.run_epoch()

    assert same(weights(undisturbed), weights(second))


def test_there_is_nothing_to_resume_where_there_is_no_checkpoint(corpus: Corpus, tmp_path: Path) -> None:
    training = Training(recipe_with(), corpus, CPU)
    before = weights(training)

    training.resume(tmp_path / "none.pt")

    assert training.epoch == 0
    assert same(before, weights(training))


def test_a_checkpoint_replaces_the_one_before_and_leaves_nothing_beside_it(corpus: Corpus, tmp_path: Path) -> None:
    training = Training(recipe_with(), corpus, CPU)
    checkpoint = tmp_path / "checkpoints" / "0.pt"

    training.run_epoch()
    training.save(checkpoint)
    training.run_epoch()
    training.save(checkpoint)

    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 2


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_half_written(corpus: Corpus, tmp_path: Path) -> None:
    in_the_way = tmp_path / "checkpoints" / "0.pt"
    in_the_way.mkdir(parents=True)

    with pytest.raises(StoreError, match=r"0\.pt cannot be written"):
        Training(recipe_with(), corpus, CPU).save(in_the_way)

    assert list(in_the_way.parent.iterdir()) == [in_the_way]
    assert list(in_the_way.iterdir()) == []


def test_a_diverged_epoch_does_not_count(corpus: Corpus) -> None:
    training = Training(recipe_with(learning_rate=1e30), corpus, CPU)

    with pytest.raises(TrialFailure, match="the loss diverged in epoch 1"):
        training.run_epoch()

    assert training.epoch == 0


def test_scores_that_are_not_numbers_are_a_failure(corpus: Corpus) -> None:
    training = Training(recipe_with(), corpus, CPU)
    for array in training.model.parameters():
        array.data.fill_(torch.nan)

    with pytest.raises(TrialFailure, match="scores are not finite after epoch 0"):
        training.validation_scores()


def test_clips_of_another_sample_rate_are_refused(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match=r"features.sample_rate is 8000 Hz, but 54 of 54 clips differ"):
        Training(recipe_with(sample_rate=8000), corpus, CPU)


def test_a_context_as_long_as_the_clips_is_one_window_each(corpus: Corpus) -> None:
    training = Training(recipe_with(context=FRAMES), corpus, CPU)

    assert len(training.windows_of(training.clips.train)) == len(training.clips.train)


def test_a_context_longer_than_a_clip_is_refused_with_the_clip(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match=r"model.context is 33 frames, but .*\.wav has only 32"):
        Training(recipe_with(context=FRAMES + 1), corpus, CPU)
