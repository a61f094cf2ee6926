"""The synthetic faults that a detector learns from: which they are, and that they come from training clips alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.clips.clip import Clip
from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_faults import KINDS, faulty_clips
from search.errors import StudyFileError
from search.study.recipe import Recipe, ValidationSettings
from search.study.study_file import study_of_tree
from search.training.exposure import FAULTS_OF_AN_ID, faults_to_learn
from search.training.loop import Training
from search.validation.views import validation_data_of


def clips_of(corpus: Corpus, count: int) -> list[Clip]:
    """Clips of one machine ID, by names alone."""
    return [replace(corpus.clips[0], name=f"{number}.wav", path=Path(f"{number}.wav")) for number in range(count)]


@pytest.fixture(scope="module")
def corpus(corpus_root: Path) -> Corpus:
    return read_corpus(corpus_root)


@pytest.mark.parametrize(("count", "expected"), [(1, 5), (6, 30), (12, 60), (40, 60), (300, 60)])
def test_each_kind_is_as_frequent_and_no_clip_has_one_twice(corpus: Corpus, count: int, expected: int) -> None:
    faults = faults_to_learn(clips_of(corpus, count), seed=0)

    assert expected == min(FAULTS_OF_AN_ID, 5 * count) == len({(clip.name, kind) for clip, kind, _ in faults})
    of_kinds = Counter(kind for _, kind, _ in faults)
    of_clips = Counter(clip.name for clip, _, _ in faults)
    assert set(of_kinds) == set(KINDS) and max(of_kinds.values()) - min(of_kinds.values()) <= 5
    assert len(of_clips) == min(count, 60) and max(of_clips.values()) - min(of_clips.values()) <= 1


def test_they_depend_on_the_seed_and_not_on_the_order_of_the_clips(corpus: Corpus) -> None:
    clips = clips_of(corpus, 70)
    assert faults_to_learn(clips, seed=1) == faults_to_learn(clips[::-1], seed=1) != faults_to_learn(clips, seed=2)


def recipe(**model: Any) -> Recipe:
    tree = {"family": "stat", "score": "exposure", "standardize": True, **model}
    training = {"seed": 0, "threads": 1, "calibration_share": 0.4}
    return Recipe.model_validate({"study": "x", "features": {"n_mels": 16}, "model": tree, "training": training})


@pytest.mark.parametrize("model", [{}, {"per_id": True}], ids=str)
@pytest.mark.parametrize("validation", [{}, {"folds": 2}], ids=str)
def test_faults_are_made_of_the_clips_that_the_model_trains_on_and_of_no_others(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, validation: dict[str, Any], model: dict[str, Any]
) -> None:
    made: list[str] = []

    def recorded(faults: Sequence[Any]) -> Any:
        made.extend(clip.name for clip, _, _ in faults)
        return faulty_clips(faults)

    monkeypatch.setattr("search.training.stores.faulty_clips", recorded)
    for view in validation_data_of(corpus, ValidationSettings.model_validate(validation)).views:
        made.clear()
        training = Training(recipe(**model), view, torch.device("cpu"))

        assert np.isfinite(training.validation_scores()).all()

        assert training.clips.withheld
        assert set(made) == {clip.name for clip in training.clips.train}


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ({"family": "stat", "score": "exposure"}, "model.score"),
        ([{"family": "vae"}, {"family": "stat", "score": {"choices": ["knn", "exposure"]}}], "model.1.score"),
        (
            {
                "family": "fusion",
                "members": {
                    "one": {"model": {"family": "stat"}},
                    "two": {"model": {"family": "stat", "score": "exposure"}},
                },
            },
            "model.members.two.model.score",
        ),
        (
            {
                "family": "fusion",
                "members": {
                    "one": {"model": {"family": "stat"}},
                    "two": {"model": {"family": "vae"}, "machine_types": {"fan": {"model": {"score": "exposure"}}}},
                },
            },
            "model.members.two.machine_types.fan.model.score",
        ),
    ],
)
def test_where_synthetic_faults_validate_no_detector_learns_from_them(model: Any, place: str) -> None:
    tree = {"study": "x", "model": model, "validation": {"metric": "proxy"}}
    with pytest.raises(StudyFileError, match=rf"^here: {place} is exposure, which learns from synthetic faults, but"):
        study_of_tree(tree, origin="here")
    study_of_tree(tree | {"validation": {"metric": "proxy", "proxies": ["other IDs"]}}, origin="here")
