"""`offkey corpus`: what it counts, what it suspects, what it could not read, and its exit code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]


def write(root: Path, name: str, *, seed: int = 0, channels: int = 1, samples: int = 1600) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        noise = np.random.default_rng([seed, *os.fsencode(name)]).normal(0, 0.1, (samples, channels))
        soundfile.write(file, noise, 16000, "PCM_16", format="WAV")


def table(printed: str) -> list[list[str]]:
    """The cells of a table, its head first."""
    return [line.split() for line in printed.splitlines() if line.startswith(" ")]


def test_corpus_counts_what_was_found(offkey: Offkey, corpus_root: Path) -> None:
    ran = offkey("corpus", corpus_root)

    assert (ran.code, ran.stderr) == (0, "")
    assert f"54 clips of 1 machines in {corpus_root}" in ran.stdout
    assert table(ran.stdout) == [
        ["machine", "ID", "train", "normal", "anomaly", "unlabelled", "seconds", "Hz", "sets"],
        *(
            ["compressor", machine_id, "6", "6", "6", "0", "1.0", "16000", "development"]
            for machine_id in ("00", "02", "04")
        ),
    ]


def test_corpus_shows_domains_supplemental_clips_and_channels_where_there_are_any(
    offkey: Offkey, tmp_path: Path
) -> None:
    root = tmp_path / "challenge"
    write(root, "dev_data/fan/train/section_00_source_train_normal_0000.wav", channels=2)
    write(root, "dev_data/fan/supplemental/section_00_noise_0000.wav", channels=2)
    write(root, "eval_data/fan/test/section_00_0000.wav", channels=2)
    write(root, "eval_data/fan/test/section_00_0001.wav", channels=2)
    for kind, lines in {"data": "section_00_0000.wav,1", "domain": "section_00_0000.wav,1"}.items():
        path = root / f"ground_truth_{kind}" / "ground_truth_fan_section_00_test.csv"
        path.parent.mkdir()
        path.write_text(lines)

    shown, document = offkey("corpus", root), json.loads(offkey("corpus", root, "--json").stdout)

    assert (shown.code, shown.stderr) == (0, "")
    head, row, more = table(shown.stdout)
    assert dict(zip(head, row, strict=False)) == {
        "machine": "fan", "ID": "00", "train": "1", "normal": "0", "anomaly": "1", "unlabelled": "1",
        "supplemental": "1", "source/target": "1/1", "seconds": "0.1", "Hz": "16000", "channels": "2",
        "sets": "development",
    }  # fmt: skip
    assert more == ["evaluation"]
    assert document["machines"] == {
        "fan": {"00": {"train": 1, "normal": 0, "anomaly": 1, "unlabelled": 1, "supplemental": 1}}
    }


def test_corpus_reads_a_manifest(offkey: Offkey, tmp_path: Path) -> None:
    write(tmp_path, "a.wav")
    (tmp_path / "press.csv").write_text("path,split,machine_id\na.wav,train,07\nb.wav,test,07\n")

    shown, document = (
        offkey("corpus", tmp_path / "press.csv"),
        json.loads(offkey("corpus", tmp_path / "press.csv", "--json").stdout),
    )

    assert shown.code == 1
    assert table(shown.stdout)[1][:3] == ["press", "07", "1"]
    assert [entry["path"] for entry in document["unreadable"]] == [str(tmp_path / "b.wav")]


def test_corpus_warns_of_suspicious_clips_and_does_not_fail(offkey: Offkey, corpus_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(corpus_root, tmp_path / "copy"))
    trained = root / "compressor/train/normal_id_00_00000000.wav"
    tested = root / "compressor/test/normal_id_00_00000000.wav"
    shutil.copy(trained, tested)

    shown, document = offkey("corpus", root), json.loads(offkey("corpus", root, "--json").stdout)

    reason = (
        "has the same samples as compressor/train/normal_id_00_00000000.wav and is tested on though it was trained on"
    )
    assert shown.code == 0
    assert " ".join(shown.stderr.split()) == f"suspicious: compressor/test/normal_id_00_00000000.wav: {reason}"
    assert document["suspicious"] == [{"path": str(tested), "reason": reason}]


def test_corpus_counts_suspicious_clips_beyond_the_first(offkey: Offkey, tmp_path: Path) -> None:
    for number in range(13):
        write(tmp_path, f"fan/train/{number:02d}.wav", samples=1600 if number < 8 else 100 * number)
    for number in range(13):
        path = tmp_path / f"fan/test/{number:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(1600, np.int16), 16000)

    ran = offkey("corpus", tmp_path)

    assert ran.stderr.count("suspicious: ") == 10
    assert "… and 8 more suspicious; --json lists them" in ran.stderr
    assert len(json.loads(offkey("corpus", tmp_path, "--json").stdout)["suspicious"]) == 18


def test_corpus_warns_of_tables_that_do_not_fit(offkey: Offkey, tmp_path: Path) -> None:
    write(tmp_path, "fan/test/id_00_00000000.wav")
    (tmp_path / "eval_data_list.csv").write_text("fan\nid_00_00000001.wav,normal_id_00_00000000.wav,0\n")

    shown, document = offkey("corpus", tmp_path), json.loads(offkey("corpus", tmp_path, "--json").stdout)

    message = "eval_data_list.csv: 1 of the 1 clips of fan that it labels are not there, for example id_00_00000001.wav"
    assert " ".join(shown.stderr.split()) == f"warning: {message}"
    assert document["warnings"] == [message]


def test_corpus_json_is_one_document_with_the_agreed_keys(offkey: Offkey, corpus_root: Path) -> None:
    ran = offkey("corpus", corpus_root, "--json")

    assert (ran.code, ran.stderr) == (0, "")
    document = json.loads(ran.stdout)
    assert document.keys() == {"clips", "unreadable", "machines", "suspicious", "warnings"}
    assert document["clips"] == 54
    assert document["unreadable"] == document["suspicious"] == document["warnings"] == []
    assert document["machines"].keys() == {"compressor"}
    for counts in document["machines"]["compressor"].values():
        assert counts.items() >= {"train": 6, "normal": 6, "anomaly": 6}.items()


def test_corpus_lists_what_it_could_not_read_and_fails(offkey: Offkey, corpus_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(corpus_root, tmp_path / "copy"))
    broken = root / "compressor" / "test" / "normal_id_00_00000001.wav"
    broken.write_bytes(b"")

    shown, as_json = offkey("corpus", root), offkey("corpus", root, "--json")

    assert (shown.code, as_json.code) == (1, 1)
    assert "unreadable: compressor/test/normal_id_00_00000001.wav: the file is empty" in " ".join(shown.stderr.split())
    document = json.loads(as_json.stdout)
    assert document["clips"] == 53
    assert [entry["path"] for entry in document["unreadable"]] == [str(broken)]
    assert document["unreadable"][0]["reason"]


@pytest.mark.parametrize("machine", [os.fsdecode(b"L\xfcfter"), "fan [red]", "[bold]fan"])
def test_corpus_prints_machines_and_files_of_any_name(offkey: Offkey, tmp_path: Path, machine: str) -> None:
    write(tmp_path, f"{machine}/train/a.wav")
    (tmp_path / machine / "train" / "b.wav").touch()

    shown, as_json = offkey("corpus", tmp_path), offkey("corpus", tmp_path, "--json")

    assert (shown.code, as_json.code) == (1, 1)
    assert os.fsencode(machine).decode(errors="replace") in shown.stdout
    assert json.loads(as_json.stdout)["machines"].keys() == {machine}
