"""Reads study files in the working folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.errors import StudyFileError
from search.study.study import Study
from search.study.study_file import load_study


def load(text: str, *overrides: str) -> Study:
    Path("study.yaml").write_text(text)
    return load_study("study.yaml", overrides=overrides)


def refusal(text: str, *overrides: str) -> str:
    """The message with which a study file is refused."""
    with pytest.raises(StudyFileError) as refused:
        load(text, *overrides)
    return str(refused.value)
