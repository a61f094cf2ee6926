"""A trial is repeated by its recipe: exported, trained, loaded elsewhere, it has the numbers that the search kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch

import search
from features.clips.corpus import read_corpus
from search.detector.bundle import load_bundle
from search.detector.scored_clips import score_clips
from search.training.loop import Training
from search.training.objective import train_for_real
from search.training.protocols import ModelTraining
from search.validation.split import blind

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

#: Scores the clips that it is given by a bundle, in a process that knows nothing else.
SCORE = """
import json, sys
from pathlib import Path
import torch
from search.detector.bundle import load_bundle
from search.detector.scored_clips import score_clips
torch.set_num_threads(1)
bundle, *clips = map(Path, sys.argv[1:])
print(json.dumps([clip.score for clip in score_clips(load_bundle(bundle), clips, torch.device("cpu"))]))
"""


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


def test_a_bundle_scores_the_same_in_a_process_of_its_own(
    offkey: Callable[..., Ran], corpus_root: Path, tmp_path: Path
) -> None:
    Path("recipe.yaml").write_text(
        "study: apart\nfeatures: {n_mels: 16}\nmodel: {family: vae, context: 2, h_dim: 8, z_dim: 2, per_id: true}\n"
        "training: {epochs: 1, batch_size: 128, seed: 5, threads: 1}\n"
    )
    assert offkey("train", "recipe.yaml", "-o", "bundle", "--set", f"corpus.root={corpus_root}").code == 0
    clips = [clip.path for clip in read_corpus(corpus_root).clips[::5]]
    here = [clip.score for clip in score_clips(load_bundle(Path("bundle")), clips, CPU)]

    apart = subprocess.run(
        [sys.executable, "-P", "-c", SCORE, "bundle", *map(str, clips)],
        env=os.environ
        | {"PYTHONPATH": str(Path(search.__file__).parents[1]), "OFFKEY_CACHE": str(tmp_path / "another")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(apart.stdout) == here
    assert len(set(here)) == len(clips)


def test_on_another_cpu_a_bundle_s_scores_differ_by_rounding_and_a_training_s_auc_stays_in_its_interval(
    offkey: Callable[..., Ran], corpus_root: Path
) -> None:
    Path("recipe.yaml").write_text(
        "study: elsewhere\nfeatures: {n_mels: 16}\nmodel: {family: vae, context: 2, h_dim: 8, z_dim: 2}\n"
        "training: {epochs: 3, batch_size: 128, learning_rate: 0.01, seed: 5, threads: 1}\n"
    )
    trained = offkey("train", "recipe.yaml", "-o", "bundle", "--set", f"corpus.root={corpus_root}", "--json")
    clips = [clip.path for clip in read_corpus(corpus_root).clips[::5]]
    here = [clip.score for clip in score_clips(load_bundle(Path("bundle")), clips, CPU)]

    ran = subprocess.run(
        [sys.executable, "-P", "-c", TRAIN_AND_SCORE, "recipe.yaml", corpus_root, "bundle", *map(str, clips)],
        env=os.environ | ANOTHER_CPU | {"PYTHONPATH": str(Path(search.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )

    kind, auc, scores = json.loads(ran.stdout.splitlines()[-1])
    low, high = json.loads(trained.stdout)["validation"]["interval"]
    assert kind in ("DEFAULT", "NO AVX")  # as older versions of torch call it
    assert scores == pytest.approx(here, rel=1e-4)
    assert low <= auc <= high < 1
