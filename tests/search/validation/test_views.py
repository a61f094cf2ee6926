"""Which clips each model of a trial trains on, which validate it, and which metrics are computed from their scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import StudyDirection
from sklearn.metrics import roc_auc_score

from features.clips.clip import ANOMALY, NORMAL
from features.clips.corpus import Corpus, read_corpus
from models.scoring.scores import Scores
from search.errors import StudyError, StudyFileError
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.evaluate import evaluate
from search.evaluation.metrics import id_aucs, mean_auc, metric_of
from search.evaluation.truth import Truth
from search.preparation.prepared import prepare
from search.study.objectives import directions_of
from search.study.recipe import ValidationSettings
from search.study.study_file import load_study, study_of_tree
from search.validation.split import held_out_clips, labelled_test_clips
from search.validation.views import clips_in_words, validation_data_of


@pytest.fixture(scope="module")
def corpus(corpus_root: Path) -> Corpus:
    return read_corpus(corpus_root)


def validation(**settings: Any) -> ValidationSettings:
    return ValidationSettings.model_validate(settings)


class TestFolds:
    FOLDS = validation(folds=3)

    def test_each_training_clip_validates_in_one_fold_and_is_trained_on_in_the_others(self, corpus: Corpus) -> None:
        views = validation_data_of(corpus, self.FOLDS).views
        training = {clip.name for clip in corpus.clips if clip.split == "train"}
        validation_data = [{clip.name for clip in view.clips if clip.split == "test"} & training for view in views]
        assert len(views) == 3
        assert Counter(name for fold in validation_data for name in fold) == dict.fromkeys(training, 1)
        for view, own in zip(views, validation_data, strict=True):
            assert {clip.name for clip in view.clips if clip.split == "train"} == training - own
            assert {clip.label for clip in view.clips if clip.name in own} == {NORMAL}

    def test_each_fold_has_its_share_of_each_machine_id(self, corpus: Corpus) -> None:
        for view in validation_data_of(corpus, self.FOLDS).views:
            of_id = Counter(clip.machine_id for clip in view.clips if clip.split == "train")
            assert of_id == {"00": 4, "02": 4, "04": 4}

    def test_labelled_validation_clips_are_in_every_fold_and_held_out_ones_in_none(self, corpus: Corpus) -> None:
        held_out = {clip.name for clip in held_out_clips(corpus, self.FOLDS)}
        labelled = {clip.name for clip in labelled_test_clips(corpus)}
        for view in validation_data_of(corpus, self.FOLDS).views:
            judged = {clip.name for clip in labelled_test_clips(view)}
            assert labelled - held_out < judged
            assert not judged & held_out

    def test_an_id_with_a_single_training_clip_keeps_it(self, corpus: Corpus) -> None:
        first = next(clip for clip in corpus.clips if clip.split == "train")
        few = [c for c in corpus.clips if c.split == "test" or c.machine_id != first.machine_id or c is first]
        small = Corpus(root=corpus.root, clips=tuple(few), unreadable=())
        for view in validation_data_of(small, self.FOLDS).views:
            assert next(clip for clip in view.clips if clip.name == first.name).split == "train"

    def test_every_view_takes_its_frames_from_one_store(self, corpus: Corpus) -> None:
        names = [
            [(clip.name, clip.digest) for clip in view.clips] for view in validation_data_of(corpus, self.FOLDS).views
        ]
        assert names[0] == names[1] == names[2]

    def test_clips_are_counted_once_though_several_models_score_them(self, corpus: Corpus) -> None:
        truth = validation_data_of(corpus, self.FOLDS).truth
        assert (truth.count(NORMAL), truth.count(ANOMALY)) == (18 + 9, 9)
        assert len(truth) == 18 + 3 * (9 + 9)
        assert clips_in_words(self.FOLDS, truth) == (
            "27 normal and 9 anomalous clips: 50% of each ID's labelled test clips, and each training clip for the "
            "model of one of 3 folds, which is not trained on it"
        )


def folded(scores: list[list[float]], labels: list[int], ids: list[str]) -> tuple[Any, Truth]:
    """The same clips in each fold."""
    folds = len(scores)
    truth = Truth(
        ids=tuple(ids * folds),
        labels=tuple(labels * folds),
        folds=tuple(fold for fold in range(folds) for _ in ids),
        recordings=tuple(list(range(len(ids))) * folds),
    )
    return np.array([score for fold in scores for score in fold]), truth


def dealt(folds: int, *, training: int, labelled: int, anomalies: int) -> Truth:
    """One machine ID: labelled normal clips and anomalies in each fold, and training clips, each in one."""
    recordings = [
        [
            *range(anomalies + labelled),
            *(anomalies + labelled + clip for clip in range(training) if clip % folds == fold),
        ]
        for fold in range(folds)
    ]
    of_clips = [recording for of_fold in recordings for recording in of_fold]
    return Truth(
        ids=("fan/00",) * len(of_clips),
        labels=tuple(int(recording < anomalies) for recording in of_clips),
        folds=tuple(fold for fold, of_fold in enumerate(recordings) for _ in of_fold),
        recordings=tuple(of_clips),
    )


def of_recordings(truth: Truth, seed: int, *, ability: float = 1.0) -> Scores:
    """Scores of models that are alike: what a recording has in one fold, it has in each."""
    scores = np.random.default_rng(seed).normal(size=max(truth.recordings) + 1)[list(truth.recordings)]
    return np.asarray(scores + ability * np.array(truth.labels))


class TestMetricsOfFolds:
    LABELS: ClassVar = [0, 0, 0, 1, 1, 0, 0, 1, 1, 1]
    IDS: ClassVar = ["fan/00"] * 5 + ["fan/02"] * 5

    @given(st.integers(0, 2**32 - 1), st.floats(0.1, 1000), st.floats(-1000, 1000))
    @settings(max_examples=30, deadline=None, database=None)
    def test_no_fold_s_scale_matters(self, seed: int, factor: float, offset: float) -> None:
        first, second = np.random.default_rng(seed).integers(0, 7, (2, 10)).astype(float)
        scores, truth = folded([first.tolist(), second.tolist()], self.LABELS, self.IDS)
        scaled, _ = folded([first.tolist(), (second * factor + offset).tolist()], self.LABELS, self.IDS)
        assert mean_auc(scaled, truth) == pytest.approx(mean_auc(scores, truth))
        by_hand = np.mean(
            [
                roc_auc_score(self.LABELS[part], fold[part])
                for fold in (first, second)
                for part in (slice(0, 5), slice(5, None))
            ]
        )
        assert mean_auc(scores, truth) == pytest.approx(by_hand)
        assert evaluate(scores, truth).auc == pytest.approx(by_hand)
        assert metric_of("worst_id", scores, truth) == pytest.approx(min(id_aucs(scores, truth).values()))

    def test_folds_with_the_same_scores_have_the_interval_of_one(self) -> None:
        scores = np.random.default_rng(0).normal(size=10).tolist()
        of_one = Truth(ids=tuple(self.IDS), labels=tuple(self.LABELS))
        once = Bootstrap(of_one).aucs(np.array(scores))
        thrice = Bootstrap(folded([scores] * 3, self.LABELS, self.IDS)[1]).aucs(np.array(scores * 3))
        np.testing.assert_allclose(thrice, once)

    @pytest.mark.parametrize("folds", [2, 3, 12])
    def test_however_few_training_clips_a_fold_has_they_are_resampled_as_in_one_fold(self, folds: int) -> None:
        truth = dealt(folds, training=12, labelled=0, anomalies=8)
        scores = of_recordings(truth, seed=0)
        _, places = np.unique(truth.recordings, return_index=True)
        of_one = Truth(ids=("fan/00",) * 20, labels=(1,) * 8 + (0,) * 12)
        assert mean_auc(scores, truth) == pytest.approx(mean_auc(scores[places], of_one))
        np.testing.assert_allclose(Bootstrap(truth).aucs(scores), Bootstrap(of_one).aucs(scores[places]))

    def test_the_interval_is_as_wide_as_other_clips_would_move_the_auc(self) -> None:
        truth = dealt(6, training=9, labelled=7, anomalies=12)  # with one or two training clips in each fold
        draws = [of_recordings(truth, seed) for seed in range(60)]
        aucs = [mean_auc(scores, truth) for scores in draws]
        bootstrap = Bootstrap(truth, resamples=300)
        errors = [bootstrap.aucs(scores).std(ddof=1) for scores in draws]
        assert np.mean(errors) == pytest.approx(np.std(aucs), rel=0.2)

    @given(st.integers(2, 9), st.integers(1, 14), st.integers(1, 3), st.integers(0, 9))
    @settings(max_examples=30, deadline=None, database=None)
    def test_folds_of_unequal_size_leave_no_doubt_where_there_is_none(
        self, folds: int, training: int, labelled: int, seed: int
    ) -> None:
        truth = dealt(folds, training=training, labelled=labelled, anomalies=2)
        certain = Bootstrap(truth, resamples=50).aucs(of_recordings(truth, seed, ability=100.0))
        np.testing.assert_allclose(certain, 1.0)

    def test_two_scorings_of_the_folds_are_resampled_alike(self) -> None:
        truth = dealt(5, training=12, labelled=2, anomalies=4)
        scores, bootstrap = of_recordings(truth, seed=0), Bootstrap(truth, resamples=50)
        np.testing.assert_allclose(bootstrap.aucs(scores) + bootstrap.aucs(-scores), 1.0)

    def test_a_fold_s_pauc_is_of_the_normal_clips_that_are_drawn_of_it(self) -> None:
        truth = dealt(2, training=26, labelled=2, anomalies=6)
        scores, bootstrap = of_recordings(truth, seed=0), Bootstrap(truth, resamples=20)
        paucs = bootstrap.metric("pauc", scores)
        for resample, drawn in enumerate(bootstrap._drawn.T):
            values, weights = [], []
            for fold in (0, 1):
                clips = np.repeat(np.arange(len(truth)), drawn * (np.array(truth.folds) == fold))
                labels = np.array(truth.labels)[clips]
                values.append(roc_auc_score(labels, scores[clips], max_fpr=0.1))
                weights.append((labels == NORMAL).sum())
            assert paucs[resample] == pytest.approx(np.average(values, weights=weights))

    def test_a_machine_id_without_both_labels_in_a_fold_is_judged_by_the_others(self) -> None:
        truth = Truth(ids=("fan/00",) * 5, labels=(0, 0, 1, 0, 1), folds=(0, 0, 0, 1, 2), recordings=(0, 1, 2, 3, 2))
        assert mean_auc(np.array([1.0, 2.0, 1.5, 0.0, 9.0]), truth) == 0.5

    def test_the_first_clips_are_those_of_the_folds_that_were_scored(self, corpus: Corpus) -> None:
        truth = validation_data_of(corpus, validation(folds=3)).truth
        one_fold = truth.first(len(truth) // 3)
        assert set(one_fold.folds) == {0}
        assert truth.in_last_fold.ids == truth.ids[truth.last_fold]
        assert len(truth.in_last_fold) == len(truth) // 3
        assert truth.first(len(truth)) == truth


class TestObjectives:
    def test_metrics_are_maximised_and_costs_minimised(self) -> None:
        assert directions_of(validation(metric=["worst_id", "auc", "parameters", "latency_ms"]).objectives) == [
            StudyDirection.MAXIMIZE,
            StudyDirection.MAXIMIZE,
            StudyDirection.MINIMIZE,
            StudyDirection.MINIMIZE,
        ]

    @pytest.mark.parametrize(
        ("settings", "rule"),
        [
            ({"metric": "accuracy"}, r"validation.metric must be auc \| pauc \| official \| worst_id \| proxy"),
            ({"metric": "parameters"}, "validation.metric must be auc"),
            ({"metric": "proxi"}, "but got 'proxi'; did you mean proxy"),
            ({"metric": ["auc", "paramters"]}, "but got .*; did you mean parameters"),
            ({"metric": ["parameters", "auc"]}, "must begin with a metric of scores"),
            ({"metric": []}, "must begin with a metric of scores"),
            ({"metric": ["auc", "auc"]}, "must name each objective once, but got auc, auc"),
            ({"metric": ["proxy", "auc"]}, "proxy uses no labelled clip"),
            ({"metric": "proxy", "folds": 3}, "folds need labelled clips"),
            ({"folds": 1}, "validation.folds .* greater than or equal to 2"),
            ({"proxies": ["knock 1"]}, "proxies are for metric: proxy"),
            ({"year": 2021}, "year is for metric: official"),
            ({"metric": "official", "year": 2019}, "validation.year .* greater than or equal to 2020"),
            ({"metric": "proxy", "proxies": ["knok 1"]}, "no proxy is called 'knok 1'; did you mean knock 1"),
        ],
    )
    def test_what_cannot_validate_is_refused_with_the_rule(self, settings: dict[str, Any], rule: str) -> None:
        with pytest.raises(StudyFileError, match=rule):
            study_of_tree({"study": "here", "model": {"family": "stat"}, "validation": settings}, origin="here")

    @pytest.mark.parametrize(
        ("overrides", "rule"),
        [
            (["search.constraints={max_params: 3}"], "max_params is not a setting; did you mean max_parameters"),
            (["validation.metric=[auc, parameters]", "search.pruner=hyperband"], "search.pruner must be none where"),
            (["search.pruner=wilcoxon"], "needs at least 5 .* but the study has none"),
            (["search.pruner=wilcoxon", "validation.folds=4"], "needs at least 5 .* but the study has 4"),
            (
                ["validation.folds=4", "corpus.train_on={choices: [development, additional]}"],
                "corpus.train_on must be one value with validation.folds",
            ),
            (
                ["validation.metric=proxy", "corpus.train_on={choices: [development, additional]}"],
                "corpus.train_on must be one value with validation.metric proxy",
            ),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, overrides: list[str], rule: str) -> None:
        overrides = [*overrides, *(["search.sampler=tpe"])]
        with pytest.raises(StudyFileError, match=rule):
            load_study("vae_tuning", overrides=overrides)

    def test_several_objectives_have_no_pruner_also_where_the_study_names_none(self) -> None:
        tree = {"study": "here", "model": {"family": "stat"}, "validation": {"metric": ["auc", "latency_ms"]}}
        study = study_of_tree(tree, origin="here")
        assert study.search.pruner == "none"
        assert study_of_tree(study.tree, origin="again").search.pruner == "none"

    @pytest.mark.parametrize(
        ("metric", "missing"),
        [
            ("pauc", "needs 10 of them, but compressor/00 has 3"),
            ("official", "pAUC is computed from the highest tenth"),
        ],
    )
    def test_a_metric_that_the_clips_leave_undefined_is_refused_before_any_training(
        self, corpus_root: Path, metric: str, missing: str
    ) -> None:
        tree = {"study": "here", "corpus": {"root": str(corpus_root)}, "model": {"family": "stat"}}
        study = study_of_tree({**tree, "validation": {"metric": metric}}, origin="here")
        with pytest.raises(StudyError, match=missing):
            prepare(study, default_root=None)


class TestProxies:
    def test_no_labelled_clip_validates_and_all_of_them_are_for_the_test(self, corpus: Corpus) -> None:
        by_proxies = validation(metric="proxy", proxies=["other IDs"])
        validation_data = validation_data_of(corpus, by_proxies)
        labelled = {clip.name for clip in labelled_test_clips(corpus)}
        assert not labelled & {clip.name for view in validation_data.views for clip in view.clips}
        assert {clip.name for clip in held_out_clips(corpus, by_proxies)} == labelled

    def test_a_quarter_of_the_training_clips_is_held_out_unless_another_share_is_given(self) -> None:
        assert validation(metric="proxy").share == 0.25
        assert validation(metric=["proxy", "parameters"]).share == 0.25
        assert validation(metric="proxy", share=0.5).share == 0.5
        assert validation().share == 0.5

    @pytest.mark.parametrize("proxies", [["other IDs"], ["knock 1", "other IDs", "whine 0.5"]])
    def test_a_fault_is_resampled_with_the_recording_that_has_it(self, corpus: Corpus, proxies: list[str]) -> None:
        by_proxies = validation(metric="proxy", share=0.5, proxies=proxies)
        validation_data = validation_data_of(corpus, by_proxies)
        clips, truth = labelled_test_clips(validation_data.views[0]), validation_data.truth
        drawn = Bootstrap(truth, resamples=50)._drawn
        of_normals = {clip.name: drawn[place] for place, clip in enumerate(clips) if clip.label == NORMAL}
        assert len(of_normals) == 9
        of_faults = {place: clip for place, clip in enumerate(clips) if clip.name.startswith("faults/")}
        assert len(of_faults) == 9 * (len(proxies) - 1)
        for place, clip in of_faults.items():
            (source,) = [name for name in of_normals if clip.name.endswith(name)]
            np.testing.assert_array_equal(drawn[place], of_normals[source])
        assert f"9 normal training clips, which no trial trains on, and {9 * len(proxies)} made" in clips_in_words(
            by_proxies, truth
        )
        assert {of_id.anomaly for of_id in evaluate(np.arange(float(len(truth))), truth).per_id.values()} == {
            3 * len(proxies)
        }

    def test_faults_of_few_recordings_have_an_interval_as_wide_as_other_recordings_would_move_the_auc(
        self,
    ) -> None:
        recordings = tuple(range(12)) * 9  # as they are, and with eight faults
        truth = Truth(ids=("fan/00",) * 108, labels=(0,) * 12 + (1,) * 96, recordings=recordings)

        def scores(seed: int) -> Scores:
            rng = np.random.default_rng(seed)
            ease = 0.7 * rng.normal(size=12)  # how easy the faults of a recording are to detect
            return np.asarray(rng.normal(size=108) / 2 + (1 + ease)[list(recordings)] * np.array(truth.labels))

        bootstrap, draws = Bootstrap(truth, resamples=300), [scores(seed) for seed in range(100)]
        errors = [bootstrap.aucs(draw).std(ddof=1) for draw in draws]
        assert np.mean(errors) == pytest.approx(np.std([mean_auc(draw, truth) for draw in draws]), rel=0.2)

    def test_a_study_keeps_the_proxies_that_were_chosen_when_it_was_prepared(self, corpus_root: Path) -> None:
        tree = {
            "study": "here",
            "corpus": {"root": str(corpus_root)},
            "features": {"n_mels": 32},
            "model": {"family": "stat"},
            "validation": {"metric": "proxy", "share": 0.34},
        }
        prepared = prepare(study_of_tree(tree, origin="here"), default_root=None)
        proxies = prepared.study.validation.proxies
        assert proxies
        assert any(f"trials are validated by {', '.join(proxies)}" in warning for warning in prepared.warnings)
        again = prepare(study_of_tree(prepared.study.tree, origin="again"), default_root=None)
        assert again.study.validation == prepared.study.validation
        assert again.warnings == tuple(line for line in prepared.warnings if line.startswith("trials are validated by"))
