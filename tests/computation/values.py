"""The values that belong to a version of the computation: `values.json`, one line for each case.

A value is a number, compared within a tolerance, or a text, which is to be the same. Measured on one AMD EPYC with its
vector units (AVX-512), held to AVX2, held to SSE4, and with `MKL_CBWR=COMPATIBLE`, the largest difference was 4·10⁻⁵ of
a case's mean size where a network is trained, and 6·10⁻⁷ elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.computation import choices, frames, judgement, trainings
from tests.computation.case import Case, Values

FILE = Path(__file__).with_name("values.json")

RULE = "raise COMPUTATION in search/study/computation.py and run `python -m tests.computation` to write the values anew"

#: Of each number, or of the mean size of its case's numbers if that is more.
TOLERANCE, TOLERANCE_OF_TRAININGS = 1e-5, 1e-3

#: Digits that are written.
_DIGITS = 9

CASES: dict[str, Case] = {
    **frames.CASES,
    **choices.CASES,
    **trainings.CASES,
    **judgement.CASES,
}


def written() -> tuple[int, dict[str, Values]]:
    """The version that the values belong to, and the values of each case."""
    document = json.loads(FILE.read_text())
    return document["computation"], document["values"]


def difference(name: str, expected: Values, actual: Values) -> str | None:
    """How the values of a case differ, in words; None if they are the same."""
    if list(map(type, expected)) != list(map(type, actual)):
        return f"{len(expected)} values became {len(actual)}, or other ones"
    texts = [pair for pair in zip(expected, actual, strict=True) if isinstance(pair[0], str) and pair[0] != pair[1]]
    if texts:
        return f"{texts[0][0]!r} became {texts[0][1]!r}"
    before, now = (np.array([value for value in values if not isinstance(value, str)]) for values in (expected, actual))
    if not len(before):
        return None
    sizes = np.maximum(np.abs(before), np.abs(before).mean())
    apart = np.divide(np.abs(now - before), sizes, out=np.abs(now - before), where=sizes > 0)
    worst = int(np.nan_to_num(apart, nan=np.inf).argmax())
    tolerance = TOLERANCE_OF_TRAININGS if name in trainings.CASES else TOLERANCE
    if apart[worst] <= tolerance:
        return None
    return f"{before[worst]:.9g} became {now[worst]:.9g}, {apart[worst]:.1e} apart where {tolerance:.0e} is allowed"


def document_of(
    computed: Mapping[str, Values], before: Mapping[str, Values], *, computation: int, computation_before: int
) -> dict[str, Any]:
    """What is to be written. Values of the same version stay as they are: only cases are added and removed.

    Raises ValueError if a value of the same version changed.
    """
    if computation == computation_before:
        changed = [name for name in computed if name in before and difference(name, before[name], computed[name])]
        if changed:
            raise ValueError(f"{len(changed)} of {len(computed)} cases changed, {changed[0]!r} first: {RULE}")
        computed = {name: before.get(name, values) for name, values in computed.items()}
    rounded = {name: [_rounded(value) for value in values] for name, values in computed.items()}
    return {"computation": computation, "values": rounded}


def write(document: Mapping[str, Any]) -> None:
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in document["values"].items())
    FILE.write_text(f'{{\n "computation": {document["computation"]},\n "values": {{\n{lines}\n }}\n}}\n')


def _rounded(value: float | str) -> float | str:
    return value if isinstance(value, str) else float(f"{value:.{_DIGITS}g}")
