"""Which clips train, are withheld, validate, are held out or left out; synthetic faults."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, get_args

import numpy as np

from features.cleaning import CleaningSettings, Method, clean, deviations
from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.clips.synthetic_faults import GRADES, KINDS, with_fault
from search.study.recipe import Recipe, ValidationSettings
from search.validation.split import blind, folds_of, held_out_clips, labelled_test_clips, training_clips
from search.validation.views import validation_data_of
from tests.computation.case import Case, spread_over, without_clips
from tests.computation.frames import settings
from tests.computation.sounds import clips_without_files, waveform

METHODS: tuple[Method, ...] = tuple(method for method in get_args(Method) if method != "none")

_SPLITS: dict[str, dict[str, Any]] = {
    "half of the clips": {},
    "a third, seed 3": {"share": 0.34, "seed": 3},
    "the development set": {"clips": "development"},
}


def _stems(clips: Iterable[Clip]) -> list[str]:
    return [clip.name.rpartition("/")[2].removesuffix(".wav") for clip in clips]


def _split(validation: dict[str, Any]) -> list[str]:
    corpus, chosen = clips_without_files(), ValidationSettings.model_validate(validation)
    validation_data = labelled_test_clips(blind(corpus, chosen))
    return [*_stems(validation_data), "held out", *_stems(held_out_clips(corpus, chosen))]


def _withheld(train_on: str, *, share: float, seed: int) -> list[str]:
    recipe = Recipe.model_validate(
        {
            "study": "golden",
            "corpus": {"train_on": train_on},
            "model": {"family": "stat"},
            "training": {"calibration_share": share},
            "validation": {"seed": seed},
        }
    )
    return _stems(training_clips(clips_without_files(), recipe).withheld)


def _folds() -> list[str]:
    corpus = clips_without_files()
    views = folds_of(corpus, ValidationSettings(folds=3, seed=1), "development")
    names = {clip.name for clip in labelled_test_clips(corpus)}
    return [
        name
        for fold, view in enumerate(views)
        for name in (
            f"fold {fold}",
            *_stems(clip for clip in labelled_test_clips(view) if clip.name not in names),
        )
    ]


def _proxies(corpus: Corpus) -> list[str | float]:
    """The clips that stand for faults, which recording each of them is of, and the sound of one."""
    validation = ValidationSettings(metric="proxy", seed=2, proxies=["other IDs", "knock 1", "noise 0.25"])
    validation_data = validation_data_of(corpus, validation)
    clips = labelled_test_clips(validation_data.views[0])
    frames = settings().frames(settings().waveform(clips[-1].path.read_bytes()))
    recordings = [f"{clip.name} of {of}" for clip, of in zip(clips, validation_data.truth.recordings, strict=True)]
    return [*recordings, *spread_over(frames)]


def _fault(kind: Any, grade: float) -> list[float]:
    signal = np.stack([waveform(), 0.5 * waveform()[::-1]], axis=1)
    return spread_over(with_fault(signal, kind, grade, sample_rate=16000, seed=5))


def _cleaned(method: Method, corpus: Corpus) -> list[str | float]:
    clips = [clip for clip in corpus.clips if clip.split == "train"]
    _, dropped = clean(clips, corpus, CleaningSettings(method=method, drop=0.25), settings())
    found = deviations(clips, corpus, method, settings())
    return [*_stems(outlier.clip for outlier in dropped), *(outlier.deviation for outlier in found)]


CASES: dict[str, Case] = {
    **{f"split: {name}": without_clips(_split, block) for name, block in _SPLITS.items()},
    "split: withheld clips": without_clips(_withheld, "development", share=0.25, seed=0),
    "split: withheld clips of two sets": without_clips(_withheld, "development+additional", share=0.4, seed=3),
    "split: folds": without_clips(_folds),
    "split: proxies": _proxies,
    **{f"fault: {kind} {grade:g}": without_clips(_fault, kind, grade) for kind in KINDS for grade in GRADES[::2]},
    **{f"cleaning: {method}": partial(_cleaned, method) for method in METHODS},
}
