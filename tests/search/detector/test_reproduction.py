"""A trial is repeated by its recipe: exported, trained, loaded elsewhere, it has the numbers that the search kept."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch

from features.clips.corpus import read_corpus
from search.detector.bundle import load_bundle
from search.detector.making import make_detector
from search.detector.scored_clips import score_clips
from search.study.study_file import load_study
from search.training.loop import Training
from search.training.objective import train_for_real
from search.training.protocols import ModelTraining
from search.validation.split import blind
from tests.support.house import HOUSE

if TYPE_CHECKING:
    from features.clips.corpus import Corpus
    from search.study.recipe import Recipe
    from search.workers.worker import Worker
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

CPU = torch.device("cpu")

VAE = {"family": "vae", "context": 2, "h_dim": {"low": 4, "high": 16}, "z_dim": 2}
STUDIES: dict[str, dict[str, Any]] = {
    "a network": {"model": {**VAE, "z_dim": {"low": 1, "high": 4}}},
    "one of a network's variants": {
        "model": {**VAE, "score": {"choices": ["reconstruction", "knn", "mahalanobis"]}},
        "scoring": {"pooling": {"choices": ["mean", "max"]}},
    },
    "an ensemble with a network for each ID": {
        "model": {
            "family": "fusion",
            "combine": {"choices": ["mean", "rank"]},
            "members": {
                "networks": {"model": {**VAE, "per_id": True}},
                "levels": {"model": {"family": "stat", "score": "exposure", "decay": {"low": 0.0, "high": 1.0}}},
            },
        },
    },
}

#: Trains a recipe and scores clips by a bundle of it, and says of which kind the CPU is.
TRAIN_AND_SCORE = """
import json, sys
from pathlib import Path
import torch
from search.detector.bundle import load_bundle
from search.detector.making import make_detector
from search.detector.scored_clips import score_clips
from search.study.study_file import load_study
recipe, root, bundle, *clips = sys.argv[1:]
cpu = torch.device("cpu")
detector = make_detector(load_study(recipe).first_recipe(), "again", device=cpu, default_root=root)
scores = [clip.score for clip in score_clips(load_bundle(bundle), map(Path, clips), cpu)]
print(json.dumps([torch.backends.cpu.get_cpu_capability(), detector.validation.auc, scores]))
"""

#: What torch and the libraries below it take for a CPU without vector units of this century.
ANOTHER_CPU = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
}


def watched(worker: Worker, *, stopped_in: int | None = None) -> list[int]:
    """Runs a worker that may be told to stop in an epoch; gives the epochs that it began, from 0."""
    epochs: list[int] = []

    def train(recipe: Recipe, corpus: Corpus, device: str) -> ModelTraining:
        training = train_for_real(recipe, corpus, device)
        run_epoch = training.run_epoch

        def run(before_batch: Callable[[], None]) -> None:
            epochs.append(training.epoch)
            if training.epoch == stopped_in:
                worker.stop.set()
            run_epoch(before_batch)

        training.run_epoch = run  # type: ignore[method-assign]
        return training

    worker.train = train
    worker.run()
    return epochs


@pytest.mark.parametrize("blocks", STUDIES.values(), ids=STUDIES)
def test_a_trial_that_was_interrupted_is_exported_and_trained_in_one_go_to_the_same_bits(
    offkey: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
    tiny_study: MakeStudy,
    corpus_root: Path,
    blocks: dict[str, Any],
) -> None:
    training = {"learning_rate": {"low": 0.001, "high": 0.1}, "batch_size": 128, "epochs": 2, "threads": 1}
    study = tiny_study(trials=1, **{"features": {"n_mels": 16}, "training": training, "baseline": {}, **blocks})
    assert watched(study.worker(), stopped_in=1) == [0, 1]
    assert watched(study.worker()) == [1]  # from the checkpoint after epoch 0 on
    monkeypatch.setenv("OFFKEY_STORAGE", study.url)

    exported = offkey("export", "tiny", "--trial", 0, "-o", "recipe.yaml")
    trained = offkey("train", "recipe.yaml", "-o", "bundle", "--json")

    (trial,) = optuna.load_study(study_name="tiny", storage=study.url).trials
    kept = study.ledger.scores()[0]
    assert (exported.code, trained.code) == (0, 0), exported.stderr + trained.stderr
    assert json.loads(trained.stdout)["validation"]["auc"] == trial.value
    bundle = load_bundle(Path("bundle"))
    again = Training(bundle.recipe, blind(read_corpus(corpus_root), study.stored.validation), CPU)
    again.scorer.load_state_dict(bundle.scorer.state_dict())
    np.testing.assert_array_equal(again.validation_scores(), kept)
    # Clips are scored one by one here, many at a time there: sums differ in their last bits.
    paths = [clip.path for clip in again.validation_clips]
    assert [clip.score for clip in score_clips(bundle, paths, CPU)] == pytest.approx(kept.tolist(), rel=1e-5, abs=1e-6)


@pytest.fixture(scope="module")
def trained(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and the bundle of its detector."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(
        "study: elsewhere\nfeatures: {n_mels: 16}\nmodel: {family: vae, context: 2, h_dim: 8, z_dim: 2}\n"
        "training: {epochs: 3, batch_size: 128, learning_rate: 0.01, seed: 5, threads: 1}\n"
    )
    recipe = load_study(str(folder / "recipe.yaml")).first_recipe()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(folder / "cache"))
        make_detector(recipe, folder / "bundle", device=CPU, default_root=str(corpus_root))
    return folder


@pytest.fixture(scope="module")
def clips(corpus_root: Path) -> list[Path]:
    return [clip.path for clip in read_corpus(corpus_root).clips[::5]]


def scores_of(bundle: Path, clips: list[Path], cache: str) -> list[float | None]:
    os.environ["OFFKEY_CACHE"] = cache
    torch.set_num_threads(1)
    return [clip.score for clip in score_clips(load_bundle(bundle), clips, CPU)]


def test_a_bundle_scores_the_same_in_a_process_of_its_own(trained: Path, clips: list[Path], tmp_path: Path) -> None:
    here = scores_of(trained / "bundle", clips, os.environ["OFFKEY_CACHE"])

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.faulty_worker"])  # one server for all tests that need one
    with pytest.MonkeyPatch.context() as patched, ProcessPoolExecutor(1, mp_context=context) as apart:
        patched.setenv("PYTHONPATH", str(HOUSE))  # of the process that it is forked from
        there = apart.submit(scores_of, trained / "bundle", clips, str(tmp_path / "another")).result()

    assert there == here
    assert len(set(here)) == len(clips)


def test_on_another_cpu_a_bundle_s_scores_differ_by_rounding_and_a_training_s_auc_stays_in_its_interval(
    trained: Path, clips: list[Path], corpus_root: Path
) -> None:
    here = [clip.score for clip in score_clips(load_bundle(trained / "bundle"), clips, CPU)]

    arguments = [trained / "recipe.yaml", corpus_root, trained / "bundle", *clips]
    ran = subprocess.run(
        [sys.executable, "-P", "-c", TRAIN_AND_SCORE, *map(str, arguments)],
        env=os.environ | ANOTHER_CPU | {"PYTHONPATH": str(HOUSE)},
        capture_output=True,
        text=True,
        check=True,
    )

    kind, auc, scores = json.loads(ran.stdout.splitlines()[-1])
    trained_here = json.loads((trained / "bundle" / "metrics.json").read_text())["validation"]["auc"]
    assert kind in ("DEFAULT", "NO AVX")  # as older versions of torch call it
    assert scores == pytest.approx(here, rel=1e-4)
    assert auc == pytest.approx(trained_here, abs=0.2)
