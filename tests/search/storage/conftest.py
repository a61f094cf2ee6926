"""What tests of the storage share."""

from __future__ import annotations

import pytest

from search.storage.study_storage import StudyStorage


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> StudyStorage:
    """A storage without a study, for what needs none."""
    return StudyStorage(f"sqlite:///{tmp_path_factory.mktemp('empty') / 'empty.db'}", create=True)
