"""The rule of the official score that clips state by their names and folders, and what states none."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from search.evaluation.official import rule_of
from search.evaluation.official_year import rule_stated_by


def stated(*paths: str) -> tuple[int | None, str]:
    return rule_stated_by([PurePath(path)] for path in paths)


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("normal_id_00_00000000.wav", 2020),
        ("fan/test/id_01_00000000.wav", 2020),
        ("section_03_source_test_0000.wav", 2021),
        ("fan/source_test/section_00_source_test_normal_0000_strength_1_ambient.wav", 2021),
        ("fan/target_test/section_00_target_test_anomaly_0000.wav", 2021),
        ("section_03_0000.wav", 2022),
        ("dev_data/raw/fan/test/section_00_source_test_normal_0000_m-n_W.wav", 2022),
        ("fan/test_rename/section_00_target_test_anomaly_0012_car_C1.wav", 2022),
        ("section_00_0000", 2022),
    ],
)
def test_a_name_or_folder_of_the_challenge_states_its_rule(path: str, rule: int) -> None:
    assert stated(path, path) == (rule, "")


@pytest.mark.parametrize(
    "path", ["0000.wav", "press/test/anomaly_0001.wav", "section_00_source_test_normal_0000_m-n_W.wav"]
)
def test_what_states_no_rule_is_asked_for(path: str) -> None:
    rule, why = stated("section_00_0000.wav", path)

    assert rule is None
    assert why.startswith(f"The name of {PurePath(path).name} does not say which year's rule is meant")
    assert "--year (2020 to 2026)" in why


def test_clips_of_several_rules_are_asked_for() -> None:
    rule, why = stated("id_01_00000000.wav", "section_00_0000.wav")

    assert rule is None
    assert "id_01_00000000.wav of 2020, section_00_0000.wav of 2022 and later" in why


def test_any_path_of_a_clip_may_state_it() -> None:
    """The truth may be a list of names, and the scores have the folders."""
    name = "section_00_source_test_normal_0000_m-n_W.wav"

    assert rule_stated_by([(PurePath(name), PurePath("fan/source_test", name))]) == (2021, "")


@pytest.mark.parametrize(("year", "rule"), [(2020, 2020), (2021, 2021), *((year, 2022) for year in range(2022, 2027))])
def test_each_year_has_a_rule(year: int, rule: int) -> None:
    assert rule_of(year) == rule
