"""Each DCASE year's official score, as published with the challenge's Task 2.

A score is a mean of parts. A part is an AUC or a pAUC (0 to 1, p = 0.1) of some test clips of one machine ID, which
the challenge calls a section since 2021. The rules say which clips, and which mean:

2020   AUC and pAUC of each machine ID, over all of its clips; the arithmetic mean over machine IDs, then over machine
       types, then of the two (Koizumi et al., arXiv 2006.05822; y-kawagu/dcase2020_task2_evaluator). The challenge
       published the two side by side, and ranked systems for each machine type.
2021   AUC and pAUC of each machine ID and domain, over that domain's clips; the harmonic mean of all
       (Kawaguchi et al., arXiv 2106.04492; y-kawagu/dcase2021_task2_evaluator).
2022   to 2026: for each machine ID and domain the AUC of that domain's normal clips against the anomalies of both
       domains, and for each machine ID the pAUC over all of its clips; the harmonic mean of all
       (Dohi et al., arXiv 2206.05876; Nishida et al., arXiv 2606.01578, for 2026; Kota-Dohi/dcase2022_evaluator,
       nttcslab/dcase2023_task2_evaluator, nttcslab/dcase2024_task2_evaluator).

A `Year` is the first year of a rule. The evaluators replace a part of 0 by 2e-16 before the harmonic mean; here the
mean is then 0, which is the same to 13 digits.

Values are arrays (parts, …): (parts,) for one set of scores, (parts, resamples) for resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from features.clips.clip import DOMAINS, Domain
from features.clips.machine_id import MachineId
from search.errors import MisuseError

PartValues = npt.NDArray[np.float64]
Year = Literal[2020, 2021, 2022]

#: The years whose rule is known.
YEARS = range(2020, 2027)


@dataclass(frozen=True, kw_only=True)
class Part:
    """An AUC or pAUC of one machine ID: of the clips of one domain, or of all clips where the domain is None."""

    id_name: str  # machine/ID
    kind: Literal["auc", "pauc"]
    normals: Domain | None = None
    anomalies: Domain | None = None


def rule_of(year: int) -> Year:
    """Return the first year of the rule by which a year is scored. Raises MisuseError if no rule of it is known."""
    if year not in YEARS:
        raise MisuseError(f"The year of an official score must be one of {YEARS[0]} to {YEARS[-1]}, but got {year!r}")
    return 2020 if year == 2020 else 2021 if year == 2021 else 2022


def rule_in_words(rule: Year) -> str:
    """Return the years that a rule is for, as text."""
    return "2022 and later" if rule == 2022 else str(rule)


def year_for(domains: Iterable[Domain | None]) -> Year:
    """Return the rule by which a study validates clips of these domains: 2022 if any domain is known, else 2020."""
    return 2022 if any(domains) else 2020


def parts_of(year: Year, id_names: Iterable[str]) -> list[Part]:
    """Return the parts that the score of a year is the mean of, for these machine IDs."""
    parts = []
    for name in id_names:
        if year == 2020:
            parts += [Part(id_name=name, kind="auc"), Part(id_name=name, kind="pauc")]
        elif year == 2021:
            for domain in DOMAINS:
                parts.append(Part(id_name=name, kind="auc", normals=domain, anomalies=domain))
                parts.append(Part(id_name=name, kind="pauc", normals=domain, anomalies=domain))
        else:
            parts += [Part(id_name=name, kind="auc", normals=domain) for domain in DOMAINS]
            parts.append(Part(id_name=name, kind="pauc"))
    return parts


def official_score(year: Year, parts: Sequence[Part], values: PartValues) -> PartValues:
    """Compute the score of a year from the values (parts, …) of its parts; (…)."""
    return harmonic_mean(values) if year != 2020 else _mean_over_machines(parts, values)


def harmonic_mean(values: PartValues) -> PartValues:
    """Return the harmonic mean of values (n, …) from 0 to 1, as (…); 0 if one of them is 0."""
    from scipy.stats import hmean  # here, so that a worker that waits for a trial stays small

    return np.asarray(hmean(values, axis=0))


def _mean_over_machines(parts: Sequence[Part], values: PartValues) -> PartValues:
    groups: dict[tuple[str, str], list[int]] = {}  # positions of the parts of one machine type and kind
    for place, part in enumerate(parts):
        groups.setdefault((MachineId.parse(part.id_name).machine, part.kind), []).append(place)
    return np.asarray(np.mean([values[places].mean(axis=0) for places in groups.values()], axis=0))
