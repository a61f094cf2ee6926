"""What a worker does with one trial."""

from __future__ import annotations

from typing import Any

from search.evaluation.metrics import id_aucs
from search.evaluation.truth import Scores, Truth
from search.workers.placement import device_name, memory_used


def attributes_of(
    seconds: float, device: str, scores: Scores | None = None, truth: Truth | None = None
) -> dict[str, Any]:
    """What the dashboard lists of a trial that ends now; `seconds` are those of the worker that ends it."""
    own = {
        "seconds": round(seconds, 1),
        "memory, MB": round(memory_used(device) / 1e6),
        "device": device_name(device),
    }
    aucs = {} if scores is None or truth is None else id_aucs(scores, truth)
    return own | {f"AUC {name}": round(value, 4) for name, value in aucs.items()}
