"""The numbers of every family, kind of feature, split and metric are those of the version of the computation."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from features.clips.corpus import Corpus
from features.frames.feature_settings import KINDS
from models.families import FAMILIES
from models.settings import ScoringSettings
from search.study.computation import COMPUTATION
from tests.computation import frames, trainings, values
from tests.computation.case import Values
from tests.computation.sounds import written_corpus


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("computation")


@pytest.fixture(scope="module")
def sounds(shared: Path) -> Corpus:
    return written_corpus(shared / "sounds")


@pytest.fixture
def corpus(shared: Path, sounds: Corpus, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """With one cache for all cases: most have the same frames."""
    monkeypatch.setenv("OFFKEY_CACHE", str(shared / "cache"))
    return sounds


@pytest.mark.parametrize("name", values.CASES)
def test_the_numbers_are_those_of_this_version_of_the_computation(name: str, corpus: Corpus) -> None:
    computation, expected = values.written()
    assert computation == COMPUTATION, f"the values belong to computation {computation}: {values.RULE}"
    assert name in expected, f"{name} has no values yet: run `python -m tests.computation`"

    difference = values.difference(name, expected[name], values.CASES[name](corpus))

    assert difference is None, f"the computation changed: {values.RULE}\n{name}: {difference}"


def test_no_value_is_left_of_a_case_that_is_gone() -> None:
    assert values.written()[1].keys() == values.CASES.keys()


def test_every_family_has_values_also_with_a_model_for_each_id() -> None:
    models = list(trainings.MODELS.values())

    assert {model["family"] for model in models} == {
        family
        for family, module in FAMILIES.items()
        if module.startswith("models.")  # others are the tests' own
    }
    assert any(model.get("per_id") for model in models)


def test_every_kind_of_feature_has_values() -> None:
    kinds = {kind for changes in frames.FEATURES.values() for kind in changes.get("kind", "logmel").split("+")}

    assert kinds == KINDS.keys()


@pytest.mark.parametrize("setting", ["pooling", "calibration", "threshold"])
def test_every_way_to_score_has_values(setting: str) -> None:
    ways = get_args(ScoringSettings.model_fields[setting].annotation)

    assert {f"{setting}: {way}" for way in ways if way != "none"} <= values.CASES.keys()


BEFORE: dict[str, Values] = {"metric: a": [1.0, 2.0, "fan"], "gone": [0.0]}


@pytest.mark.parametrize(
    ("computed", "difference"),
    [
        ([1.0, 2.0, "fan"], None),
        ([1.0 + 1e-6, 2.0, "fan"], None),
        ([1.0 + 1e-4, 2.0, "fan"], "1 became 1.0001, 6.7e-05 apart where 1e-05 is allowed"),
        ([float("nan"), 2.0, "fan"], "1 became nan, nan apart where 1e-05 is allowed"),
        ([1.0, 2.0, "pump"], "'fan' became 'pump'"),
        ([1.0, 2.0], "3 values became 2, or other ones"),
    ],
)
def test_what_changed_is_said(computed: list[float | str], difference: str | None) -> None:
    assert values.difference("metric: a", BEFORE["metric: a"], computed) == difference


def test_cases_of_the_same_version_come_and_go_and_keep_their_values() -> None:
    computed: dict[str, Values] = {"metric: a": [1.0 + 1e-6, 2.0, "fan"], "new": [1 / 3]}

    document = values.document_of(computed, BEFORE, computation=1, computation_before=1)

    assert document == {"computation": 1, "values": {"metric: a": [1.0, 2.0, "fan"], "new": [0.333333333]}}


def test_values_change_with_the_version_alone() -> None:
    computed: dict[str, Values] = {"metric: a": [3.0, 2.0, "fan"]}

    with pytest.raises(ValueError, match="1 of 1 cases changed, 'metric: a' first: raise COMPUTATION"):
        values.document_of(computed, BEFORE, computation=1, computation_before=1)
    document = values.document_of(computed, BEFORE, computation=2, computation_before=1)

    assert document == {"computation": 2, "values": computed}
