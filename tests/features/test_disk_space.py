"""Whether a file fits on its disk is asked before it is begun."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from features.disk_space import lack_of_space

Disk = namedtuple("Disk", "total used free")


@pytest.mark.parametrize(
    ("total", "free", "needed", "fits"),
    [
        (10**12, 10**10, 10**9, True),
        (10**12, 10**9, 10**9, False),  # nothing would be left for others
        (10**6, 2 * 10**5, 10**5, True),  # a small disk keeps a twentieth
        (10**6, 10**5, 10**5, False),
    ],
)
def test_a_file_fits_if_some_room_is_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, needed: int, fits: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(total, total - free, free))

    lack = lack_of_space(tmp_path, needed)

    assert (lack is None) == fits
    if lack is not None:
        assert str(tmp_path) in lack
