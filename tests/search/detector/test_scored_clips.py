"""Scoring clips with a bundle: a row for every clip, in order, whatever is wrong with some of them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch

from features.clips.corpus import read_corpus
from search.detector.bundle import load_bundle, save_bundle
from search.detector.scored_clips import ScoredClip, clip_paths, score_clips
from search.study.recipe import Recipe
from tests.support.detectors import detector_of

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]

CPU = torch.device("cpu")
HEADER = ["path", "machine", "machine_id", "score", "decision", "error"]


def train(root: Path, folder: Path, *, calibration_share: float = 0.1) -> Path:
    recipe = Recipe.model_validate(
        {
            "study": "scoring",
            "features": {"n_mels": 32},
            "model": {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4},
            "training": {"learning_rate": 0.01, "batch_size": 64, "epochs": 1, "calibration_share": calibration_share},
        }
    )
    save_bundle(detector_of(recipe, read_corpus(root), CPU), folder)
    return folder


@pytest.fixture
def bundle(corpus_root: Path, tmp_path: Path) -> Path:
    return train(corpus_root, tmp_path / "bundle")


@pytest.fixture
def clips(corpus_root: Path, tmp_path: Path) -> Path:
    """A folder <machine>/test with two clips of ID 00 and one of ID 02, to be added to."""
    folder = tmp_path / "recordings" / "compressor" / "test"
    folder.mkdir(parents=True)
    for name in ("anomaly_id_00_00000000.wav", "normal_id_00_00000000.wav", "normal_id_02_00000001.wav"):
        shutil.copy(corpus_root / "compressor" / "test" / name, folder)
    return folder


def rows_of(bundle: Path, *paths: Path) -> list[ScoredClip]:
    return list(score_clips(load_bundle(bundle), paths, CPU))


def test_a_folder_s_wav_files_are_found_in_order_below_it(clips: Path, tmp_path: Path) -> None:
    (clips / "readme.txt").write_text("not a clip")
    shutil.copy(clips / "normal_id_02_00000001.wav", clips.parent / "LOUD.WAV")

    found = list(clip_paths([tmp_path]))

    assert [path.relative_to(tmp_path / "recordings" / "compressor").as_posix() for path in found] == [
        "LOUD.WAV",
        "test/anomaly_id_00_00000000.wav",
        "test/normal_id_00_00000000.wav",
        "test/normal_id_02_00000001.wav",
    ]


def test_paths_keep_the_order_in_which_they_were_given(clips: Path) -> None:
    last, first = clips / "normal_id_02_00000001.wav", clips / "anomaly_id_00_00000000.wav"

    assert list(clip_paths([last, first])) == [last, first]


def test_paths_are_asked_for_one_at_a_time(bundle: Path, clips: Path) -> None:
    asked = []

    def endless() -> Iterator[Path]:
        while True:
            asked.append(clips / "normal_id_02_00000001.wav")
            yield asked[-1]

    rows = score_clips(load_bundle(bundle), clip_paths(endless()), CPU)
    scores = [next(rows).score for _ in range(3)]

    assert len(asked) == 3
    assert len(set(scores)) == 1


def test_each_clip_has_a_score_and_its_id_s_decision(bundle: Path, corpus_root: Path) -> None:
    thresholds = load_bundle(bundle).thresholds
    paths = list(clip_paths([corpus_root / "compressor" / "test"]))

    rows = rows_of(bundle, *paths)

    assert [row.path for row in rows] == [str(path) for path in paths]
    for row in rows:
        assert (row.machine, row.error) == ("compressor", None)
        assert row.score is not None
        assert row.decision == int(row.score > thresholds[f"compressor/{row.machine_id}"])
    assert {row.decision for row in rows} == {0, 1}
    assert [row.machine_id for row in rows] == [path.name.split("_")[2] for path in paths]


def test_a_clip_is_called_an_anomaly_above_its_threshold_and_not_at_it(bundle: Path, clips: Path) -> None:
    path = clips / "normal_id_00_00000000.wav"
    loaded = load_bundle(bundle)
    score = rows_of(bundle, path)[0].score
    assert score is not None

    decisions = []
    for threshold in (np.nextafter(score, 0), score, np.nextafter(score, 1)):
        (row,) = score_clips(replace(loaded, thresholds={"compressor/00": float(threshold)}), [path], CPU)
        decisions.append(row.decision)

    assert decisions == [1, 0, 0]


def test_a_clip_s_score_does_not_depend_on_the_clips_beside_it(bundle: Path, clips: Path) -> None:
    together = rows_of(bundle, *clip_paths([clips]))

    assert [rows_of(bundle, path)[0] for path in clip_paths([clips])] == together


def broken(folder: Path, kind: str) -> Path:
    """A clip of ID 00 that cannot be scored, between the ones of the folder."""
    path = folder / "anomaly_id_00_00000007.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no sound at all")
    elif kind == "cut off":
        soundfile.write(path, noise, 16000, "PCM_16")
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "another rate":
        soundfile.write(path, noise, 8000, "PCM_16")
    elif kind == "stereo":
        soundfile.write(path, np.stack([noise, noise], axis=1), 16000, "PCM_16")
    elif kind == "too short":
        soundfile.write(path, noise[:600], 16000, "PCM_16")
    elif kind == "not a number":
        soundfile.write(path, np.where(np.arange(16000) == 99, np.nan, noise), 16000, "FLOAT")
    else:
        path.mkdir()
    return path


BROKEN = {
    "empty": "empty",
    "text": r"\w",
    "cut off": "cut off",
    "another rate": "8000 Hz, but the detector takes 16000 Hz",
    "stereo": "2 channels",
    "too short": "model.context is 3 frames, but .* has only 2",
    "not a number": "NaN or infinite",
    "folder": r"\w",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_clip_that_cannot_be_scored_has_a_row_with_the_reason_and_the_others_have_theirs(
    bundle: Path, clips: Path, kind: str
) -> None:
    whole = rows_of(bundle, *clip_paths([clips]))
    path = broken(clips, kind)

    rows = rows_of(bundle, *clip_paths([clips]))

    assert [rows[0], *rows[2:]] == whole
    row = rows[1]
    assert (row.path, row.machine, row.machine_id) == (str(path), "compressor", "00")
    assert (row.score, row.decision) == (None, None)
    assert row.error is not None
    assert re.search(BROKEN[kind], row.error)


def test_a_clip_of_an_unknown_id_has_a_score_and_no_decision(bundle: Path, clips: Path) -> None:
    path = clips / "normal_id_03_00000000.wav"
    shutil.copy(clips / "normal_id_00_00000000.wav", path)

    (row,) = rows_of(bundle, path)

    assert (row.machine_id, row.decision) == ("03", None)
    assert row.score == rows_of(bundle, clips / "normal_id_00_00000000.wav")[0].score
    assert row.error is not None
    assert row.error.startswith("no decision: compressor/03 was not trained on")


def test_a_detector_of_one_machine_takes_clips_of_any_folder_for_that_machine_s(bundle: Path, clips: Path) -> None:
    elsewhere = clips.parents[1] / "today"
    shutil.copytree(clips, elsewhere)

    assert [row.machine for row in rows_of(bundle, *clip_paths([elsewhere]))] == ["compressor"] * 3


def test_a_detector_of_several_machines_tells_them_by_their_folders(
    corpus_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "two"
    shutil.copytree(corpus_root / "compressor", root / "compressor")
    shutil.copytree(corpus_root / "compressor", root / "pump")
    bundle = train(root, tmp_path / "bundle")
    name = "test/normal_id_00_00000000.wav"
    shutil.copytree(root / "pump", root / "drill")
    monkeypatch.chdir(root / "pump" / "train")

    rows = rows_of(bundle, root / "compressor" / name, root / "pump" / name, root / "drill" / name, Path("..") / name)

    assert [row.machine for row in rows] == ["compressor", "pump", "drill", "pump"]
    assert [row.decision is None for row in rows] == [False, False, True, False]


def test_without_withheld_clips_there_are_scores_and_no_decisions(
    corpus_root: Path, tmp_path: Path, clips: Path
) -> None:
    bundle = train(corpus_root, tmp_path / "bundle", calibration_share=0)

    rows = rows_of(bundle, *clip_paths([clips]))

    assert all(row.score is not None and row.decision is None for row in rows)
    assert all(row.error is not None and "none of its training clips was withheld" in row.error for row in rows)


def test_the_command_writes_a_row_for_each_clip_as_csv(bundle: Path, clips: Path, offkey: Offkey) -> None:
    ran = offkey("score", bundle, clips)

    table = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert ran.code == 0
    assert list(table[0]) == HEADER
    assert [row["path"] for row in table] == [str(path) for path in clip_paths([clips])]
    assert [float(row["score"]) for row in table] == [row.score for row in rows_of(bundle, *clip_paths([clips]))]
    assert {row["error"] for row in table} == {""}
    assert "3 clips:" in ran.stderr


def test_the_command_writes_a_document_for_each_clip_as_json_lines(bundle: Path, clips: Path, offkey: Offkey) -> None:
    ran = offkey("score", bundle, clips, "--jsonl")

    documents = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.code == 0
    assert [list(document) for document in documents] == [HEADER] * 3
    assert [ScoredClip(**document) for document in documents] == rows_of(bundle, *clip_paths([clips]))


@pytest.mark.parametrize("jsonl", [False, True])
def test_one_broken_clip_is_exit_code_1_with_the_rows_of_all_others(
    bundle: Path, clips: Path, offkey: Offkey, jsonl: bool
) -> None:
    broken(clips, "cut off")
    output = Path("scores")

    ran = offkey("score", bundle, clips, "-o", output, *(["--jsonl"] if jsonl else []))

    text = output.read_text()
    rows = [json.loads(line) for line in text.splitlines()] if jsonl else list(csv.DictReader(io.StringIO(text)))
    assert ran.code == 1
    assert ran.stdout == ""
    assert [bool(row["error"]) for row in rows] == [False, True, False, False]
    assert [row["score"] in ("", None) for row in rows] == [False, True, False, False]
    assert "4 clips" in ran.stderr
    assert "1 with an error; wrote scores" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "recordings"), "nowhere is not a bundle"),
        (("bundle", "nowhere"), "nowhere does not exist"),
        (("bundle", "empty"), "No wav file in empty"),
        (("bundle", "--list", "nowhere.txt"), "nowhere.txt cannot be read"),
        (("bundle", "recordings", "--dcase", "bundle/recipe.yaml"), "bundle/recipe.yaml exists already"),
        (("bundle", "recordings", "-o", "nowhere/scores.csv"), "nowhere/scores.csv cannot be written"),
    ],
)
@pytest.mark.usefixtures("bundle", "clips")
def test_what_the_user_can_mend_is_one_line_and_exit_code_1(
    offkey: Offkey, arguments: tuple[str, ...], message: str
) -> None:
    Path("empty").mkdir()

    ran = offkey("score", *arguments)

    assert ran.code == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: ")
    assert message in ran.stderr


def test_without_any_path_the_command_asks_which_clips(bundle: Path, offkey: Offkey) -> None:
    ran = offkey("score", bundle)

    assert (ran.code, ran.stdout) == (2, "")
    assert "No clips are given: give wav files or folders, or --list FILE." in ran.stderr


def test_a_path_that_is_not_there_has_a_row_with_the_reason(bundle: Path, clips: Path, offkey: Offkey) -> None:
    ran = offkey("score", bundle, "gone_id_00_00000000.wav", clips)

    rows = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert ran.code == 1
    assert [row["error"] for row in rows] == ["does not exist", "", "", ""]


@pytest.mark.parametrize("source", ["list.txt", "-"])
def test_clips_may_be_listed_a_path_in_each_line(
    bundle: Path, clips: Path, offkey: Offkey, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [clips / "normal_id_02_00000001.wav", Path("gone.wav"), clips / "normal_id_00_00000000.wav"]
    text = f"{names[0]}\n\n{names[1]}\n{names[2]}"
    Path("list.txt").write_text(text)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

    ran = offkey("score", bundle, "--list", source, "--jsonl")

    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.code == 1
    assert [row["path"] for row in rows] == [str(name) for name in names]
    assert [row["score"] is None for row in rows] == [False, True, False]


def test_the_challenge_s_files_have_a_line_for_each_clip_of_their_machine_id(
    bundle: Path, clips: Path, offkey: Offkey
) -> None:
    shutil.copy(clips / "normal_id_02_00000001.wav", clips / "section_02_0003.wav")
    broken(clips, "cut off")
    rows = {Path(row.path).name: row for row in rows_of(bundle, *clip_paths([clips]))}

    ran = offkey("score", bundle, clips, "--dcase", "submission")

    assert (ran.code, ran.stdout) == (1, "")
    assert "5 clips:" in ran.stderr and "1 with an error; wrote submission" in ran.stderr
    files = {
        path.name: [line.split(",") for line in path.read_text().splitlines()] for path in Path("submission").iterdir()
    }
    assert {name: [line[0] for line in lines] for name, lines in files.items()} == {
        f"{kind}_compressor_{of}.csv": names
        for kind in ("anomaly_score", "decision_result")
        for of, names in (
            ("id_00", ["anomaly_id_00_00000000.wav", "normal_id_00_00000000.wav"]),
            ("id_02", ["normal_id_02_00000001.wav"]),
            ("section_02_test", ["section_02_0003.wav"]),
        )
    }
    for name, lines in files.items():
        for clip, value in lines:
            assert float(value) == (rows[clip].score if name.startswith("anomaly_score") else rows[clip].decision)


def test_files_of_a_submission_that_are_there_are_left_as_they_are(bundle: Path, clips: Path, offkey: Offkey) -> None:
    Path("submission").mkdir()
    Path("submission/anomaly_score_compressor_id_00.csv").write_text("mine")

    ran = offkey("score", bundle, clips, "--dcase", "submission")

    assert ran.code == 1
    assert "anomaly_score_compressor_id_00.csv exists already, and is left as it is" in ran.stderr
    assert Path("submission/anomaly_score_compressor_id_00.csv").read_text() == "mine"


def test_scoring_leaves_no_file_behind(bundle: Path, clips: Path, offkey: Offkey) -> None:
    before = sorted(os.listdir())

    offkey("score", bundle, clips)

    assert sorted(os.listdir()) == before


def test_a_clip_in_another_machine_s_folder_is_not_taken_for_the_machine_that_was_trained_on(
    bundle: Path, clips: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(clips, tmp_path / "pump" / "test")

    rows = rows_of(bundle, *clip_paths([other]))

    assert [(row.machine, row.decision) for row in rows] == [("pump", None)] * 3
    assert all("pump/0" in (row.error or "") and "was not trained on" in (row.error or "") for row in rows)


def test_a_name_without_a_machine_id_is_an_error_where_several_were_trained_on(
    bundle: Path, clips: Path, tmp_path: Path
) -> None:
    shutil.copy(clips / "normal_id_00_00000000.wav", tmp_path / "whatever.wav")

    (row,) = rows_of(bundle, tmp_path / "whatever.wav")

    assert (row.machine, row.machine_id, row.score, row.decision) == ("compressor", "", None, None)
    assert row.error == "its name gives no machine ID, as normal_id_00_00000000.wav does: one of 00, 02, 04"


def test_a_name_without_a_machine_id_is_the_one_that_was_trained_on(
    corpus_root: Path, clips: Path, tmp_path: Path
) -> None:
    for path in sorted((corpus_root / "compressor").rglob("*_id_02_*.wav")):
        target = tmp_path / "one" / path.relative_to(corpus_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    bundle = train(tmp_path / "one", tmp_path / "bundle-of-one")
    shutil.copy(clips / "normal_id_02_00000001.wav", tmp_path / "whatever.wav")

    (row,) = rows_of(bundle, tmp_path / "whatever.wav")

    assert (row.machine, row.machine_id, row.error) == ("compressor", "02", None)
