"""Fixtures of the storage's tests."""

from __future__ import annotations

import pytest

from search.storage.study_storage import StudyStorage


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> StudyStorage:
    """A storage without a study."""
    return StudyStorage(f"sqlite:///{tmp_path_factory.mktemp('empty') / 'empty.db'}", create=True)
