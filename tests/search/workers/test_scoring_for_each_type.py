"""A study that closes its scoring for each machine type: what trials take and keep, and that detectors repeat it."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from features.clips.corpus import read_corpus
from search.detector.bundle import load_bundle
from search.detector.onnx_export import export_onnx
from search.detector.scored_clips import score_clips
from search.preparation.prepared import prepare
from search.study.recipe import Recipe
from search.study.study_file import study_of_tree
from search.training.loop import Training
from search.training.protocols import VariantScores
from search.validation.split import blind
from tests.support.faulty_worker import faulty
from tests.support.quick import QuickTraining
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

CPU = torch.device("cpu")

#: Each training has six detectors.
BLOCKS: dict[str, Any] = {
    "features": {"n_mels": 16},
    "model": {
        "family": "vae",
        "context": 2,
        "h_dim": {"low": 4, "high": 16},
        "z_dim": 2,
        "score": {"choices": ["reconstruction", "mahalanobis"]},
    },
    "training": {"learning_rate": 0.01, "batch_size": 128, "epochs": 2, "threads": 1, "calibration_share": 0.4},
    "scoring": {"pooling": {"choices": ["mean", "max"]}, "calibration": {"choices": ["none", "z"]}},
    "baseline": {},
}


def searching(trials: int) -> dict[str, Any]:
    return {"trials": trials, "pruner": "none", "scoring_for": "each_machine_type"}


@pytest.fixture(scope="module")
def machines(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fan: three machine IDs; pump: two; slider: one, without a labelled fault."""
    root = tmp_path_factory.mktemp("machines")
    for machine, ids in {"fan": ("00", "02", "04"), "pump": ("00", "02"), "slider": ("00",)}.items():
        shutil.copytree(corpus_root / "compressor", root / machine)
        for path in (root / machine).rglob("*.wav"):
            if path.stem.split("_")[2] not in ids or (machine, path.stem[0]) == ("slider", "a"):
                path.unlink()
    return root


def test_each_machine_type_takes_what_its_own_clips_like_and_the_curve_is_of_what_is_taken(
    tiny_study: MakeStudy, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(training: QuickTraining, recipes: Sequence[Recipe]) -> list[VariantScores]:
        """Of fan, max detects all faults in the end and none before; of pump, mean detects all."""
        labels = np.array([clip.label for clip in training.validation_clips])
        is_fan = np.array([clip.machine == "fan" for clip in training.validation_clips])
        liked = {"max": is_fan & (training.epoch == 5), "mean": ~is_fan}
        return [np.where(liked[recipe.scoring.pooling], labels, -labels).astype(float) for recipe in recipes]

    monkeypatch.setattr(QuickTraining, "scores_of_variants", scores)
    blocks = BLOCKS | {"training": {"epochs": 5, "threads": 1}, "scoring": {"pooling": {"choices": ["mean", "max"]}}}
    blocks["model"] = {"family": "vae", "h_dim": {"low": 4, "high": 16}}
    study = tiny_study(**{**blocks, "corpus": {"root": str(machines)}, "search": searching(1)})

    study.worker(quick=True).run()

    (trial,) = trials_of(study)
    pooling = {"fan.pooling": "max", "pump.pooling": "mean", "slider.pooling": "max"}  # slider: as all together
    assert trial.params == {"h_dim": trial.params["h_dim"], **pooling}
    assert trial.value == 1.0
    assert trial.intermediate_values == pytest.approx({1: 2 / 5, 3: 2 / 5, 5: 1.0})  # of five machine IDs
    assert trial.system_attrs["variants:fan:5"]["values"] == [0.0, 1.0]
    assert trial.system_attrs["variants:pump:5"]["values"] == [1.0, 0.0]


def test_detectors_and_ensembles_have_the_values_that_the_search_kept(
    tiny_study: MakeStudy, machines: Path, offkey: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = itertools.cycle([-1, 0, 1])  # fan, pump, slider
    monkeypatch.setattr("search.training.variant_choice.choose", lambda own, *evidence: range(len(own))[next(choices)])
    study = tiny_study(**{**BLOCKS, "corpus": {"root": str(machines)}, "search": searching(4)})
    study.worker().run()
    monkeypatch.setenv("OFFKEY_STORAGE", study.url)
    foretold = json.loads(offkey("status", "tiny", "--json").stdout)["ensemble"]

    ran = [
        offkey(*arguments)
        for arguments in (
            ("export", "tiny", "--trial", 1, "-o", "recipe.yaml"),
            ("train", "recipe.yaml", "-o", "bundle", "--json"),
            ("export", "tiny", "--ensemble", "-o", "ensemble.yaml"),
            ("train", "ensemble.yaml", "-o", "of-trials", "--json"),
        )
    ]

    assert [each.code for each in ran] == [0] * 4, [each.stderr for each in ran]
    trial, kept = trials_of(study)[1], study.ledger.scores()[1]
    assert json.loads(ran[1].stdout)["validation"]["auc"] == trial.value
    assert json.loads(ran[3].stdout)["validation"]["auc"] == foretold["value"]
    bundle = load_bundle("bundle")
    of_types = bundle.recipe.tree()["machine_types"]
    assert of_types["fan"]["model"]["score"] == "mahalanobis"
    assert of_types["pump"] == {
        "model": {"score": "reconstruction"},
        "scoring": {"pooling": "mean", "windows": "all", "calibration": "none"},
    }
    again = Training(bundle.recipe, blind(read_corpus(machines), study.stored.validation), CPU)
    again.scorer.load_state_dict(bundle.scorer.state_dict())
    np.testing.assert_array_equal(again.validation_scores(), kept)
    assert export_onnx(bundle, Path("detector.onnx")).takes_ids  # and has the same scores
    foreign = Path("valve/test/normal_id_00_00000000.wav")
    foreign.parent.mkdir(parents=True)
    shutil.copy(next((machines / "fan" / "test").glob("*.wav")), foreign)
    (row,) = score_clips(bundle, [foreign], CPU)
    assert "cannot score valve/00" in str(row.error)


def test_a_trial_that_is_taken_over_takes_what_an_undisturbed_one_takes(tiny_study: MakeStudy, machines: Path) -> None:
    scoring = {"pooling": {"choices": ["mean", "max"]}}
    blocks = {**BLOCKS, "scoring": scoring, "corpus": {"root": str(machines)}, "search": searching(1)}
    undisturbed = tiny_study(**{**blocks, "study": "undisturbed"})
    undisturbed.worker().run()
    study = tiny_study(**blocks)
    with faulty(study, "in the second epoch", signal.SIGKILL, lease=0.3, real=True) as killed:
        killed.join(timeout=60)
        assert killed.exitcode == -signal.SIGKILL

    study.worker().run()

    (trial,), (expected,) = trials_of(study), trials_of(undisturbed)
    assert (trial.params, trial.intermediate_values) == (expected.params, expected.intermediate_values)
    assert {key for key in trial.system_attrs if key.startswith("variants:")} == {
        key for key in expected.system_attrs if key.startswith("variants:")
    }
    np.testing.assert_array_equal(study.ledger.scores()[0], undisturbed.ledger.scores()[0])


@pytest.mark.parametrize(
    "blocks",
    [BLOCKS, {"model": {"family": "stat", "statistic": {"choices": ["mean", "maximum"]}}}],
    ids=["a network", "statistics, of which each combination is a trial again"],
)
def test_one_machine_type_makes_the_study_that_it_is_without_the_setting(
    corpus_root: Path, blocks: dict[str, Any]
) -> None:
    tree = {"study": "here", "corpus": {"root": str(corpus_root)}, **blocks}
    plain = prepare(study_of_tree(tree, origin="here"), default_root=None)

    prepared = prepare(
        study_of_tree({**tree, "search": {"scoring_for": "each_machine_type"}}, origin="here"), default_root=None
    )

    assert prepared.study.tree == plain.study.tree
    assert "one machine type, compressor" in prepared.warnings[0]
