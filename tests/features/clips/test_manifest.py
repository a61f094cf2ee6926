from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from features.clips.corpus import Unreadable, read_corpus
from features.clips.manifest import is_manifest, read_manifest
from features.errors import CorpusError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A manifest's path; beside it lies the clip a.wav."""
    folder = tmp_path / "plant"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.arange(100, dtype=np.int16), 16000)
    return folder / "press.csv"


FULL = "path,machine,machine_id,split,label,source,domain,attributes\n"
LINES = {
    # columns and line → (name, machine, ID, split, label, source, domain, attributes)
    "all columns": (
        FULL + "a.wav,pump,07,test,anomaly,evaluation,target,belt_worn",
        ("a.wav", "pump", "07", "test", 1, "evaluation", "target", "belt_worn"),
    ),
    "as few as there can be": (
        "split,path\ntrain,a.wav",
        ("a.wav", "press", "00", "train", 0, "development", None, ""),
    ),
    "empty cells": (FULL + "a.wav,,,test,,,,", ("a.wav", "press", "00", "test", None, "development", None, "")),
    "a line that ends early": (FULL + "a.wav,,,test", ("a.wav", "press", "00", "test", None, "development", None, "")),
    "IDs are text": (
        "path,split,machine_id\na.wav,test,007",
        ("a.wav", "press", "007", "test", None, "development", None, ""),
    ),
    "labels as numbers": (
        "path,split,label\na.wav,test,0",
        ("a.wav", "press", "00", "test", 0, "development", None, ""),
    ),
    "what cells leave to the name": (
        "path,split,label\nb/section_02_target_test_anomaly_0001_v_1.wav,test,",
        ("b/section_02_target_test_anomaly_0001_v_1.wav", "press", "02", "test", 1, "development", "target", "v_1"),
    ),
    "an unknown label against the name": (
        "path,split,label\nanomaly_1.wav,test,unknown",
        ("anomaly_1.wav", "press", "00", "test", None, "development", None, ""),
    ),
    "a training clip is normal whatever its name": (
        "path,split\nanomaly_1.wav,train",
        ("anomaly_1.wav", "press", "00", "train", 0, "development", None, ""),
    ),
    "supplemental": (
        "path,split\na.wav,supplemental",
        ("a.wav", "press", "00", "supplemental", None, "development", None, ""),
    ),
    "blanks, quotes, empty lines and a byte-order mark": (
        '\ufeffpath , split\r\n\r\n" ./x, y/a.wav ", test \r\n,\r\n',
        ("x, y/a.wav", "press", "00", "test", None, "development", None, ""),
    ),
}


@pytest.mark.parametrize(("text", "expected"), LINES.values(), ids=LINES)
def test_a_line_says_what_a_clip_is(table: Path, text: str, expected: tuple[object, ...]) -> None:
    table.write_text(text, newline="")
    (entry,) = read_manifest(table)
    clip = entry.description
    assert (
        entry.name, clip.machine, clip.machine_id, clip.split, clip.label, clip.source, clip.domain, clip.attributes,
    ) == expected  # fmt: skip


def test_paths_are_from_the_table_s_folder_or_absolute(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside.wav"
    table.write_text(f"path,split\na.wav,train\n{table.parent}/b.wav,train\n{outside},train\n../c.wav,train\n")
    monkeypatch.chdir(tmp_path)
    entries = read_manifest(Path("plant/press.csv"))
    assert {entry.name: entry.path.resolve() for entry in entries} == {
        "a.wav": table.parent / "a.wav",
        "b.wav": table.parent / "b.wav",
        "../c.wav": tmp_path / "c.wav",
        outside.as_posix(): outside,
    }


REFUSED = {
    "nothing": ("", "line 1: columns path and split are needed, but got an empty file"),
    "no lines": ("path,split\n\n", "lists no clips"),
    "a missing column": ("path,label\na.wav,normal", "line 1: columns path and split are needed, but got path, label"),
    "a misspelt column": ("path,split,lable\n", "line 1: a column is one of path, .*got 'lable'; did you mean label?"),
    "a column twice": ("path,split,path\n", "line 1: column path is there twice; keep one"),
    "semicolons": ("path;split\na.wav;train", "got 'path;split'; separate columns by commas$"),
    "an empty path": ("path,split\n,train", "line 2: column path: each clip needs one"),
    "an empty split": ("path,split\na.wav,train\nb.wav,", "line 3: column split: each clip needs one"),
    "a misspelt split": (
        "path,split\na.wav,tset",
        "line 2: column split: split is one of train, test, supplemental, but got 'tset'; did you mean test?",
    ),
    "a misspelt label": ("path,split,label\na.wav,test,Normal", "column label: .*got 'Normal'; did you mean normal?"),
    "a label of no kind": (
        "path,split,label\na.wav,test,7",
        "column label: label is one of normal, anomaly, unknown, 0, 1, but got '7'$",
    ),
    "a misspelt source": ("path,split,source\na.wav,train,dev", "column source: source is one of development, additio"),
    "a misspelt domain": ("path,split,domain\na.wav,train,taget", "column domain: .*; did you mean target?"),
    "an anomaly to train on": (
        "path,split,label\na.wav,train,anomaly",
        "line 2: column label: a training clip is normal, but got 'anomaly'; correct the label or",
    ),
    "a slash in an ID": ("path,split,machine_id\na.wav,train,1/2", "column machine_id: a name has no slash in it"),
    "too many cells": ("path,split\na, b.wav,train", "line 2: a line has a cell for each of 2 columns, but got 3"),
    "a file twice": (
        "path,split\na.wav,train\nb.wav,train\n./a.wav,test",
        "line 4: column path: a.wav is the same file as in line 2",
    ),
    "not UTF-8": (b"path,split\nL\xfcfter.wav,train", "not a table of comma-separated values in UTF-8"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_said_with_file_line_and_column(table: Path, text: str | bytes, message: str) -> None:
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CorpusError, match=f"{re.escape(str(table))}.*{message}"):
        read_manifest(table)


def test_a_file_listed_once_by_its_name_and_once_by_a_link_is_refused(table: Path) -> None:
    (table.parent / "link.wav").symlink_to("a.wav")
    table.write_text("path,split\na.wav,train\nlink.wav,test\n")
    with pytest.raises(CorpusError, match="line 3: column path: link.wav is the same file as in line 2"):
        read_manifest(table)


def test_a_folder_of_that_name_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").mkdir()
    assert not is_manifest(tmp_path / "clips.csv")
    assert not is_manifest(tmp_path / "nowhere.csv")


def test_a_corpus_is_read_by_a_manifest_and_what_is_missing_is_listed(table: Path) -> None:
    table.write_text("path,split,machine\na.wav,train,fan\ngone.wav,test,pump\n")
    corpus = read_corpus(table)
    assert [(clip.name, clip.machine, clip.samples) for clip in corpus.clips] == [("a.wav", "fan", 100)]
    assert corpus.unreadable == (Unreadable("gone.wav", "cannot be opened (No such file or directory)"),)
    assert (corpus.root, corpus.folder) == (table, table.parent)
    assert corpus.of_machines(["fan"]).unreadable == ()


def test_a_changed_label_is_another_corpus_and_a_moved_one_the_same(table: Path, tmp_path: Path) -> None:
    def fingerprint(label: str) -> str:
        table.write_text(f"path,split,label\na.wav,test,{label}\n")
        return read_corpus(table).fingerprint

    normal, anomaly = fingerprint("normal"), fingerprint("anomaly")
    assert normal != anomaly
    table.parent.rename(tmp_path / "moved")
    assert read_corpus(tmp_path / "moved" / "press.csv").fingerprint == anomaly
