"""What `offkey init` proposes: the portfolio of `best`, as far as the recordings can serve it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from search.preparation import starter_study as starter
from search.preparation.prepared import prepare
from search.preparation.starter_study import starter_study
from search.study.study import Study
from search.study.study_file import load_study
from tests.support.study_files import load


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def proposed(root: Path) -> Study:
    """The proposed study, which its own recordings serve without a warning."""
    text = starter_study(root, name="mine").text
    ready = prepare(load(text), default_root=None)
    assert ready.warnings == ()
    assert ready.study.search.first == load(text).search.first, "in the order in which they are tried"
    return ready.study


def detectors(first: Any) -> list[Mapping[str, Any]]:
    """Entries without epochs, and without the family in the names of their settings."""
    return [{n.rpartition(".")[2]: value for n, value in entry.items() if n != "epochs"} for entry in first]


def with_clips(root: Path, *, seconds: float, ids: int, train: int) -> Path:
    """A corpus of noise."""
    noise = np.random.default_rng(0)
    for machine_id in range(ids):
        for split, label, count in (("train", "normal", train), ("test", "normal", 4), ("test", "anomaly", 4)):
            (root / "fan" / split).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                path = root / "fan" / split / f"{label}_id_{machine_id:02}_{number:08}.wav"
                soundfile.write(path, noise.normal(0, 0.1, round(seconds * 16000)), 16000)
    return root


def test_it_has_the_portfolio_of_best_without_its_larger_networks(corpus_root: Path) -> None:
    study, best = proposed(corpus_root), load_study("best")

    assert study.space.families == ("stat", "whole_spectrum", "vae", "classifier")
    assert study.baseline == best.baseline
    of_best = [entry for entry in best.search.first or () if entry["family"] in study.space.families]
    assert detectors(study.search.first) == detectors(of_best)


def test_crops_are_as_long_as_the_shortest_clip_and_neighbours_fewer_than_an_id_has_clips(tmp_path: Path) -> None:
    study = proposed(with_clips(tmp_path / "short", seconds=1.0, ids=2, train=3))

    blocks = {block.get("name") or block["family"]: block for block in study.space.tree["model"]}
    assert blocks["classifier"]["frames"] == 32
    assert blocks["stat"]["neighbours"] == blocks["whole_spectrum"]["neighbours"] == {"low": 1, "high": 2}
    assert blocks["stat"]["share"] == {"choices": [0.05, 0.1, 0.25]}


def test_a_share_that_is_no_frame_of_the_shortest_clip_is_left_out_with_its_entries(tmp_path: Path) -> None:
    study = proposed(with_clips(tmp_path / "tiny", seconds=0.4, ids=2, train=3))  # 13 frames

    assert study.space.tree["model"][0]["share"] == {"choices": [0.1, 0.25]}
    assert [entry["share"] for entry in study.search.first or () if "share" in entry] == [0.1, 0.1]


def test_with_one_machine_id_nothing_is_classified_or_tied(tmp_path: Path) -> None:
    root = with_clips(tmp_path / "alone", seconds=1.0, ids=1, train=12)
    study = proposed(root)

    assert study.space.families == ("stat", "whole_spectrum", "vae")
    assert not {"covariance", "conditional"} & {str(setting.path[-1]) for setting in study.space.settings}
    first = detectors(study.search.first)
    assert all(first.count(entry) == 1 for entry in first)
    (note,) = starter_study(root, name="mine").notes
    assert note.startswith("model: dropped classifier: ")


def test_networks_train_for_a_minute_on_a_slow_core_or_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = with_clips(tmp_path / "ids", seconds=1.0, ids=2, train=5)  # 320 windows

    def epochs(windows_a_second: int) -> Any:
        monkeypatch.setattr(starter, "WINDOWS_A_SECOND", windows_a_second)
        return proposed(root).space.tree.get("training", {}).get("epochs")

    assert (epochs(10_000), epochs(40), epochs(6), epochs(5)) == (
        {"choices": [10, 30]},
        {"choices": [2, 7]},  # 60 seconds × 40 / 320
        {"choices": [1]},
        None,
    )


def test_clips_of_several_sources_and_without_faults_are_proposed_for(corpus_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "challenge"
    shutil.copytree(corpus_root, root / "dev_data")
    for clip in (root / "dev_data").rglob("anomaly*.wav"):
        clip.unlink()

    text = starter_study(root, name="mine").text

    assert load(text).validation.objectives == ("proxy",)
    assert "a makeshift" in text
