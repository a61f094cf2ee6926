"""The one training that trials and final training share: seeds, batches, checkpoints, scores."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from features.clips.corpus import Corpus, read_corpus
from features.errors import CorpusError, UnservedError
from features.windows.excerpts import Batch
from models.anomaly_model import AnomalyModel
from models.labels import Labels
from models.layers.scale import Scale
from models.settings import WindowSettings
from search.errors import TrialFailure
from search.study.recipe import Recipe, ValidationSettings
from search.training.loop import Training
from search.validation.split import blind
from tests.support.families import add_family
from tests.support.training import excerpts_of, models_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")

#: A device whose arrays have shapes and no values: whoever waits for a value of one fails.
VALUELESS = torch.device("meta")
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


class ProbingSettings(WindowSettings):
    """A family that shows what a training does to its model."""

    family: Literal["probe"] = "probe"
    context: int = 1
    what: Literal["noise", "order", "dropout", "error"]


class ProbingModel(AnomalyModel):
    """One weight, moved by drawn noise alone, by the batches' levels in their order, or scored through dropout.

    With "error", its loss raises one like `error`.
    """

    error: Exception

    def __init__(self, settings: ProbingSettings, scale: Scale, labels: Labels) -> None:
        super().__init__()
        self.what = settings.what
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)
        self.modes: dict[str, set[bool]] = {"loss": set(), "score": set()}
        self.scored = 0  # batches

    def loss(self, batch: Batch) -> Tensor:
        self.modes["loss"].add(self.training)
        if self.what == "error":
            raise type(self.error)(*self.error.args)
        level = torch.randn(()) if self.what == "noise" else batch.inputs.double().mean().float() + 60
        return torch.mul(self.weight, level)

    def score(self, batch: Batch) -> Tensor:
        self.modes["score"].add(self.training)
        self.scored += 1
        dropped: Tensor = self.dropout(batch.inputs)
        return dropped.mean(dim=1)


@pytest.fixture
def probing_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family `probe`, added as any is: a module, and a line in FAMILIES."""
    add_family(monkeypatch, "probe", Settings=ProbingSettings, Model=ProbingModel)


def recipe_of_probe(what: str, batch_size: int = 64) -> Recipe:
    recipe = recipe_with(batch_size=batch_size).tree()
    return Recipe.model_validate({**recipe, "model": {"family": "probe", "what": what}})


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: array.clone() for name, array in models_of(training)[0].state_dict().items()}


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
    model = models_of(training)[0]
    assert isinstance(model, ProbingModel)

    training.run_epoch()
    first, second = training.validation_scores(), training.validation_scores()
    training.run_epoch()

    np.testing.assert_array_equal(first, second)
    assert model.modes == {"loss": {True}, "score": {False}}


@pytest.mark.parametrize("batch_size", [1000, 64, 7])
def test_an_epoch_is_every_training_window_once(corpus: Corpus, batch_size: int) -> None:
    training = Training(recipe_with(batch_size=batch_size), corpus, CPU)
    asked = 0

    def before_batch() -> None:
        nonlocal asked
        asked += 1

    training.run_epoch(before_batch)

    assert asked == batches_of(training)
    assert training.epoch == 1


def test_training_lowers_the_loss_of_its_clips(corpus: Corpus) -> None:
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


def fail_at_the_first_value(training: Training) -> int:
    """Runs an epoch on VALUELESS until a value is needed; returns how many batches had started by then."""
    begun = 0

    def before_batch() -> None:
        nonlocal begun
        begun += 1

    with pytest.raises(RuntimeError, match="meta"):
        training.run_epoch(before_batch)
    return begun


def batches_of(training: Training) -> int:
    windows = len(training.clips.train) * (FRAMES - training.recipe.model.excerpt_frames(32) + 1)
    return math.ceil(windows / training.recipe.training.batch_size)


def checkpoint_of(training: Training) -> BytesIO:
    file = BytesIO()
    training.save(file)
    file.seek(0)
    return file


@pytest.mark.parametrize("saved_after", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_that_goes_on_from_a_checkpoint_ends_with_the_same_weights(
    corpus: Corpus, saved_after: int, precision: str
) -> None:
    undisturbed, first, second = (Training(recipe_with(precision=precision), corpus, CPU) for _ in range(3))
    for _ in range(3):
        undisturbed.run_epoch()
    for _ in range(saved_after):
        first.run_epoch()

    second.resume(checkpoint_of(first))
    assert second.epoch == saved_after
    while second.epoch < 3:
        second.run_epoch()

    assert same(weights(undisturbed), weights(second))


def test_a_checkpoint_of_a_gpu_goes_on_where_there_is_none(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Training(recipe_with(), corpus, CPU) for _ in range(2))
    first.run_epoch()
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:1")
        checkpoint = checkpoint_of(first)

    second.resume(checkpoint)

    assert same(weights(first), weights(second))


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_checkpoint_of_the_cpu_goes_on_at_another_device(corpus: Corpus) -> None:
    here, there = Training(recipe_with(), corpus, CPU), Training(recipe_with(), corpus, VALUELESS)
    here.run_epoch()

    there.resume(checkpoint_of(here))

    assert there.epoch == 1
    assert {array.device for array in models_of(there)[0].state_dict().values()} == {VALUELESS}
    # Adam's moments are beside the weights, its counters where it reads them.
    assert fail_at_the_first_value(there) == batches_of(there)


def test_an_epoch_waits_for_the_device_after_its_last_batch_alone(corpus: Corpus) -> None:
    training = Training(recipe_with(), corpus, VALUELESS)

    assert fail_at_the_first_value(training) == batches_of(training)


@pytest.mark.usefixtures("probing_family")
def test_scoring_waits_for_the_device_after_its_last_batch_alone(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.scoring.network_pass._MOST_EXCERPTS", 100)
    training = Training(recipe_of_probe("dropout"), corpus, VALUELESS)
    model = models_of(training)[0]
    assert isinstance(model, ProbingModel)

    with pytest.raises(NotImplementedError, match="no data"):
        training.validation_scores()

    assert model.scored == math.ceil(len(training.validation_clips) * FRAMES / 100)


def test_the_order_of_windows_is_the_same_on_every_device(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    permuted = torch.randperm

    def noted(*arguments: Any, **options: Any) -> Tensor:
        drawn.append(permuted(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(torch, "randperm", noted)
    Training(recipe_with(), corpus, CPU).run_epoch()
    fail_at_the_first_value(Training(recipe_with(), corpus, VALUELESS))

    here, there = drawn
    assert torch.equal(here, there)


class TestBfloat16:
    def test_is_used_for_losses_and_for_nothing_else(self, corpus: Corpus) -> None:
        training = Training(recipe_with(precision="bfloat16"), corpus, CPU)
        used: list[tuple[torch.dtype, torch.dtype | None]] = []
        models_of(training)[0].encoder.register_forward_hook(  # type: ignore[union-attr]
            lambda module, inputs, output: used.append((inputs[0].dtype, output.dtype))
        )

        training.run_epoch()

        assert set(used) == {(torch.float32, torch.bfloat16)}
        used.clear()
        training.validation_scores()
        training.reconstruction_of(training.validation_clips[0])
        assert set(used) == {(torch.float32, torch.float32)}
        assert {array.dtype for array in models_of(training)[0].state_dict().values()} == {torch.float32}
        assert {array.grad.dtype for array in models_of(training)[0].parameters() if array.grad is not None} == {
            torch.float32
        }

    @pytest.mark.parametrize("model", [{"family": "vae"}, {"family": "classifier", "score": "knn", "frames": 16}])
    def test_of_the_training_changes_no_score_of_the_same_weights(self, corpus: Corpus, model: dict[str, Any]) -> None:
        tree = recipe_with(batch_size=8, epochs=1).tree()
        coarse, exact = (
            Training(Recipe.model_validate(tree | {"model": model, "training": training}), corpus, CPU)
            for training in ({**tree["training"], "precision": p} for p in ("bfloat16", "float32"))
        )
        coarse.run_epoch()

        exact.resume(checkpoint_of(coarse))

        np.testing.assert_array_equal(coarse.validation_scores(), exact.validation_scores())

    def test_gives_scores_of_full_precision_near_those_of_float32(self, corpus: Corpus) -> None:
        exact, coarse = (Training(recipe_with(precision=p), corpus, CPU) for p in ("float32", "bfloat16"))
        for training in (exact, coarse):
            training.run_epoch()

        scores = coarse.validation_scores()

        assert scores.dtype == np.float64
        assert (scores != exact.validation_scores()).any()
        np.testing.assert_allclose(scores, exact.validation_scores(), rtol=0.05)

    @pytest.mark.parametrize(("native", "precision"), [(set(), "float32"), ({"avx512_bf16"}, "bfloat16")])
    def test_is_the_default_where_the_device_computes_it_natively(
        self, corpus: Corpus, native: set[str], precision: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        explicit = Training(recipe_with(precision=precision), corpus, CPU)
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: dict.fromkeys(native, True), raising=False)
        default = Training(recipe_with(), corpus, CPU)
        default.run_epoch()
        explicit.run_epoch()

        assert default.recipe.training.precision == precision
        assert same(weights(default), weights(explicit))


@pytest.mark.usefixtures("probing_family")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    ],
    ids=["GPU", "numpy", "torch on the CPU"],
)
def test_memory_that_runs_out_is_the_trial_s_failure(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(ProbingModel, "error", error, raising=False)

    with pytest.raises(TrialFailure, match="^out of memory$"):
        Training(recipe_of_probe("error"), corpus, CPU).run_epoch()


@pytest.mark.usefixtures("probing_family")
@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
    ids=str,
)
def test_another_error_of_a_gpu_is_the_machine_s_failure(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(ProbingModel, "error", error, raising=False)

    with pytest.raises(RuntimeError) as raised:
        Training(recipe_of_probe("error"), corpus, CPU).run_epoch()

    assert repr(raised.value) == repr(error)


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that a GPU's cache is emptied: whether all models are gone by then."""
    models: list[weakref.ref[ProbingModel]] = []
    emptied: list[bool] = []
    initialise = ProbingModel.__init__

    def noted(model: ProbingModel, *arguments: Any, **options: Any) -> None:
        models.append(weakref.ref(model))
        initialise(model, *arguments, **options)

    monkeypatch.setattr(ProbingModel, "__init__", noted)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(not any(model() for model in models)))
    return emptied


@pytest.mark.usefixtures("probing_family")
def test_what_a_failed_training_held_on_a_gpu_is_freed_before_the_next_one(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, freed: list[bool]
) -> None:
    monkeypatch.setattr(ProbingModel, "error", torch.OutOfMemoryError("CUDA out of memory."), raising=False)

    training = Training(recipe_of_probe("error"), corpus, CPU)
    model = models_of(training)[0]
    vars(model)["itself"] = model  # so that only the garbage collector frees it
    with pytest.raises(TrialFailure):
        training.run_epoch()
    del training, model
    assert freed == []

    with pytest.raises(CorpusError):  # before anything is asked of the GPU, which is not there
        Training(recipe_with(context=FRAMES + 1, precision="float32"), corpus, GPU)

    assert freed == [True]


def test_a_diverged_epoch_does_not_count(corpus: Corpus) -> None:
    training = Training(recipe_with(learning_rate=1e30), corpus, CPU)

    with pytest.raises(TrialFailure, match="the loss diverged in epoch 1"):
        training.run_epoch()

    assert training.epoch == 0


def test_scores_that_are_not_numbers_are_a_failure(corpus: Corpus) -> None:
    training = Training(recipe_with(), corpus, CPU)
    for array in models_of(training)[0].parameters():
        array.data.fill_(torch.nan)

    with pytest.raises(TrialFailure, match="scores are not finite after epoch 0"):
        training.validation_scores()


def test_clips_of_another_sample_rate_are_refused(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match=r"features.sample_rate is 8000 Hz, but 54 of 54 clips differ"):
        Training(recipe_with(sample_rate=8000), corpus, CPU)


def test_a_context_as_long_as_the_clips_is_one_window_each(corpus: Corpus) -> None:
    training = Training(recipe_with(context=FRAMES), corpus, CPU)

    assert len(excerpts_of(training, training.clips.train)) == len(training.clips.train)


def test_a_context_longer_than_a_clip_is_refused_with_the_clip(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match=r"model.context is 33 frames, but .*\.wav has only 32"):
        Training(recipe_with(context=FRAMES + 1), corpus, CPU)


@pytest.mark.parametrize(("batch_size", "context"), [(1, 3), (64, FRAMES)])
def test_a_single_window_cannot_be_normalised_over_its_batch_and_is_refused_before_any_training(
    corpus: Corpus, batch_size: int, context: int
) -> None:
    tree = recipe_with(context=context, batch_size=batch_size, calibration_share=0.0).tree()
    tree["model"] = {"family": "ae", "context": context, "layers": 1, "h_dim": 8, "z_dim": 4}
    (one,) = [clip for clip in corpus.clips if clip.split == "train" and clip.name.endswith("00_00000000.wav")]
    of_one = replace(corpus, clips=(one, *(c for c in corpus.clips if c.split == "test" and c.id_name == one.id_name)))

    with pytest.raises(UnservedError, match="at least 2 windows or crops at a time, but training.batch_size is"):
        Training(Recipe.model_validate(tree), of_one, CPU)


def test_a_training_that_is_over_is_freed_at_once(corpus: Corpus) -> None:
    # Without the garbage collector's help: on the CPU nobody calls it, and models would pile up.
    training = Training(recipe_with(), corpus, CPU)
    training.validation_scores()
    model = weakref.ref(models_of(training)[0])
    gc.disable()
    try:
        del training
        assert model() is None
    finally:
        gc.enable()
