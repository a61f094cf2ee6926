"""An earlier Offkey's files: a finished study is shown, an unfinished one is refused, a detector scores clips."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.study.computation import COMPUTATION
from tests.support.command import Ran

FILES = Path(__file__).with_name("written_by_7f94544")
EXPECTED = FILES / "expected"

Offkey = Callable[..., Ran]

#: Between CPUs, as in tests/search/detector/test_reproduction.py.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _as_it_was_left(tmp_path: Path, corpus_root: Path) -> None:
    """Its files and clips in the working directory."""
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "corpus").symlink_to(corpus_root)


def storage_of(name: str) -> tuple[str, str]:
    return "--storage", f"sqlite:///{name}.db"


@pytest.mark.parametrize("name", ["finished", "half_finished"])
def test_a_study_has_the_same_status(offkey: Offkey, name: str) -> None:
    shown = offkey("status", name, "--json", *storage_of(name))

    assert shown.code == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert document.pop("ensemble")["value"] is None  # that version kept no scales
    ended = sum(document["trials"][state] for state in ("complete", "pruned", "failed"))
    # That version did not list families; of one family there is no list.
    assert sum(family["trials"] for family in document.pop("families", [])) == (ended if name == "finished" else 0)
    expected = json.loads((EXPECTED / f"status_{name}.json").read_text())
    # That version said nothing of a gain, judged ties as if each were alone, and had an interval of three clips.
    assert document.pop("gain", {"told": False})["told"] is False
    for best in (document["best"], expected["best"]):
        del best["ties"], best["interval"]
    assert document == expected


def test_a_finished_study_s_best_trial_has_the_same_recipe(offkey: Offkey) -> None:
    exported = offkey("export", "finished", *storage_of("finished"))

    assert exported.code == 0, exported.stderr
    assert exported.stdout == (EXPECTED / "recipe.yaml").read_text()


def test_a_finished_study_s_report_names_the_code_that_searched(offkey: Offkey) -> None:
    written = offkey("report", "finished", *storage_of("finished"), "-o", "report.html")

    assert written.code == 0, written.stderr
    assert "<td>0.1.0, code f6e576927571</td>" in Path("report.html").read_text()


@pytest.mark.parametrize(
    "command",
    [
        ["search", "half_finished", "--workers", 1],
        ["search", "half_finished.yaml", "--trials", 6, "--workers", 1],
        ["worker", "half_finished"],
    ],
)
def test_an_unfinished_study_is_refused_with_what_differs(offkey: Offkey, command: list[str | int]) -> None:
    ran = offkey(*command, *storage_of("half_finished"))

    assert ran.code == 1
    assert "The study 'half_finished' exists and differs:" in ran.stderr
    assert "  versions.code: stored f6e576927571, here —\n" in ran.stderr
    assert f"  versions.computation: stored —, here {COMPUTATION}\n" in ran.stderr
    # Its clips and settings are the same; other packages than those of then may be installed.
    differing = [line for line in ran.stderr.splitlines() if line.startswith("  ")]
    if "half_finished.yaml" in command:  # which names no precision: float32 was the default then
        differing.remove("  training.precision: stored float32, here auto")
    assert all(line.startswith("  versions.") for line in differing), ran.stderr
    trials = optuna.load_study(study_name="half_finished", storage="sqlite:///half_finished.db").trials
    assert [trial.state for trial in trials] == [*4 * [TrialState.COMPLETE], TrialState.WAITING]


def test_a_detector_scores_clips_the_same_and_names_the_code_that_wrote_it(offkey: Offkey) -> None:
    ran = offkey("score", "detector", "corpus/compressor/test", "-o", "scores.csv")

    assert ran.code == 0, ran.stderr
    assert "code f6e576927571 (here —)" in ran.stderr
    assert "detector was written by an earlier Offkey: it has no digests" in ran.stderr
    scored, expected = ([*csv.DictReader(path.open())] for path in (Path("scores.csv"), EXPECTED / "scores.csv"))
    assert [row | {"score": ""} for row in scored] == [row | {"score": ""} for row in expected]
    scores = [float(row["score"]) for row in expected]
    assert [float(row["score"]) for row in scored] == pytest.approx(scores, rel=TOLERANCE)
