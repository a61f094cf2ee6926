"""The rule of the official score that clips state themselves, by their names and folders.

    id_01_00000000.wav, normal_id_01_…                       2020
    section_03_source_test_0000.wav                          2021: an evaluation clip whose domain is known
    source_test/ or target_test/section_00_source_test_…     2021: no other year has these folders
    section_03_0000.wav                                      2022 and later: the domain is withheld
    test/section_00_source_test_normal_0000_….wav            2022 and later: both domains lie in one folder

`section_00_source_test_normal_0000_….wav` without a folder is a name of 2021 and of each later year: it states no
rule. Neither does any other name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from features.clips.clip import parse_stem
from search.evaluation.official import YEARS, Year, rule_in_words

_FOLDERS_OF_2021 = ("source_test", "target_test")
_FOLDERS_SINCE_2022 = ("test", "test_rename")

_REMEDY = f"Say the year of the challenge with --year ({YEARS[0]} to {YEARS[-1]})"


def rule_stated_by(clips: Iterable[Iterable[PurePath]]) -> tuple[Year | None, str]:
    """Return the rule that all clips state, each by any of its paths; or None, and why."""
    rules: dict[Year | None, PurePath] = {}  # each with an example
    for paths in clips:
        stated, last = None, PurePath()
        for last in paths:
            stated = stated or _stated_by(last)
        rules.setdefault(stated, last)
    if None in rules:
        return None, f"The name of {rules[None].name} does not say which year's rule is meant. {_REMEDY}"
    if len(rules) > 1:
        each = ", ".join(f"{path.name} of {rule_in_words(rule)}" for rule, path in rules.items() if rule is not None)
        return None, f"The clips are of several years by their names: {each}. {_REMEDY}"
    (rule,) = rules
    return rule, ""


def _stated_by(path: PurePath) -> Year | None:
    stem = path.name[:-4] if path.name.lower().endswith(".wav") else path.name
    parts = parse_stem(stem)
    if not parts.has_id:
        return None
    if not stem.startswith("section_"):
        return 2020
    if path.parent.name in _FOLDERS_OF_2021:
        return 2021
    if parts.domain is None and parts.label is None:
        return 2022
    if parts.label is None:
        return 2021
    return 2022 if path.parent.name in _FOLDERS_SINCE_2022 else None
