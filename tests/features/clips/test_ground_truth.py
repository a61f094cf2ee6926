"""Tables as the challenge's organisers gave them in each year: their forms, with a few lines of our own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from features.clips.corpus import Corpus, read_corpus
from features.errors import CorpusError

Facts = tuple[int | None, str | None, str]  # label, domain, attributes


def make(root: Path, files: dict[str, str]) -> Path:
    """Writes tables, and a clip wherever a name ends in .wav."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".wav"):
            soundfile.write(path, np.arange(20, dtype=np.int16), 16000)
        else:
            path.write_text(text, newline="")
    return root


def facts(corpus: Corpus) -> dict[str, Facts]:
    return {clip.name: (clip.label, clip.domain, clip.attributes) for clip in corpus.clips}


FAN, PUMP = "eval_data/fan/test/", "eval_data/pump/test/"
YEARS: dict[str, tuple[dict[str, str], dict[str, Facts]]] = {
    "2020, one list of all machines": (
        {
            "eval_data_list.csv": (
                "fan\nid_01_00000000.wav,normal_id_01_00000098.wav,0\nid_01_00000001.wav,anomaly_id_01_00000064.wav,1\n"
                "pump\nid_01_00000000.wav,anomaly_id_01_00000007.wav,1\n"
            )
        },
        {
            FAN + "id_01_00000000.wav": (0, None, ""),
            FAN + "id_01_00000001.wav": (1, None, ""),
            PUMP + "id_01_00000000.wav": (1, None, ""),
        },
    ),
    "2021, a table for each section and domain": (
        {
            "gt/ground_truth_data/ground_truth_fan_section_03_source_test.csv": "section_03_source_test_0000.wav,0\n",
            "gt/ground_truth_data/ground_truth_fan_section_03_target_test.csv": "section_03_target_test_0000.wav,1\n",
        },
        {
            "eval_data/fan/source_test/section_03_source_test_0000.wav": (0, "source", ""),
            "eval_data/fan/target_test/section_03_target_test_0000.wav": (1, "target", ""),
        },
    ),
    "2022, attributes in columns": (
        {
            "gt/ground_truth_data/ground_truth_fan_section_03_test.csv": (
                "section_03_0000.wav,1\nsection_03_0001.wav,0\n"
            ),
            "gt/ground_truth_domain/ground_truth_fan_section_03_test.csv": (
                "section_03_0000.wav,1\nsection_03_0001.wav,0\n"
            ),
            "gt/ground_truth_attributes/fan/attributes_03.csv": (
                "file_name,d1p,d1v,file_name_with_full_attributes\n"
                "fan/test/section_03_0000.wav,m-n,X,fan/test/section_03_target_test_anomaly_0000_m-n_X_f_1.wav\n"
                "fan/test/section_03_0001.wav,m-n,W,fan/test/section_03_source_test_normal_0001_m-n_W_f_0.wav\n"
            ),
        },
        {
            FAN + "section_03_0000.wav": (1, "target", "m-n_X_f_1"),
            FAN + "section_03_0001.wav": (0, "source", "m-n_W_f_0"),
        },
    ),
    "2023, attributes in full names": (
        {
            "ground_truth_data/ground_truth_fan_section_00_test.csv": "section_00_0000.wav,1\n",
            "ground_truth_domain/ground_truth_fan_section_00_test.csv": "section_00_0000.wav,0\n",
            "ground_truth_attributes/ground_truth_fan_section_00_test.csv": (
                "section_00_0000.wav,section_00_source_test_anomaly_0012_car_C1_spd_7.5V\n"
            ),
        },
        {"eval_data/raw/fan/test/section_00_0000.wav": (1, "source", "car_C1_spd_7.5V")},
    ),
    "2024, fuller names where attributes were withheld": (
        {
            "ground_truth_attributes/ground_truth_fan_section_00_test.csv": (
                "section_00_0001.wav,section_00_source_test_normal_0001_noAttribute,"
                "section_00_source_test_normal_0001_fl_2.wav\r\n"
            ),
            "all/dev_data/pump/attributes_00_train_correspondence.csv": (
                "source_file_name,target_file_name\r\n"
                "section_00_source_train_normal_0001_fl_0.wav,section_00_source_train_normal_0001_noAttribute.wav\r\n"
            ),
        },
        {
            FAN + "section_00_0001.wav": (None, None, "fl_2"),
            "dev_data/pump/train/section_00_source_train_normal_0001_noAttribute.wav": (0, "source", "fl_0"),
        },
    ),
    "2025, a list without labels but in full names": (
        {
            "eval_data_list_2025.csv": "fan\r\nsection_00_0000.wav,section_00_target_test_anomaly_0012_id_C1.wav\r\n",
            "dev_data/fan/attributes_00.csv": (
                "file_name,d1p,d1v,d2p,d2v\nfan/supplemental/section_00_machine_0000.wav,v,7,,\n"
            ),
        },
        {
            FAN + "section_00_0000.wav": (1, "target", "id_C1"),
            "dev_data/fan/supplemental/section_00_machine_0000.wav": (None, None, "v_7"),
        },
    ),
    "development attributes, without suffix and with a dot": (
        {
            "dev_data/fan/attributes_00.csv": "file_name,d1p,d1v,d2p,d2v\nsection_00_0007,car,A1,spd,2.8V\n",
            "dev_data/pump/attributes_00.csv": "file_name\npump/train/section_00_0007.wav\n",
        },
        {
            "dev_data/fan/train/section_00_0007.wav": (0, None, "car_A1_spd_2.8V"),
            "dev_data/pump/train/section_00_0007.wav": (0, None, ""),
        },
    ),
    "what a name says of attributes stays": (
        {"dev_data/fan/attributes_00.csv": "file_name,d1p,d1v\nsection_00_source_train_normal_0001_v_1.wav,v,2\n"},
        {"dev_data/fan/train/section_00_source_train_normal_0001_v_1.wav": (0, "source", "v_1")},
    ),
}


@pytest.mark.parametrize(("tables", "expected"), YEARS.values(), ids=YEARS)
def test_the_tables_of_each_year_are_read(tmp_path: Path, tables: dict[str, str], expected: dict[str, Facts]) -> None:
    corpus = read_corpus(make(tmp_path, tables | dict.fromkeys(expected, "")))
    assert facts(corpus) == expected
    assert (corpus.warnings, corpus.unreadable) == ((), ())


DATA = "ground_truth_data/ground_truth_fan_section_00_test.csv"
DOMAIN = "ground_truth_domain/ground_truth_fan_section_00_test.csv"
CLIP = "fan/test/section_00_0000.wav"
REFUSED = {
    "a label that is none": ({DATA: "section_00_0000.wav,2\n"}, f"{DATA}, line 1: a line is a clip and 0 (normal) or"),
    "a domain that is none": (
        {DOMAIN: "\nsection_00_0000.wav\n"},
        f"{DOMAIN}, line 2: a line is a clip and 0 (source)",
    ),
    "a list without a machine": (
        {"eval_data_list.csv": "section_00_0000.wav,section_00_source_test_normal_0001.wav\n"},
        "eval_data_list.csv, line 1: a line is a machine, or a clip of it",
    ),
    "a list whose full name and label disagree": (
        {"eval_data_list.csv": "fan\nid_00_00000000.wav,normal_id_00_00000001.wav,1\n"},
        "eval_data_list.csv, line 2: a line is a machine, or a clip of it",
    ),
    "a list without labels": (
        {"eval_data_list.csv": "fan\nsection_00_0000.wav,section_00_0001.wav\n"},
        "but got 'section_00_0000.wav,section_00_0001.wav'. Mend or remove it.",
    ),
    "a table that contradicts itself": (
        {DATA: "section_00_0000.wav,0\nsection_00_0000.wav,1\n"},
        f"{DATA}, line 2: section_00_0000.wav of fan is an anomaly, but normal by {DATA}, line 1.",
    ),
    "tables that contradict each other": (
        {
            DATA: "section_00_0000.wav,0\n",
            "eval_data_list.csv": "fan\nsection_00_0000.wav,section_00_source_test_anomaly_0000.wav\n",
        },
        f"{DATA}, line 1: section_00_0000.wav of fan is normal, but an anomaly by eval_data_list.csv, line 2.",
    ),
    "domains that contradict each other": (
        {
            DOMAIN: "section_00_0000.wav,1\n",
            "eval_data_list.csv": "fan\nsection_00_0000.wav,section_00_source_test_anomaly_0000.wav\n",
        },
        "is of the target domain, but of the source domain by eval_data_list.csv, line 2.",
    ),
    "a label that contradicts a name": (
        {DATA: "section_00_source_test_normal_0001.wav,1\n", "fan/test/section_00_source_test_normal_0001.wav": ""},
        "is an anomaly, but normal by the name of fan/test/section_00_source_test_normal_0001.wav. Mend or",
    ),
    "full names that are missing": (
        {"ground_truth_attributes/ground_truth_fan_section_00_test.csv": "section_00_0000.wav\n"},
        "line 1: a line is a clip and its full name, but got",
    ),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    make(tmp_path, files | {CLIP: ""})
    with pytest.raises(CorpusError, match=re.escape(message)):
        read_corpus(tmp_path)


def test_a_table_that_cannot_be_opened_is_refused(open_folder: Path, run_python: Callable[..., str]) -> None:
    make(open_folder, {DATA: "section_00_0000.wav,0\n", CLIP: ""})
    (open_folder / DATA).chmod(0)
    script = """
import sys
from pathlib import Path
from features.clips.corpus import CorpusError, read_corpus
become_nobody()
try:
    read_corpus(Path(sys.argv[1]))
except CorpusError as error:
    print(error)
"""
    assert run_python(script, open_folder) == (
        f"{DATA}: cannot be opened (Permission denied). Make it readable, or remove it."
    )


def test_labelled_clips_that_are_not_there_are_counted_for_machines_that_are(tmp_path: Path) -> None:
    rows = "".join(f"section_00_{number:04d}.wav,0\n" for number in range(5))
    make(tmp_path, {DATA: rows, DATA.replace("fan", "pump"): rows, CLIP: ""})
    assert read_corpus(tmp_path).warnings == (
        f"{DATA}: 4 of the 5 clips of fan that it labels are not there, for example section_00_0001.wav",
    )


def test_attributes_whose_full_names_contradict_the_labels_are_not_used(tmp_path: Path) -> None:
    table = "ground_truth_attributes/fan/attributes_00.csv"
    make(
        tmp_path,
        {
            DATA: "section_00_0000.wav,0\n",
            table: "file_name,d1p,d1v,file_name_with_attributes\n"
            "fan/test/section_00_0000.wav,v,1,fan/test/section_00_source_test_anomaly_0004_v_1.wav\n",
            CLIP: "",
        },
    )
    corpus = read_corpus(tmp_path)
    assert facts(corpus) == {CLIP: (0, None, "")}
    assert corpus.warnings == (
        f"{table}: its attributes are not used, since the full names of 1 of its 1 clips contradict the label or "
        "domain given elsewhere, as in line 2",
    )


def test_a_table_whose_folder_does_not_say_what_it_holds_is_not_used(tmp_path: Path) -> None:
    make(tmp_path, {"csv/ground_truth_fan_section_00_test.csv": "section_00_0000.wav,1\n", CLIP: ""})
    corpus = read_corpus(tmp_path)
    assert facts(corpus)[CLIP][0] is None
    assert re.match(
        "csv/ground_truth_fan_section_00_test.csv: not used, since its folder does not say", corpus.warnings[0]
    )


def test_other_tables_are_not_opened_and_training_clips_stay_normal(tmp_path: Path) -> None:
    make(tmp_path, {"scores.csv": "\0", DATA: "section_00_0009.wav,1\n", "fan/train/section_00_0009.wav": ""})
    corpus = read_corpus(tmp_path)
    assert [clip.label for clip in corpus.clips] == [0]


def test_a_host_without_the_labels_has_another_fingerprint(tmp_path: Path) -> None:
    make(tmp_path, {CLIP: ""})
    without = read_corpus(tmp_path).fingerprint
    make(tmp_path, {DATA: "section_00_0000.wav,0\n"})
    normal = read_corpus(tmp_path).fingerprint
    make(tmp_path, {DATA: "section_00_0000.wav,1\n"})
    anomaly = read_corpus(tmp_path).fingerprint
    make(tmp_path, {DOMAIN: "section_00_0000.wav,1\n"})
    with_domain = read_corpus(tmp_path).fingerprint
    assert len({without, normal, anomaly, with_domain}) == 4
