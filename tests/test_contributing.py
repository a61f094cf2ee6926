"""CONTRIBUTING.md is true: its snippets run, and the files that it names are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from features.clips.corpus import read_corpus
from features.frames.feature_settings import KINDS
from models.families import FAMILIES
from search.study.recipe import Recipe
from search.validation.split import blind
from tests.support.house import HOUSE
from tests.support.training import trained

TEXT = (HOUSE / "CONTRIBUTING.md").read_text(encoding="utf-8")

#: Path → source of each whole file that it shows.
SNIPPETS = {
    source.splitlines()[0].removeprefix("# "): source
    for source in re.findall(r"```python\n(# .*?)```", TEXT, re.DOTALL)
}


def module_of(path: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(path.removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(SNIPPETS[path], path, "exec"), module.__dict__)
    return module


def test_its_family_learns_on_its_kind_of_feature(corpus_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "mine", module_of("features/frames/mine.py", monkeypatch))
    monkeypatch.setitem(FAMILIES, "mine", module_of("models/mine.py", monkeypatch).__name__)
    recipe = Recipe.model_validate(
        {
            "study": "mine",
            "features": {"kind": "mine"},
            "model": {"family": "mine", "context": 3},
            "training": {"epochs": 2, "seed": 0, "threads": 1},
        }
    )

    training = trained(recipe, blind(read_corpus(corpus_root), recipe.validation))

    scores = training.validation_scores()
    assert len(scores) == len(training.validation_clips)
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0


def test_the_files_that_it_names_are_there() -> None:
    named = re.findall(r"`((?:search|models|features|tests|studies|docs)/[\w/.]*|[A-Z]+\.\w+|pyproject\.toml)`", TEXT)
    assert len(named) > 25
    assert [path for path in named if not (HOUSE / path).exists() and "mine" not in path] == []
