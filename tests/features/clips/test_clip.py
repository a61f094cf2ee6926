from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.clips.clip import ANOMALY, NORMAL, WITHOUT_ID, Clip, NameParts, parse_stem

CASES = {
    # DCASE 2020: development, additional training, evaluation
    "normal_id_00_00000000": ("00", NORMAL, None, ""),
    "anomaly_id_06_00000142": ("06", ANOMALY, None, ""),
    "id_05_00000007": ("05", None, None, ""),
    # 2021
    "section_00_source_train_normal_0000_strength_1_ambient": ("00", NORMAL, "source", "strength_1_ambient"),
    "section_02_target_test_anomaly_0093_pat_06": ("02", ANOMALY, "target", "pat_06"),
    "section_03_source_test_0012": ("03", None, "source", ""),
    # 2022 and 2023
    "section_01_target_train_normal_0009_vel_300_loc_B": ("01", NORMAL, "target", "vel_300_loc_B"),
    "section_00_source_test_normal_0044_car_A1_spd_28V_mic_1": ("00", NORMAL, "source", "car_A1_spd_28V_mic_1"),
    "section_05_0199": ("05", None, None, ""),
    # 2024
    "section_00_source_train_normal_0612_noAttribute": ("00", NORMAL, "source", "noAttribute"),
    "section_00_target_test_anomaly_0031_weight15_BckgF": ("00", ANOMALY, "target", "weight15_BckgF"),
    # 2025: the supplemental clips are of the machine alone or of its surroundings, not always of a domain
    "section_00_machine_0041_noAttribute": ("00", None, None, "noAttribute"),
    "section_00_machine_source_0000_noAttribute": ("00", None, "source", "noAttribute"),
    "section_00_noise_supplemental_normal_0000": ("00", NORMAL, None, ""),
    # plain names: a label at most
    "normal_0001": (WITHOUT_ID, NORMAL, None, ""),
    "anomaly": (WITHOUT_ID, ANOMALY, None, ""),
    "normality": (WITHOUT_ID, None, None, ""),
    "abnormal_1": (WITHOUT_ID, None, None, ""),
    "pump 3, Monday": (WITHOUT_ID, None, None, ""),
    "": (WITHOUT_ID, None, None, ""),
    # nearly a known name is none
    "normal_id_0_00000000": (WITHOUT_ID, NORMAL, None, ""),
    "normal_id_00_0000": (WITHOUT_ID, NORMAL, None, ""),
    "section_1_source_train_normal_0000": (WITHOUT_ID, None, None, ""),
}


@pytest.mark.parametrize(("stem", "expected"), CASES.items())
def test_a_name_tells_id_label_domain_and_attributes(
    stem: str, expected: tuple[str, int | None, str | None, str]
) -> None:
    parts = parse_stem(stem)
    assert (parts.machine_id, parts.label, parts.domain, parts.attributes) == expected


@settings(max_examples=100, deadline=None, database=None)
@given(st.text() | st.from_regex(r"\A((normal|anomaly|id|section|source|train|supplemental|noise)_|_|\d{1,8}|\n)+\Z"))
def test_any_text_is_a_name(stem: str) -> None:
    parts = parse_stem(stem)
    assert len(parts.machine_id) == 2
    assert parts.label in (NORMAL, ANOMALY, None)
    assert parts.domain in ("source", "target", None)
    assert stem.endswith(parts.attributes)


@pytest.mark.parametrize(
    ("domain", "split", "label", "tail"),
    list(product(["source", "target", None], ["train", "test", None], ["normal", "anomaly", None], ["f_n_A", None])),
)
def test_what_a_section_name_is_made_of_is_read_back_whichever_parts_are_missing(
    domain: str | None, split: str | None, label: str | None, tail: str | None
) -> None:
    stem = "_".join(part for part in ("section", "03", domain, split, label, "0815", tail) if part is not None)
    assert parse_stem(stem) == NameParts(
        machine_id="03",
        has_id=True,
        label={"normal": NORMAL, "anomaly": ANOMALY, None: None}[label],
        domain="source" if domain == "source" else "target" if domain == "target" else None,
        attributes=tail or "",
    )


def test_ids_of_different_machines_are_told_apart_by_their_full_name() -> None:
    fan, pump = (
        Clip(
            path=Path("clip.wav"),
            name=f"{machine}/train/normal_id_02_00000000.wav",
            machine=machine,
            machine_id="02",
            split="train",
            label=NORMAL,
            source="development",
            domain=None,
            attributes="",
            sample_rate=16000,
            samples=160000,
            digest="",
        )
        for machine in ("fan", "pump")
    )
    assert (fan.id_name, pump.id_name) == ("fan/02", "pump/02")
