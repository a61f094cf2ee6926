"""What excerpts are cut from has one value of each kind for each clip, and a place in the store for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.windows.stored_clips import StoredClips
from tests.features.windows.test_windows import numbered_store

PATHS = [Path("0.wav"), Path("1.wav")]


def test_it_has_as_many_clips_as_positions() -> None:
    store = numbered_store([3, 4, 5])
    assert len(StoredClips(store, [2, 0], PATHS, ids=[0, -1], attributes=[1, -1])) == 2
    assert len(StoredClips(store, [], [])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": PATHS[:1]}, "paths must have a value for each of 2 clips, but got 1"),
        ({"ids": [0, 1, 2]}, "ids must have a value for each of 2 clips, but got 3"),
        ({"attributes": []}, "attributes must have a value for each of 2 clips, but got 0"),
        ({"positions": [0, 3]}, "0 ≤ position < 3, the store's clips, must hold, but got 3"),
        ({"positions": [-1, 0]}, "0 ≤ position < 3, the store's clips, must hold, but got -1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_what_does_not_fit_together_is_refused_where_it_is_made(changes: dict[str, Any], message: str) -> None:
    clips = StoredClips(numbered_store([3, 4, 5]), [2, 0], PATHS)
    with pytest.raises(ValueError, match=message):
        replace(clips, **changes)
