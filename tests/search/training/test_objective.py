"""What a trial does: its value, its reports, its end by pruning or failure, and how it goes on when interrupted."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import soundfile
import torch
from optuna.trial import FixedTrial, TrialState

from features.clips.corpus import read_corpus
from models.scoring.scores import Scores
from models.settings import BACKENDS
from search.artifacts.checkpoints import Resumable
from search.errors import TrialFailure
from search.evaluation.metrics import mean_auc
from search.study.recipe import ValidationSettings
from search.study.study import Study
from search.study.study_file import study_of_tree
from search.study.trial_recipe import trial_recipe
from search.training.loop import Training
from search.training.objective import objective
from search.validation.views import ValidationData, validation_data_of
from tests.support.quick import QuickTraining

EPOCHS = 3

TINY: dict[str, Any] = {
    "study": "objective",
    "features": {"n_mels": 32},
    "model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4},
    "training": {"learning_rate": 0.01, "batch_size": 64, "epochs": EPOCHS},
}


class RecordingTrial(FixedTrial):
    """A trial with given parameters. It keeps what was reported, and is pruned after `prune_after` epochs.

    `reports` are (epoch, value); `done` is what happened, in order.
    """

    def __init__(self, params: Mapping[str, Any], *, number: int = 0, prune_after: int | None = None) -> None:
        super().__init__(dict(params), number=number)
        self.reports: list[tuple[int, float]] = []
        self.done: list[str] = []
        self._prune_after = prune_after

    def report(self, value: float, step: int) -> None:
        self.reports.append((step, value))
        self.done.append(f"report {step}")

    def should_prune(self) -> bool:
        self.done.append("ask")
        return self._prune_after is not None and len(self.reports) >= self._prune_after


class Interrupted(Exception):
    """What a worker raises before a batch, when it has to stop."""


def interruption(after_batches: int) -> Callable[[], None]:
    """Interrupts a training after this number of batches."""
    passed = 0

    def before_batch() -> None:
        nonlocal passed
        if passed == after_batches:
            raise Interrupted
        passed += 1

    return before_batch


class Checkpoints:
    """The checkpoints that a trial saved after its epochs."""

    def __init__(self) -> None:
        self._left: list[bytes] = []

    def keep(self, training: Resumable) -> None:
        file = io.BytesIO()
        training.save(file)
        self._left.append(file.getvalue())

    def last(self) -> io.BytesIO | None:
        return io.BytesIO(self._left[-1]) if self._left else None


def study_with(**blocks: Any) -> Study:
    return study_of_tree({**TINY, **blocks}, origin="here")


@pytest.fixture
def validation_data(corpus_root: Path) -> ValidationData:
    """Blinded, as a search sees it."""
    return validation_data_of(read_corpus(corpus_root), ValidationSettings())


def batches_of_an_epoch(validation_data: ValidationData) -> int:
    count = 0

    def before_batch() -> None:
        nonlocal count
        count += 1

    objective(
        FixedTrial({"h_dim": 16}),
        study_with(training={**TINY["training"], "epochs": 1}),
        validation_data,
        before_batch=before_batch,
    )
    return count


def test_the_value_is_the_validation_auc_after_the_last_epoch(validation_data: ValidationData) -> None:
    scores: list[Scores] = []
    trial = RecordingTrial({"h_dim": 16})

    value = objective(trial, study_with(), validation_data, on_scores=scores.append)

    assert value == mean_auc(scores[-1], validation_data.truth)
    assert value == trial.reports[-1][1]
    assert 0 <= value <= 1


def test_each_epoch_is_reported_once_with_its_own_auc(validation_data: ValidationData) -> None:
    scores: list[Scores] = []
    trial = RecordingTrial({"h_dim": 16})

    objective(trial, study_with(), validation_data, on_scores=scores.append)

    truth = validation_data.truth
    assert trial.reports == [(epoch, mean_auc(of_epoch, truth)) for epoch, of_epoch in enumerate(scores, 1)]
    assert [step for step, _ in trial.reports] == [1, 2, 3]


def test_the_value_is_the_last_epoch_s_even_where_an_earlier_one_was_better(validation_data: ValidationData) -> None:
    trials = [RecordingTrial({"h_dim": 64}, number=number) for number in range(8)]
    values = [float(objective(trial, study_with(), validation_data)) for trial in trials]  # type: ignore[arg-type]
    best = [max(value for _, value in trial.reports) for trial in trials]

    assert values == [trial.reports[-1][1] for trial in trials]
    assert any(value < best_epoch for value, best_epoch in zip(values, best, strict=True))


def test_the_same_trial_twice_is_the_same_computation(validation_data: ValidationData) -> None:
    scores: list[Scores] = []

    values = [
        objective(FixedTrial({"h_dim": 16}, number=5), study_with(), validation_data, on_scores=scores.append)
        for _ in "ab"
    ]

    assert values[0] == values[1]
    for first, second in zip(scores[:EPOCHS], scores[EPOCHS:], strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("params", "number", "blocks"),
    [
        ({"h_dim": 17}, 5, {}),
        ({"h_dim": 16}, 6, {}),
        ({"h_dim": 16}, 5, {"search": {"seed": 1}}),
        ({"h_dim": 16}, 5, {"training": {**TINY["training"], "batch_size": 65}}),
        ({"h_dim": 16}, 5, {"training": {**TINY["training"], "learning_rate": 0.011}}),
        ({"h_dim": 16}, 5, {"features": {"n_mels": 33}}),
        ({"h_dim": 16}, 5, {"scoring": {"pooling": "max"}}),
    ],
)
def test_another_setting_or_another_number_is_another_computation(
    validation_data: ValidationData, params: dict[str, int], number: int, blocks: dict[str, Any]
) -> None:
    scores: list[Scores] = []

    objective(FixedTrial({"h_dim": 16}, number=5), study_with(), validation_data, on_scores=scores.append)
    objective(FixedTrial(params, number=number), study_with(**blocks), validation_data, on_scores=scores.append)

    assert not np.array_equal(scores[EPOCHS - 1], scores[-1])


def test_the_trial_says_on_how_many_threads_it_ran(validation_data: ValidationData) -> None:
    of_the_process, of_the_study = FixedTrial({"h_dim": 16}), FixedTrial({"h_dim": 16})

    objective(of_the_process, study_with(), validation_data)
    torch.set_num_threads(2)
    objective(of_the_study, study_with(training={**TINY["training"], "threads": 1}), validation_data)

    assert of_the_process.user_attrs["threads"] == 1
    assert of_the_study.user_attrs["threads"] == 1
    assert trial_recipe(study_with(), FixedTrial({"h_dim": 16}), threads=4).training.threads == 4


@pytest.mark.parametrize(("instructions", "precision"), [({}, "float32"), ({"amx_bf16": True}, "bfloat16")])
def test_the_trial_says_in_which_precision_it_trains(
    validation_data: ValidationData, instructions: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: instructions, raising=False)
    trials = [FixedTrial({"h_dim": 16}, number=5) for _ in range(2)]

    left_open, explicit = (
        objective(trial, study_with(training={**TINY["training"], "precision": setting}), validation_data)
        for trial, setting in zip(trials, ("auto", precision), strict=True)
    )

    assert left_open == explicit
    assert [trial.user_attrs["precision"] for trial in trials] == [precision, precision]


@pytest.mark.parametrize("finished_epochs", [0, 1, 2])
@pytest.mark.parametrize("into_the_next", [0, 1])
def test_an_interrupted_trial_goes_on_and_ends_as_if_it_had_never_stopped(
    validation_data: ValidationData, finished_epochs: int, into_the_next: int
) -> None:
    undisturbed, first, second = (RecordingTrial({"h_dim": 16}, number=5) for _ in range(3))
    scores: list[Scores] = []
    checkpoints = Checkpoints()
    value = objective(undisturbed, study_with(), validation_data, on_scores=scores.append)
    stop = interruption(finished_epochs * batches_of_an_epoch(validation_data) + into_the_next)

    with pytest.raises(Interrupted):
        objective(first, study_with(), validation_data, before_batch=stop, after_epoch=checkpoints.keep)
    resumed = objective(second, study_with(), validation_data, checkpoint=checkpoints.last(), on_scores=scores.append)

    assert resumed == value
    assert first.reports + second.reports == undisturbed.reports  # no epoch lost, none repeated
    np.testing.assert_array_equal(scores[-1], scores[EPOCHS - 1])


def test_an_epoch_is_reported_after_its_checkpoint_was_left(validation_data: ValidationData) -> None:
    trial = RecordingTrial({"h_dim": 16}, number=5)

    objective(
        trial,
        study_with(),
        validation_data,
        train=QuickTraining,
        after_epoch=lambda training: trial.done.append(f"checkpoint {training.epoch}"),
    )

    written = [step for step in trial.done if step != "ask"]
    assert written == [f"{what} {epoch}" for epoch in (1, 2, 3) for what in ("checkpoint", "report")]


def test_an_epoch_that_was_not_reported_is_repeated_from_the_checkpoint_before_it(
    validation_data: ValidationData,
) -> None:
    checkpoints = Checkpoints()
    undisturbed, killed, successor = (RecordingTrial({"h_dim": 16}, number=5) for _ in range(3))
    objective(undisturbed, study_with(), validation_data)

    def dies_in_the_second(training: Resumable) -> None:
        if training.epoch == 2:
            raise Interrupted
        checkpoints.keep(training)

    with pytest.raises(Interrupted):
        objective(killed, study_with(), validation_data, after_epoch=dies_in_the_second)
    objective(successor, study_with(), validation_data, checkpoint=checkpoints.last())

    assert killed.reports == undisturbed.reports[:1]
    assert successor.reports == undisturbed.reports[1:]


def test_a_trial_that_continues_from_a_checkpoint_is_asked_for_pruning_before_its_next_epoch(
    validation_data: ValidationData,
) -> None:
    checkpoints = Checkpoints()
    with pytest.raises(optuna.TrialPruned):
        objective(
            RecordingTrial({"h_dim": 16}, number=5, prune_after=1),
            study_with(),
            validation_data,
            train=QuickTraining,
            after_epoch=checkpoints.keep,
        )
    successor = RecordingTrial({"h_dim": 16}, number=5, prune_after=0)

    with pytest.raises(optuna.TrialPruned):
        objective(
            successor,
            study_with(),
            validation_data,
            train=QuickTraining,
            checkpoint=checkpoints.last(),
            before_batch=interruption(0),
        )

    assert successor.done == ["ask"]


def test_a_trial_that_goes_on_after_its_last_epoch_has_its_value_without_training(
    validation_data: ValidationData,
) -> None:
    checkpoints = Checkpoints()
    value = objective(
        RecordingTrial({"h_dim": 16}, number=5), study_with(), validation_data, after_epoch=checkpoints.keep
    )
    successor = RecordingTrial({"h_dim": 16}, number=5, prune_after=0)
    scores: list[Scores] = []

    again = objective(
        successor,
        study_with(),
        validation_data,
        checkpoint=checkpoints.last(),
        before_batch=interruption(0),
        on_scores=scores.append,
    )

    assert again == value
    assert mean_auc(scores[-1], validation_data.truth) == value
    assert successor.done == [], "neither asked for pruning nor reported again"


def test_a_trial_leaves_no_file_by_itself(validation_data: ValidationData, tmp_path: Path) -> None:
    objective(FixedTrial({"h_dim": 16}), study_with(), validation_data)

    assert {path.name for path in tmp_path.iterdir()} == {"cache"}  # the frame store


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_pruned_trial_ends_after_the_epoch_that_it_is_pruned_in(validation_data: ValidationData, epoch: int) -> None:
    trial = RecordingTrial({"h_dim": 16}, prune_after=epoch)

    with pytest.raises(optuna.TrialPruned):
        objective(trial, study_with(), validation_data)

    assert [step for step, _ in trial.reports] == list(range(1, epoch + 1))


def test_a_trial_that_has_reached_its_last_epoch_is_never_pruned(validation_data: ValidationData) -> None:
    trial = RecordingTrial({"h_dim": 16}, prune_after=EPOCHS)

    assert objective(trial, study_with(), validation_data) == trial.reports[-1][1]


def test_it_serves_an_optuna_study_with_a_pruner_as_any_objective_does(validation_data: ValidationData) -> None:
    optuna_study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2),  # an AUC never gets there
    )

    optuna_study.optimize(lambda trial: objective(trial, study_with(), validation_data), n_trials=2)

    assert [trial.state for trial in optuna_study.trials] == [TrialState.PRUNED] * 2
    assert [trial.last_step for trial in optuna_study.trials] == [2, 2]
    assert all(8 <= trial.params["h_dim"] <= 64 for trial in optuna_study.trials)


def test_the_baseline_is_never_pruned_since_others_are_compared_with_its_last_value(
    validation_data: ValidationData,
) -> None:
    study = study_with(baseline={"h_dim": 16})

    baseline = RecordingTrial({"h_dim": 16}, number=0, prune_after=1)
    objective(baseline, study, validation_data)

    assert [epoch for epoch, _ in baseline.reports] == [1, 2, 3]
    with pytest.raises(optuna.TrialPruned):
        objective(RecordingTrial({"h_dim": 16}, number=1, prune_after=1), study, validation_data)


@pytest.mark.parametrize("learning_rate", [1e5, 1e15, 1e30])
def test_a_diverging_loss_ends_the_trial_as_its_own_failure(
    validation_data: ValidationData, learning_rate: float
) -> None:
    study = study_with(training={**TINY["training"], "learning_rate": learning_rate})

    with pytest.raises(TrialFailure, match=r"the loss diverged in epoch \d|scores are not finite after epoch \d"):
        objective(FixedTrial({"h_dim": 16}), study, validation_data)


def test_settings_that_exclude_each_other_end_the_trial_as_its_own_failure(validation_data: ValidationData) -> None:
    study = study_with(features={"n_mels": {"low": 32, "high": 512}, "n_fft": {"low": 256, "high": 1024}})

    with pytest.raises(
        TrialFailure, match="impossible setting: features: n_mels ≤ n_fft / 2 must hold, but got n_mels = 300"
    ):
        objective(FixedTrial({"h_dim": 16, "n_mels": 300, "n_fft": 256}), study, validation_data)


def test_a_window_that_a_clip_does_not_fill_ends_the_trial_as_its_own_failure(validation_data: ValidationData) -> None:
    study = study_with(model={**TINY["model"], "context": {"low": 3, "high": 64}})

    with pytest.raises(TrialFailure, match=r"impossible setting: model.context is 60 frames, but .*\.wav has only 32"):
        objective(FixedTrial({"h_dim": 16, "context": 60}), study, validation_data)


@pytest.mark.parametrize("score", BACKENDS)
@pytest.mark.parametrize("count", [1, 2, 3])  # of two or three, one is withheld
def test_a_density_of_one_or_two_training_clips_scores_others(tmp_path: Path, score: str, count: int) -> None:
    model = {"family": "stat", "score": score, "standardize": True}
    value = objective(FixedTrial({}), study_with(model=model), few_training_clips(tmp_path, count))

    # A support vector machine of two clips is narrow, and scores all clips alike that are far from them.
    assert value == 1.0 or (score in ("ocsvm", "exposure") and value == 0.5)


def test_a_density_that_takes_more_training_clips_ends_the_trial_as_its_own_failure(tmp_path: Path) -> None:
    study = study_with(model={"family": "stat", "score": "knn", "distance": "cosine", "standardize": True})

    with pytest.raises(TrialFailure, match="impossible setting: fan/00: model.distance: cosine compares directions"):
        objective(FixedTrial({}), study, few_training_clips(tmp_path, 1))
    assert np.isfinite(objective(FixedTrial({}), study, few_training_clips(tmp_path / "more", 3)))


def few_training_clips(root: Path, count: int) -> ValidationData:
    """The labelled clips of a machine whose faults are loud, beside so many training clips."""
    for split, label, clips in (("train", "normal", count), ("test", "normal", 4), ("test", "anomaly", 4)):
        (root / "fan" / split).mkdir(parents=True, exist_ok=True)
        for number in range(clips):
            noise = np.random.default_rng([split == "train", label == "anomaly", number]).standard_normal(16000)
            gain = 0.2 if label == "anomaly" else 0.01
            soundfile.write(root / "fan" / split / f"{label}_id_00_{number:08d}.wav", gain * noise, 16000)
    return validation_data_of(read_corpus(root), ValidationSettings())


def test_memory_that_does_not_suffice_ends_the_trial_as_its_own_failure(validation_data: ValidationData) -> None:
    study = study_with(model={**TINY["model"], "h_dim": {"low": 8, "high": 10**9}})

    with pytest.raises(TrialFailure, match="out of memory"):
        objective(FixedTrial({"h_dim": 10**9}), study, validation_data)


def test_a_trial_s_recipe_is_what_its_training_holds(validation_data: ValidationData) -> None:
    trial = FixedTrial({"h_dim": 16}, number=5)

    recipe = trial_recipe(study_with(), trial)
    training = Training(recipe, validation_data.views[0], torch.device("cpu"))
    for _ in range(EPOCHS):
        training.run_epoch()

    assert objective(trial, study_with(), validation_data) == mean_auc(
        training.validation_scores(), validation_data.truth
    )
