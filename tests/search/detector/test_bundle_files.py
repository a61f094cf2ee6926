"""The JSON files of a bundle: their keys, which older ones are read, and the errors about damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.labels import Labels
from search.detector.bundle_files import DetectorFile, PartMetrics
from search.detector.digests import document_digest
from search.errors import BundleError
from search.evaluation.evaluate import IdMetrics, Metrics
from search.evaluation.interval import Interval

_WRITTEN: dict[str, Any] = {
    "format": 3,
    "labels": {"ids": ["fan/00", "fan/02"], "attributes": [["fan/00", "speed_1"], ["fan/02", ""]]},
    "thresholds": {"fan/00": 0.1, "fan/02": 1e-7},
    "threshold_clips": {"fan/00": 3, "fan/02": 4},
    "false_alarm_rate": 0.1,
    "looks": [
        {
            "false_alarm_rate": 0.25,
            "decisions": {
                "normal": 60,
                "false_alarms": 3,
                "false_alarm_interval": [0.01, 0.14],
                "anomaly": 0,
                "found": 0,
                "found_interval": None,
            },
        },
        {"false_alarm_rate": 0.1, "decisions": None},
    ],
    "corpus_fingerprint": "0123",
    "versions": {"torch": "2.0.0"},
    "digests": dict.fromkeys(("metrics.json", "recipe.yaml", "scores.json", "weights.safetensors"), "4567"),
}
WHOLE = _WRITTEN | {"digest": document_digest(_WRITTEN)}
#: As an earlier version wrote it.
OLDER = {key: value for key, value in _WRITTEN.items() if key not in ("looks", "digests")}


def read(tmp_path: Path, content: str) -> DetectorFile:
    (tmp_path / "detector.json").write_text(content)
    return DetectorFile.read(tmp_path / "detector.json", "bundle")


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in OLDER.items() if key not in keys}


def signed(document: dict[str, Any]) -> dict[str, Any]:
    """A document with the digest that fits it."""
    return document | {"digest": document_digest(document)}


def test_a_detector_file_is_written_as_it_was_read(tmp_path: Path) -> None:
    written = json.dumps(WHOLE, indent=1)

    file = read(tmp_path, written)

    assert file.labels == Labels(("fan/00", "fan/02"), (("fan/00", "speed_1"), ("fan/02", "")))
    assert file.text() == written


def test_metrics_are_written_with_their_keys_in_order() -> None:
    metrics = Metrics(0.9, None, Interval(0.8, 0.95), 0.85, {"fan/00": IdMetrics(0.9, None, 3, 4)})

    assert PartMetrics.of(metrics).text() == json.dumps(
        {
            "auc": 0.9,
            "interval": [0.8, 0.95],
            "pauc": None,
            "pooled_auc": 0.85,
            "per_id": {"fan/00": {"auc": 0.9, "pauc": None, "normal": 3, "anomaly": 4}},
        },
        indent=1,
    )


@pytest.mark.parametrize(
    "content",
    [
        OLDER,
        without("false_alarm_rate"),
        without("false_alarm_rate", "versions"),
        OLDER | {"added_later": 1},
        signed(_WRITTEN | {"added_later": 1}),
    ],
    ids=["no digests", "no false-alarm rate", "no versions", "a key that was added later", "one beside digests"],
)
def test_files_of_earlier_and_later_versions_of_the_format_are_read(tmp_path: Path, content: dict[str, Any]) -> None:
    assert read(tmp_path, json.dumps(content)).thresholds == WHOLE["thresholds"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("thresholds"), "thresholds is missing"),
        (WHOLE | {"thresholds": {"fan/00": "0.1"}}, "thresholds.fan/00 should be a valid number"),
        (WHOLE | {"thresholds": {"fan/00": float("nan")}}, "thresholds.fan/00 should be a finite number"),
        (OLDER | {"false_alarm_rate": float("inf")}, "false_alarm_rate should be a finite number"),
        (signed(_WRITTEN | {"digests": {"metrics.json": "4567"}}), "digests.recipe.yaml is missing"),
        (signed(without()), "digests.metrics.json is missing"),
        (WHOLE | {"labels": {"ids": ["fan/00"]}}, "labels.attributes is missing"),
        (WHOLE | {"versions": []}, "versions should be an object"),
        ({"machine": "fan"}, "format is missing"),
        ([], "should be an object"),
    ],
)
def test_the_error_names_the_file_and_the_key(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(BundleError) as error:
        read(tmp_path, json.dumps(content))

    assert str(error.value) == f"bundle is not a bundle, or not a whole one: detector.json: {message}"


@pytest.mark.parametrize(
    "change",
    [{"thresholds": {"fan/00": 0.2, "fan/02": 1e-7}}, {"digest": "0"}, {"digests": WHOLE["digests"] | {"a": ""}}],
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"detector\.json is not as it was written: its SHA-256 digest is another"):
        read(tmp_path, json.dumps(WHOLE | change))


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a whole one: detector\.json: Invalid JSON: .* at line 1"):
        read(tmp_path, '{"format": 3')


def test_another_format_is_refused_whatever_else_the_file_holds(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="^bundle: a bundle of format 4; this Offkey reads 3$"):
        read(tmp_path, '{"format": 4}')
