"""The parts of the race that need no clock; benchmarks/race.py runs it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import peers
from benchmarks.race import OPTUNA, RAY, TUNING, Contest, with_held_out
from benchmarks.race_results import (
    NONE,
    Finished,
    Race,
    Run,
    ahead_at,
    as_auc,
    in_seconds,
    median_and_range,
    plot,
    show,
    show_leads,
    target_of,
)
from features.clips.corpus import read_corpus
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth
from search.study.study_file import load_study
from search.validation.split import blind, held_out_clips, labelled_test_clips, training_clips

RUN = Run(
    (Finished(5, 0.7, "a"), Finished(20, 0.8, "b"), Finished(40, 0.8, "c"), Finished(50, 0.75, "d")),
    {"a": 0.9, "b": 0.6},
)
NEVER = Run(())


@pytest.mark.parametrize(
    ("seconds", "validation", "held_out"),
    [(4, NONE, NONE), (5, 0.7, 0.9), (19.9, 0.7, 0.9), (20, 0.8, 0.6), (math.inf, 0.8, 0.6)],
)
def test_a_detector_counts_from_when_it_is_finished_and_the_first_of_equals_leads(
    seconds: float, validation: float, held_out: float
) -> None:
    assert RUN.validation_at(seconds) == validation
    assert RUN.held_out_at(seconds) == held_out


@pytest.mark.parametrize(("auc", "seconds"), [(0.6, 5), (0.7, 5), (0.71, 20), (0.81, math.inf)])
def test_seconds_to_an_auc(auc: float, seconds: float) -> None:
    assert RUN.seconds_to(auc) == seconds


def test_only_leaders_at_the_moments_are_measured_and_nothing_counts_after_the_end() -> None:
    late = Finished(70, 0.99, "late")
    measured: list[str] = []

    def auc(one: Finished) -> float:
        measured.append(one.name)
        return 0.5

    run = with_held_out([late, *reversed(RUN.finished)], [30, 60], auc)

    assert measured == ["b"]
    assert run.finished == RUN.finished


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    RUN.write(tmp_path / "run.json")

    assert Run.read(tmp_path / "run.json") == RUN


def test_never_and_none_have_a_place_in_the_median() -> None:
    assert median_and_range([math.inf, 20.0, 5.0], in_seconds) == "20 (5–never)"
    assert median_and_range([0.7, NONE, NONE], as_auc) == "none (none–0.700)"
    assert median_and_range([0.7], as_auc) == "0.700"


def test_the_target_is_what_the_best_peer_ends_with() -> None:
    other = Run((Finished(10, 0.77, "x"),), {"x": 0.65})
    race: Race = {TUNING: [RUN], OPTUNA: [other], RAY: [NEVER]}

    assert target_of(race, (OPTUNA, RAY)) == 0.77
    assert target_of({TUNING: [RUN]}, (OPTUNA, RAY)) == 0.8
    assert ahead_at(race, TUNING, (OPTUNA, RAY), [4, 10, 30]) == 10
    assert ahead_at(race, TUNING, (OPTUNA, RAY), [30]) == math.inf


def test_tables_and_plot_show_sides_without_a_detector() -> None:
    console = Console(width=200, record=True)
    race: Race = {TUNING: [RUN, RUN], OPTUNA: [NEVER, NEVER]}

    show(console, race, target=0.8, moments=[30, 60], title="a race")
    show_leads(console, race, (TUNING,), (OPTUNA, RAY), [30, 60])

    text = console.export_text()
    assert "20 (20–20)" in text and "never (never–never)" in text and "none (none–none)" in text
    assert "from 30 s on" in text
    left, right = plot(race, moments=[30, 60], seconds=60).axes
    assert len(left.lines) == 2
    assert [line.get_xdata().tolist() for line in right.lines] == [[30, 60], []]  # type: ignore[union-attr]


def test_peers_train_on_offkey_s_split_and_never_see_a_held_out_clip(corpus_root: Path, tmp_path: Path) -> None:
    study = load_study("vae_tuning")
    corpus = read_corpus(corpus_root)
    contest = Contest(corpus_root, None, workers=1, seconds=60)
    task = contest.task()

    held_out = {str(clip.path.resolve()) for clip in held_out_clips(corpus, study.validation)}
    validation = {path for path, _, _ in task.validation}
    visible = training_clips(blind(corpus, study.validation), study.first_recipe())
    assert held_out and not held_out & {*validation, *task.train}
    assert held_out | validation == {str(clip.path.resolve()) for clip in labelled_test_clips(corpus)}
    assert task.train == [str(clip.path.resolve()) for clip in visible.train]
    task.write(tmp_path)
    assert [tuple(clip) for clip in peers.Task.read(tmp_path).validation] == task.validation


def test_the_peers_first_trial_and_epochs_are_those_of_vae_tuning() -> None:
    study = load_study("vae_tuning")
    ranges = {setting.name: setting for setting in study.space.settings}

    assert dict(study.baseline) == peers.FIRST
    assert ranges["epochs"].extremes == list(peers.EPOCHS)


def tiny(clips: int, rng: np.random.Generator) -> peers.Labelled:
    windows = rng.random((4 * clips, 6), dtype=np.float32)
    ids = ["fan/00" if clip % 4 < 2 else "fan/02" for clip in range(clips)]
    return peers.Labelled(windows, np.repeat(np.arange(clips), 4), ids, [clip % 2 for clip in range(clips)])


def test_a_peer_s_auc_is_the_mean_over_machine_ids() -> None:
    torch.manual_seed(0)
    labelled, model = tiny(16, np.random.default_rng(0)), peers.Vae(6, 8, 2)
    with torch.inference_mode():
        scores = model.score(torch.from_numpy(labelled.windows)).numpy().reshape(16, 4).mean(axis=1)

    assert peers.auc_of(model, labelled) == pytest.approx(
        mean_auc(scores, Truth(tuple(labelled.ids), tuple(labelled.labels)))
    )


def test_a_peer_s_weights_give_its_auc_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    train, labelled = rng.random((40, 6), dtype=np.float32), tiny(16, rng)
    settings = {"h_dim": 8, "z_dim": 2, "learning_rate": 1e-3, "batch_size": 16, "epochs": 3}

    networks = list(peers.training(train, labelled, settings))
    model, auc = networks[-1]
    peers.keep(tmp_path, "0", model, auc)

    assert len(networks) == 3
    assert peers.auc_of(peers.Vae.of_file(tmp_path / "0.pt"), labelled) == auc


def test_a_peer_s_training_ends_where_it_diverges() -> None:
    rng = np.random.default_rng(0)
    settings = {"h_dim": 8, "z_dim": 2, "learning_rate": math.inf, "batch_size": 16, "epochs": 3}

    assert list(peers.training(rng.random((40, 6), dtype=np.float32), tiny(16, rng), settings)) == []
