"""Objectives other than AUC, limits, folds and pruners: what workers do with them, and what people see."""

from __future__ import annotations

import io
import json
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

from features.clips.corpus import Corpus, read_corpus
from models.scoring.scores import Scores
from search.artifacts.checkpoints import Resumable
from search.errors import MisuseError, StudyError, TrialFailure
from search.evaluation.metrics import metric_of
from search.report.page import report
from search.results.comparison import as_json, compare
from search.results.export import export_recipe
from search.results.status import read_status
from search.sampling.pruning import noise_key
from search.study.recipe import Recipe, ValidationSettings
from search.study.study_file import study_of_tree
from search.training.cross_validation import CrossValidation
from search.training.objective import objective, train_for_real
from search.training.protocols import ModelTraining
from search.validation.views import validation_data_of
from search.workers.draining import Drained
from tests.support.detectors import detector_of
from tests.support.quick import QuickTraining
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)


def status_of(study: TinyStudy) -> dict[str, Any]:
    """The document that `offkey status --json` prints."""
    status = read_status(
        study.storage, study.stored, optuna.load_study(study_name=study.stored.name, storage=study.storage)
    )
    document: dict[str, Any] = json.loads(json.dumps(as_json(status, compare(study.storage, study.stored, status))))
    return document


class TestSeveralObjectives:
    METRIC: ClassVar = ["worst_id", "auc", "parameters", "latency_ms"]

    @on_postgresql
    def test_a_trial_has_a_value_of_each_and_a_curve_of_the_first(self, tiny_study: MakeStudy) -> None:
        study = tiny_study(trials=5, validation={"metric": self.METRIC})
        study.worker(quick=True).run()
        scores = study.ledger.scores()
        for trial in trials_of(study):
            worst, auc, parameters, latency = trial.values
            assert trial.state == TrialState.COMPLETE
            assert list(trial.intermediate_values) == [1, 2, 3]
            assert (
                trial.intermediate_values[3] == worst == metric_of("worst_id", scores[trial.number], study.stored.truth)
            )
            assert auc == metric_of("auc", scores[trial.number], study.stored.truth)
            assert (parameters, latency) == (trial.params["h_dim"], 1.0)

    def test_the_trade_offs_are_those_that_no_trial_is_better_than_in_everything(self, tiny_study: MakeStudy) -> None:
        study = tiny_study(trials=8, validation={"metric": ["auc", "parameters"]})
        study.worker(quick=True).run()
        trials = trials_of(study)
        status = status_of(study)
        beaten = {
            trial.number
            for trial in trials
            for other in trials
            if other.values[0] >= trial.values[0]
            and other.values[1] <= trial.values[1]
            and other.values != trial.values
        }
        assert status["metric"] == ["auc", "parameters"]
        assert {entry["number"] for entry in status["best"]} == set(range(8)) - beaten
        for entry in status["best"]:
            assert entry["interval"] is None  # three clips of each label
        assert "Trade-offs" in report(study.storage, study.stored)

    def test_there_is_no_single_best_to_export_but_each_trial_can_be(self, tiny_study: MakeStudy) -> None:
        study = tiny_study(trials=2, validation={"metric": ["auc", "parameters"]})
        study.worker(quick=True).run()
        with pytest.raises(MisuseError, match=r"several objectives \(auc, parameters\).*choose one with --trial N"):
            export_recipe(study.storage, study.stored)
        assert export_recipe(study.storage, study.stored, number=1).validation.metric == ["auc", "parameters"]

    def test_the_command_line_shows_them(
        self, tiny_study: MakeStudy, offkey: Callable[..., Ran], tmp_path: Path
    ) -> None:
        study = tiny_study(trials=4, validation={"metric": ["auc", "parameters"]})
        study.worker(quick=True).run()
        shown = offkey("status", "tiny", "--storage", study.url)
        assert "95 % interval" in shown.stdout
        assert "parameters" in shown.stdout
        assert "First of these in the first objective: trial" in shown.stdout
        assert "Best" not in shown.stdout
        refused = offkey("export", "tiny", "--storage", study.url)
        assert (refused.code, refused.stdout) == (2, "")
        assert "--trial N" in refused.stderr


class TestOtherFigures:
    @pytest.mark.parametrize("metric", ["worst_id", "auc"])
    def test_a_trial_s_value_is_the_metric_that_the_study_names(self, tiny_study: MakeStudy, metric: Any) -> None:
        study = tiny_study(trials=3, validation={"metric": metric})
        study.worker(quick=True).run()
        scores = study.ledger.scores()
        for trial in trials_of(study):
            assert trial.value == metric_of(metric, scores[trial.number], study.stored.truth)
        assert status_of(study)["best"]["interval"] is None  # three clips of each label


class TestLimits:
    def test_a_network_that_is_too_large_is_not_trained(self, tiny_study: MakeStudy) -> None:
        limits = {"trials": 12, "pruner": "none", "constraints": {"max_parameters": 20}}
        study = tiny_study(trials=12, search=limits)
        study.worker(quick=True).run()
        for trial in trials_of(study):
            is_too_large = trial.params["h_dim"] > 20
            assert (trial.state == TrialState.PRUNED) == is_too_large
            assert trial.constraints["max_parameters"] == pytest.approx(trial.params["h_dim"] / 20 - 1)
            assert bool(trial.intermediate_values) != is_too_large
            assert ("max_parameters allows: 20" in str(trial.user_attrs.get("failure"))) == is_too_large
        counts = status_of(study)["trials"]
        assert counts["failed"] == sum(trial.params["h_dim"] > 20 for trial in trials_of(study)) > 0

    def test_a_detector_that_is_too_slow_ends_after_its_first_epoch(self, tiny_study: MakeStudy) -> None:
        study = tiny_study(trials=1, search={"trials": 1, "constraints": {"max_latency_ms": 0.5}})
        study.worker(quick=True).run()
        (trial,) = trials_of(study)
        assert list(trial.intermediate_values) == [1]
        assert trial.user_attrs["failure"] == (
            "1 ms to score a clip, more than search.constraints.max_latency_ms allows: 0.5"
        )

    def test_a_trial_that_goes_on_after_its_last_epoch_is_timed_all_the_same(self, corpus: Corpus) -> None:
        validation_data = validation_data_of(corpus, ValidationSettings())
        tree = {**TINY, "validation": {"metric": ["auc", "latency_ms"]}}
        study, files = study_of_tree(tree, origin="here"), list[io.BytesIO]()

        def keep(training: Resumable) -> None:
            files.append(io.BytesIO())
            training.save(files[-1])
            files[-1].seek(0)

        value = objective(FixedTrial({}), study, validation_data, train=QuickTraining, after_epoch=keep)
        again = objective(FixedTrial({}), study, validation_data, train=QuickTraining, checkpoint=files[-1])
        assert again == value
        slow = study_of_tree(
            {**TINY, "search": {"constraints": {"max_latency_ms": 0.5}}, "validation": {}}, origin="here"
        )
        files[-1].seek(0)
        with pytest.raises(TrialFailure, match="max_latency_ms allows"):
            objective(FixedTrial({}), slow, validation_data, train=QuickTraining, checkpoint=files[-1])

    def test_a_trial_whose_worst_machine_id_is_too_bad_is_complete_and_never_the_best(
        self, tiny_study: MakeStudy
    ) -> None:
        limits = {"trials": 8, "pruner": "none", "constraints": {"min_worst_id": 0.25}}
        study = tiny_study(trials=8, search=limits)
        study.worker(quick=True).run()
        scores = study.ledger.scores()
        worst = {number: metric_of("worst_id", own, study.stored.truth) for number, own in scores.items()}
        within = [trial for trial in trials_of(study) if worst[trial.number] >= 0.25]
        assert 0 < len(within) < 8
        assert all(trial.state == TrialState.COMPLETE for trial in trials_of(study))
        status = status_of(study)
        assert status["beyond_limits"] == 8 - len(within)
        best = max(within, key=lambda trial: (trial.values[0], -trial.number))
        assert status["best"]["number"] == best.number
        recipe = export_recipe(study.storage, study.stored)
        assert recipe.from_ is not None
        assert recipe.from_.trial == best.number

    def test_where_no_trial_keeps_to_the_limits_there_is_nothing_to_export(self, tiny_study: MakeStudy) -> None:
        study = tiny_study(trials=2, search={"trials": 2, "constraints": {"min_worst_id": 1.0}})
        study.worker(quick=True).run()
        assert status_of(study)["best"] is None
        with pytest.raises(StudyError, match=r"None of the 2 complete trials .* keeps to search.constraints"):
            export_recipe(study.storage, study.stored)
        assert "No complete trial keeps to the study's limits" in report(study.storage, study.stored).replace(
            "&#39;", "'"
        )


TINY: dict[str, Any] = {
    "study": "folds",
    "features": {"n_mels": 32},
    "model": {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4},
    "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": 2, "threads": 1},
    "validation": {"folds": 3},
}


@pytest.fixture(scope="module")
def corpus(corpus_root: Path) -> Corpus:
    return read_corpus(corpus_root)


class _Reports(FixedTrial):
    def __init__(self) -> None:
        super().__init__({}, number=1)
        self.reports: list[tuple[int, float]] = []

    def report(self, value: float, step: int) -> None:
        self.reports.append((step, value))


class TestFolds:
    def test_a_trial_trains_a_model_a_fold_and_reports_after_each(self, corpus: Corpus) -> None:
        validation_data = validation_data_of(corpus, ValidationSettings(folds=3))
        trial, scores = _Reports(), list[Scores]()
        value = objective(trial, study_of_tree(TINY, origin="here"), validation_data, on_scores=scores.append)
        assert [step for step, _ in trial.reports] == [1, 2, 3]
        assert [len(own) for own in scores] == [len(validation_data.truth) // 3 * fold for fold in (1, 2, 3)]
        assert trial.reports[-1][1] == value
        np.testing.assert_array_equal(scores[2][: len(scores[0])], scores[0])

    def test_wilcoxon_gets_each_folds_own_auc_and_the_trials_value_is_their_mean(self, corpus: Corpus) -> None:
        validation_data = validation_data_of(corpus, ValidationSettings(folds=5))
        tree = TINY | {"validation": {"folds": 5}, "search": {"pruner": "wilcoxon"}}
        trial, scores = _Reports(), list[Scores]()
        value = objective(trial, study_of_tree(tree, origin="here"), validation_data, on_scores=scores.append)
        means = [validation_data.metric("auc", of_the_first) for of_the_first in scores]
        own = [reported for _, reported in trial.reports]
        np.testing.assert_allclose(np.cumsum(own) / np.arange(1, 6), means)
        assert value == means[-1]

    @pytest.mark.parametrize("epoch", [1, 2, 3, 5])
    def test_it_goes_on_at_any_epoch_as_if_it_had_never_stopped(self, corpus: Corpus, epoch: int) -> None:
        validation_data = validation_data_of(corpus, ValidationSettings(folds=3))
        recipe = Recipe.model_validate(
            {key: value for key, value in TINY.items() if key != "training"}
            | {"training": TINY["training"] | {"seed": 3}}
        )

        def run(training: CrossValidation, *, until: int) -> CrossValidation:
            while training.epoch < until:
                training.run_epoch(lambda: None)
            return training

        begun = run(CrossValidation([recipe], validation_data.views, "cpu", train_for_real), until=epoch)
        file = io.BytesIO()
        begun.save(file)
        file.seek(0)
        resumed = CrossValidation([recipe], validation_data.views, "cpu", train_for_real)
        resumed.resume(file)
        assert (resumed.epoch, resumed.step) == (epoch, epoch // 2 if epoch % 2 == 0 else None)
        np.testing.assert_array_equal(
            run(resumed, until=6).validation_scores(), run(begun, until=6).validation_scores()
        )

    def test_the_final_detector_repeats_the_validation_auc_and_is_trained_on_all_training_clips(
        self, corpus: Corpus
    ) -> None:
        import torch

        study, device = study_of_tree(TINY, origin="here"), torch.device("cpu")
        value = objective(FixedTrial({}, number=0), study, validation_data_of(corpus, ValidationSettings(folds=3)))
        epochs_done: list[tuple[int, int]] = []
        recipe = study.first_recipe()
        detector = detector_of(recipe, corpus, device, on_epoch=lambda *epochs: epochs_done.append(epochs))
        plain = detector_of(recipe.model_copy(update={"validation": ValidationSettings()}), corpus, device)
        assert detector.value == detector.validation.auc == value
        assert epochs_done == [(epoch, 8) for epoch in range(1, 9)]
        for name, weights in plain.scorer.state_dict().items():
            assert torch.equal(weights, detector.scorer.state_dict()[name])

    def test_a_worker_that_takes_over_within_a_fold_goes_on_at_the_last_epoch(self, tiny_study: MakeStudy) -> None:
        study = tiny_study(trials=1, validation={"folds": 3})
        first = study.worker(quick=True)
        trained: list[int] = []

        class Stopping(QuickTraining):
            def run_epoch(self, before_batch: Callable[[], None]) -> None:
                if len(trained) == 5:  # two of the three epochs of the second fold are done
                    raise Drained
                super().run_epoch(before_batch)
                trained.append(self.epoch)

        first.train = Stopping
        first.stop = threading.Event()
        hold = first.ledger.claim(first.owner, first={})
        assert hold is not None
        first.work_on(hold)
        second = study.worker(quick=True)

        class Counting(QuickTraining):
            def run_epoch(self, before_batch: Callable[[], None]) -> None:
                super().run_epoch(before_batch)
                trained.append(self.epoch)

        second.train = Counting
        second.run()
        assert trained == [1, 2, 3, 1, 2, 3, 1, 2, 3]
        (trial,) = trials_of(study)
        assert list(trial.intermediate_values) == [1, 2, 3]
        assert trial.state == TrialState.COMPLETE
        (row,) = study.rows()
        assert row.attempts == 1

    def test_folds_that_ended_after_the_last_checkpoint_are_trained_and_reported_again(
        self, tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        study = tiny_study(trials=1, validation={"folds": 3})
        first, second = study.worker(quick=True), study.worker(quick=True)
        write = first.checkpoints.write

        def until_it_is_full(training: Resumable, *, trial: int, token: int, beside: str | None) -> str | None:
            return write(training, trial=trial, token=token, beside=beside) if training.epoch <= 4 else beside

        class Lost(BaseException):
            pass

        class LostInTheLastFold(QuickTraining):
            def run_epoch(self, before_batch: Callable[[], None]) -> None:
                if reached() == [1, 2]:
                    raise Lost
                super().run_epoch(before_batch)

        curves: list[list[int]] = []

        class Watched(QuickTraining):
            def run_epoch(self, before_batch: Callable[[], None]) -> None:
                curves.append(reached())
                super().run_epoch(before_batch)

        def reached() -> list[int]:
            return list(trials_of(study)[0].intermediate_values)

        monkeypatch.setattr(first.checkpoints, "write", until_it_is_full)
        first.train, second.train = LostInTheLastFold, Watched
        hold = first.ledger.claim(first.owner, first={})
        assert hold is not None
        with pytest.raises(Lost):
            first.work_on(hold)
        study.ledger.expire(first.owner)
        second.run()

        assert curves == [[1], [1], [1, 2], [1, 2], [1, 2]]  # from the fourth of the nine epochs on
        undisturbed = tiny_study(trials=1, validation={"folds": 3}, study="undisturbed")
        undisturbed.worker(quick=True).run()
        assert [trial.intermediate_values for trial in trials_of(study)] == [
            trial.intermediate_values for trial in trials_of(undisturbed)
        ]

    def test_no_model_exists_beside_another(self, corpus: Corpus) -> None:
        recipe = Recipe.model_validate(TINY | {"training": TINY["training"] | {"seed": 3}})
        alive: weakref.WeakSet[object] = weakref.WeakSet()

        def train(recipe: Recipe, view: Corpus, device: str) -> ModelTraining:
            assert not alive
            alive.add(model := QuickTraining(recipe, view, device))
            return model

        training = CrossValidation(
            [recipe], validation_data_of(corpus, ValidationSettings(folds=3)).views, "cpu", train
        )
        file = io.BytesIO()
        while training.epoch < 6:
            training.run_epoch(lambda: None)
            file = io.BytesIO()
            training.save(file)
        file.seek(0)
        del training
        CrossValidation([recipe], validation_data_of(corpus, ValidationSettings(folds=3)).views, "cpu", train).resume(
            file
        )

    def test_wilcoxon_stops_trials_between_folds(self, tiny_study: MakeStudy) -> None:
        search = {"trials": 8, "pruner": "wilcoxon", "sampler": "random"}
        study = tiny_study(trials=8, validation={"folds": 5}, search=search)
        study.worker(quick=True).run()
        stopped = [trial for trial in trials_of(study) if trial.state == TrialState.PRUNED]
        assert stopped
        assert all(len(trial.intermediate_values) == 4 for trial in stopped)


class _Walk(QuickTraining):
    """Trials whose h_dim is 40 or more detect nothing; the others detect every anomaly."""

    def validation_scores(self) -> Scores:
        labels = np.array([clip.label for clip in self.validation_clips], dtype=float)
        return labels if self.parameters < 40 else -labels


class TestNoise:
    @pytest.mark.parametrize("validation", [{}, {"metric": "worst_id"}])
    def test_a_trial_that_is_far_behind_is_stopped_at_its_first_rung(
        self, tiny_study: MakeStudy, validation: dict[str, Any]
    ) -> None:
        search = {"trials": 16, "pruner": "noise", "sampler": "random"}
        study = tiny_study(trials=16, search=search, validation=validation)
        worker = study.worker()
        worker.train = _Walk
        worker.run()
        trials = trials_of(study)
        late = [trial for trial in trials if trial.number >= 12]
        assert {trial.state for trial in late if trial.params["h_dim"] >= 40} == {TrialState.PRUNED}
        assert {trial.state for trial in trials if trial.params["h_dim"] < 40} == {TrialState.COMPLETE}
        for trial in late:
            assert len(trial.intermediate_values) == (1 if trial.state == TrialState.PRUNED else 3)
            assert len(trial.system_attrs[noise_key(1)]) > 1
