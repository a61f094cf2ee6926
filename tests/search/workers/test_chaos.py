"""A fleet under random faults; benchmarks/chaos.py is the long version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.chaos import Chaos
from tests.support.house import HOUSE

if TYPE_CHECKING:
    from tests.support.servers import PostgresServer


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_random_faults_leave_the_exact_budget_and_every_curve_as_if_undisturbed(
    kind: str,
    corpus_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HOUSE))  # of the process that workers are forked from
    server: PostgresServer | None = None if kind == "sqlite" else request.getfixturevalue("postgres")
    url = f"sqlite:///{tmp_path / 'chaos.db'}" if server is None else server.new_database()
    chaos = Chaos(
        url,
        corpus_root,
        tmp_path / "chaos",
        workers=3,
        trials=7,
        lease=1.0,
        pause=0.2,
        server=server,
        stall=6.0,
        mean_gap=0.4,
        longest=100.0,
    )

    chaos.run()

    assert chaos.wrong == []
    assert chaos.faults.total() >= 3
