"""From a recipe to its detector: what does not fit the recordings is refused before any training."""

from __future__ import annotations

import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from features.errors import OffkeyError, UnservedError
from search.detector.detector import Detector
from search.detector.making import make_detector
from search.errors import StudyError
from search.study.recipe import Recipe

CPU = torch.device("cpu")


def detector_from(root: Path, *, tell: Callable[[str], None] = print, progress: Any = None, **blocks: Any) -> Detector:
    """A detector in the folder `bundle`; `progress` is called with the name of each stage."""

    def stage(name: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(name, done, total) if progress else None

    tree = {
        "study": "levels",
        "corpus": {"root": str(root)},
        "features": {"n_mels": 16},
        "model": {"family": "stat"},
        "training": {"seed": 0, "threads": 1},
        **blocks,
    }
    return make_detector(
        Recipe.model_validate(tree),
        "bundle",
        device=CPU,
        on_faults=stage("faults"),
        on_features=stage("features"),
        on_epoch=stage("training"),
        tell=tell,
    )


@pytest.fixture
def corpus_copy(tmp_path: Path, corpus_root: Path) -> Path:
    """A copy of the corpus, to be changed."""
    return Path(shutil.copytree(corpus_root, tmp_path / "copy"))


def test_test_clips_that_are_trained_on_and_copies_in_both_parts_are_warned_of(corpus_copy: Path) -> None:
    machine, warnings = corpus_copy / "compressor", list[str]()
    shutil.copy(machine / "train/normal_id_00_00000000.wav", machine / "test/normal_id_00_00000099.wav")
    for number in range(1, 6):
        shutil.copy(machine / "test/anomaly_id_02_00000000.wav", machine / f"test/anomaly_id_02_{number:08d}.wav")

    detector_from(corpus_copy, tell=warnings.append)

    leak, copies = warnings
    assert leak.startswith(
        "1 test clips are training clips too, for example compressor/test/normal_id_00_00000099.wav (compressor"
    )
    assert copies.startswith("3 held-out test clips have the same contents as validation clips")


@pytest.mark.parametrize(
    ("blocks", "error", "refusal"),
    [
        ({"validation": {"metric": "pauc"}}, StudyError, "pAUC .* needs 10 of them, but compressor/00 has 3"),
        ({"validation": {"metric": "official", "folds": 2}}, StudyError, "pAUC .* needs 10 of them"),
        (
            {"validation": {"folds": 2}, "scoring": {"calibration": "z"}, "training": {"calibration_share": 0.34}},
            UnservedError,
            "of the clips that `validation.folds: 2` leaves a trial to train on: scoring.calibration",
        ),
    ],
    ids=["metric", "metric of folds", "calibration"],
)
def test_what_the_clips_do_not_serve_is_refused_before_any_work(
    corpus_root: Path, blocks: dict[str, Any], error: type[OffkeyError], refusal: str
) -> None:
    seen: list[str] = []

    with pytest.raises(error, match=refusal):
        detector_from(corpus_root, progress=lambda stage, done, total: seen.append(stage), **blocks)

    assert seen == []
    assert not Path("bundle").exists()


def test_only_the_first_objective_is_asked_of_the_clips(corpus_root: Path) -> None:
    assert 0 <= detector_from(corpus_root, validation={"metric": ["auc", "pauc"]}).value <= 1


def test_folds_validate_where_the_test_clips_are_faults_alone(corpus_copy: Path) -> None:
    for path in corpus_copy.rglob("test/normal_*.wav"):
        path.unlink()
    warnings: list[str] = []

    detector = detector_from(corpus_copy, tell=warnings.append, validation={"folds": 2})

    assert detector.validation.per_id.keys() == {"compressor/00", "compressor/02", "compressor/04"}
    assert detector.test is None
    assert warnings == ["compressor/00, compressor/02, compressor/04: too few labelled clips for a held-out test"]


@pytest.mark.parametrize(
    ("validation", "computed", "times"),
    [
        ({}, "search.validation.views.blind", 1),
        ({"folds": 2}, "search.validation.views.folds_of", 1),
        ({"metric": "proxy"}, "features.clips.synthetic_faults.faulty_clip", 90),
    ],
    ids=["one view", "folds", "faults of proxies"],
)
def test_views_are_computed_once_on_the_way_from_a_recipe_to_its_bundle(
    corpus_root: Path, monkeypatch: pytest.MonkeyPatch, validation: dict[str, Any], computed: str, times: int
) -> None:
    original, calls = pkgutil.resolve_name(computed), list[object]()

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        return original(*given, **named)

    monkeypatch.setattr(computed, counted)

    detector_from(corpus_root, validation=validation)

    assert len(calls) == times


def test_synthesizing_faults_is_a_stage_of_its_own(corpus_root: Path) -> None:
    ends: dict[str, tuple[int, int]] = {}

    detector_from(
        corpus_root,
        progress=lambda stage, done, total: ends.update({stage: (done, total)}),
        validation={"metric": "proxy"},
    )

    assert list(ends) == ["faults", "features", "training"]
    assert ends["faults"] == (90, 90)  # of 3 machine IDs 2 clips each, 5 kinds in 3 grades
