"""librosa is imported by one process at a time: two that compile it together may spoil its cache."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

_IMPORT = """
from features.reference import librosa
print("asking", flush=True)
print("imported", librosa("filters").__name__, flush=True)
"""


def test_an_import_waits_for_another_process_to_have_done(
    start_python: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    with FileLock(tmp_path / "librosa.lock"):
        process = start_python(f"import os\nos.environ['OFFKEY_CACHE'] = {str(tmp_path)!r}\n{_IMPORT}")
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
    printed, errors = process.communicate(timeout=120)
    assert (process.returncode, printed, errors) == (0, "imported librosa.filters\n", "")


def test_a_cache_that_cannot_be_written_is_no_hindrance(run_python: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run_python(f"import os\nos.environ['OFFKEY_CACHE'] = {str(tmp_path / 'file' / 'below')!r}\n{_IMPORT}")
