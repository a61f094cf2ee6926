"""The rows of an analysis's tables: for the page, for separability.csv, and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from features.clips.machine_id import MachineId
from search.analysis.analysis import Analysis
from search.analysis.findings import feature_name
from search.analysis.inventory import Inventory
from search.analysis.separability import Scope, Separability, SeparationMethod

_COLUMNS = (
    "machine", "machine_id", "feature", "detector", "auc", "low", "high", "ties_with_best", "normal", "anomaly",
    "remark",
)  # fmt: skip

#: In the columns `machine` and `machine_id`: all machines, and the mean over IDs.
ALL, MEAN = "(all)", "(mean)"


def separability_rows(separability: Separability) -> Iterator[dict[str, Any]]:
    """A row for each method of each scope (all machines, a machine, an ID); then a row for each ID without an AUC."""
    scopes = [] if separability.overall is None else [(ALL, MEAN, separability.overall)]
    scopes += [(machine, MEAN, scope) for machine, scope in separability.machines.items()]
    scopes += [(*MachineId.parse(name), scope) for name, scope in separability.ids.items()]
    for machine, machine_id, scope in scopes:
        for measured in scope.methods:
            low, high = measured.interval or (None, None)
            yield {
                "machine": machine,
                "machine_id": machine_id,
                "feature": measured.method.feature,
                "detector": measured.method.detector,
                "auc": measured.auc,
                "low": low,
                "high": high,
                "ties_with_best": measured.ties,
                "normal": scope.normal,
                "anomaly": scope.anomaly,
                "remark": "" if low is not None else "too few clips for an interval",
            }
    for name, why in separability.undefined.items():
        machine, machine_id = MachineId.parse(name)
        yield dict.fromkeys(_COLUMNS) | {"machine": machine, "machine_id": machine_id, "remark": f"n/a: {why}"}


def separability_csv(separability: Separability) -> str:
    """The whole table as CSV; unknown values are empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in separability_rows(separability):
        rounded = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}
        tie = row["ties_with_best"]
        writer.writerow(rounded | {"ties_with_best": "" if tie is None else str(tie).lower()})
    return file.getvalue()


def inventory_rows(inventory: Inventory, *, most: int) -> list[dict[str, str]]:
    """A row for each of the first `most` machine IDs."""
    rows = []
    for row in inventory.rows[:most]:
        shortest, longest = row.seconds
        level = "—"
        if row.training_level is not None:
            lowest, median, highest = row.training_level
            level = f"{median:.1f} ({lowest:.1f} to {highest:.1f})"
        rows.append(
            {
                "name": str(row.id),
                "sets": ", ".join(row.sets),
                "training": str(row.training),
                "normal": str(row.normal),
                "anomaly": str(row.anomaly),
                "unlabelled": str(row.unlabelled),
                "held_out": str(row.held_out),
                "seconds": f"{shortest:.1f}" if longest - shortest < 0.05 else f"{shortest:.1f}–{longest:.1f}",
                "rates": ", ".join(f"{rate / 1000:g}" for rate in row.rates),
                "level": level,
                "test_level": "—" if row.normal_level is None else f"{row.normal_level:.1f}",
            }
        )
    return rows


def method_rows(scope: Scope, parts: dict[str, Scope]) -> list[dict[str, Any]]:
    """A row for each method, the best first: its AUC over the whole scope, and in each of its parts."""
    return [
        {
            "feature": feature_name(measured.method.feature),
            "detector": measured.method.detector,
            "whole": _cell(scope, measured.method),
            "remark": "best" if measured is scope.best else "tie" if measured.ties else "",
            "parts": [_cell(of, measured.method) for of in parts.values()],
        }
        for measured in scope.methods
    ]


def as_json(analysis: Analysis) -> dict[str, Any]:
    """The document that `offkey analyze --json` prints, except for the paths of the written files."""
    separability, view = analysis.separability, analysis.view
    best = None
    if separability.overall is not None:
        measured = separability.overall.best
        best = {
            "feature": measured.method.feature,
            "detector": measured.method.detector,
            "auc": measured.auc,
            "interval": None if measured.interval is None else list(measured.interval),
            "ties": [
                {"feature": tie.method.feature, "detector": tie.method.detector} for tie in separability.overall.ties
            ],
        }
    return {
        "clips": len(view.corpus.clips),
        "labels": "all" if view.all_labels else "validation",
        "judged": len(separability.clips),
        "suspicious": [{"path": s.name, "kind": s.kind, "reason": s.reason} for s in analysis.inventory.suspicions],
        "best": best,
        "separability": list(separability_rows(separability)),
        "features": analysis.settings.features.model_dump(mode="json"),
        "validation": analysis.settings.validation.model_dump(mode="json"),
    }


def _cell(scope: Scope, method: SeparationMethod) -> dict[str, Any]:
    measured = scope.of(method)
    return {
        "auc": f"{measured.auc:.2f}",
        "interval": "" if measured.interval is None else "{:.2f}–{:.2f}".format(*measured.interval),
        "best": measured is scope.best and not scope.few,
        # How dark a cell is: from guessing to perfect.
        "shade": f"{min(max(measured.auc - 0.5, 0), 0.5) * 0.9:.2f}",
    }
