"""What the tests of `features` share: small clips, folders that anyone may enter, processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import features

#: The first lines of a script that goes on as a user without rights: root may read and write everything.
_AS_NOBODY = """
def become_nobody():
    import os
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
"""


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python script in a process of its own, which can import `features` and may `become_nobody()`."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, sys.executable, "-P", "-c", _AS_NOBODY + script, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(Path(features.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run_python(start_python: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Runs a Python script in a process of its own to its end, which must be a good one; gives what it printed."""

    def run(script: str, *arguments: object, **options: Any) -> str:
        process = start_python(script, *arguments, **options)
        printed, errors = process.communicate()
        assert process.returncode == 0, errors
        return printed.strip()

    return run


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and read, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for parent, names, _ in os.walk(folder):
        for name in names:
            Path(parent, name).chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def make_clips() -> Callable[..., Path]:
    """Writes clips of noise as ROOT/fan/train/normal_id_00_*.wav, each of other length and content."""

    def make(root: Path, *, count: int, samples: int = 1600) -> Path:
        folder = root / "fan" / "train"
        folder.mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng(number).normal(0, 0.1, samples + 100 * number)
            soundfile.write(folder / f"normal_id_00_{number:08d}.wav", noise, 16000, "PCM_16")
        return root

    return make
