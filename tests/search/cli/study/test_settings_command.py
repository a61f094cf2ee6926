"""`offkey settings` says what a study file may hold, without a look at the code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from models.families import FAMILIES, settings_of
from search.study.schema.settings_in_words import described

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]


@pytest.mark.parametrize("family", [name for name, module in FAMILIES.items() if module.startswith("models.")])
def test_every_setting_of_a_family_is_described_in_words(family: str) -> None:
    settings = described(family)

    assert {setting.name for setting in settings} == set(settings_of(family).model_fields) - {"family"}
    assert [setting.name for setting in settings if not setting.about or not setting.values] == []


@pytest.mark.parametrize(
    ("block", "name", "values", "default"),
    [
        ("vae", "context", "whole number ≥ 1, ≤ 512", "5"),
        ("vae", "per_id", "true | false", "false"),
        ("cae", "frames", "whole number ≥ 1 | square", "square"),
        ("classifier", "margin", "number ≥ 0, ≤ 1.5", "0.5"),
        ("fusion", "members", "blocks by name", ""),
        ("scoring", "calibration", "none | z | empirical", "none"),
        ("features", "channel", "whole number | mean", ""),
        ("branch", "features", "block", ""),
        ("corpus", "machines", "list", ""),
    ],
)
def test_what_a_setting_may_be_is_said_as_a_study_file_has_it(block: str, name: str, values: str, default: str) -> None:
    (setting,) = [setting for setting in described(block) if setting.name == name]

    assert (setting.values.removesuffix(" "), setting.default) == (values, default)


def test_all_blocks_are_listed_or_one(offkey: Offkey) -> None:
    whole, one = (json.loads(offkey("settings", *block, "--json").stdout) for block in ((), ("stat",)))

    assert {"corpus", "features", "training", "scoring", *FAMILIES} - {"quick"} <= set(whole["blocks"])
    assert one["blocks"] == {"stat": whole["blocks"]["stat"]}
    assert "weight of each window" in offkey("settings", "stat").stdout


def test_an_unknown_name_is_misuse_with_the_nearest_one(offkey: Offkey) -> None:
    ran = offkey("settings", "clasifier")

    assert (ran.code, ran.stdout) == (2, "")
    assert "clasifier is no block and no family; did you mean classifier?" in ran.stderr
