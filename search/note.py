"""The study's note in the dashboard, in Markdown: what is searched on which data, and what came of it so far.

Whatever people write below the line is theirs and stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sqlalchemy import select

from features.clip import ANOMALY, NORMAL
from search.evaluation import Scores, resampled_aucs
from search.ledger import TrialRow
from search.storage import StudyStorage
from search.stored_study import StoredStudy

if TYPE_CHECKING:
    from search.space import OpenSetting

# Where optuna-dashboard keeps a study's note: in parts of so many characters.
_VERSION, _PART, _PART_LENGTH = "dashboard:note_ver", "dashboard:note_str:{}", 2045

_LINE = "*Offkey writes what is above this line; below it is yours.*"


def write_note(storage: StudyStorage, stored: StoredStudy, study: optuna.Study) -> None:
    """Brings the note up to date, if it is not."""
    attributes = storage.get_study_system_attrs(stored.study_id)
    body = "".join(str(attributes.get(_PART.format(n), "")) for n in range(len(attributes)))
    _, line, own = body.partition(_LINE)
    if not line:
        own = f"\n\n{body}" if body else "\n"
    written = f"{_about(stored)}{_results(storage, stored, study)}\n\n---\n{_LINE}{own}"
    if written != body:
        _save(storage, stored, written, attributes)


def _save(storage: StudyStorage, stored: StoredStudy, body: str, before: Mapping[str, Any]) -> None:
    """As optuna-dashboard does it, whose import takes a worker a second and much memory."""
    parts = [body[start : start + _PART_LENGTH] for start in range(0, len(body), _PART_LENGTH)]
    parts += [""] * (sum(key.startswith(_PART.format("")) for key in before) - len(parts))  # of a longer one before
    for number, part in enumerate(parts):
        storage.set_study_system_attr(stored.study_id, _PART.format(number), part)
    storage.set_study_system_attr(stored.study_id, _VERSION, int(before.get(_VERSION, 0)) + 1)


def _about(stored: StoredStudy) -> str:
    study = stored.study()
    recipe = study.first_recipe()
    labels = Counter(stored.truth.labels)
    ids = sorted(set(stored.truth.ids))
    machines = sorted({name.rpartition("/")[0] for name in ids})
    families = ", ".join(study.space.families)
    settings = "\n".join(f"| `{setting.name}` | {_range(setting)} |" for setting in study.space.settings)
    share = recipe.validation.share
    return (
        f"# {stored.name}\n\n"
        f"A search for the model ({families}) that best tells a faulty machine's sound from a healthy one's: "
        f"{stored.budget} trials, sampler {study.search.sampler}, pruner {study.search.pruner}.\n\n"
        f"**Data**: {', '.join(machines)}, {len(ids)} machine IDs, {stored.identity['data']['clips']} clips.\n\n"
        f"**Split**: {labels[NORMAL]} normal and {labels[ANOMALY]} anomalous clips, {100 * share:.0f} % of each ID's "
        "labelled ones, steer the search. No trial sees the rest: they are for the final detector alone.\n\n"
        + (f"| open setting | range |\n|---|---|\n{settings}\n\n" if settings else "")
    )


def _range(setting: OpenSetting) -> str:
    distribution = setting.distribution
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = (str(x) if isinstance(x, int) else f"{x:g}" for x in (distribution.low, distribution.high))
    return f"{low} to {high}" + (", logarithmic" if distribution.log else "")


def _results(storage: StudyStorage, stored: StoredStudy, study: optuna.Study) -> str:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return "**Result**: no trial is complete yet."
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    scores = _scores(storage, stored, (best.number, 0))
    text = f"**Result**: trial {best.number} leads with a validation AUC of {best.value:.3f}"
    if best.number not in scores:
        return f"{text}."  # a trial of an Offkey that kept none
    resampled = resampled_aucs(scores[best.number], stored.truth)
    text = f"{text} ({_interval(resampled)})."
    baseline = next((trial for trial in complete if trial.number == 0), None) if stored.tree.get("baseline") else None
    if baseline is None or 0 not in scores:
        return text
    if best.number == 0:
        return f"{text} It is the baseline: no gain over it."
    difference = resampled - resampled_aucs(scores[0], stored.truth)
    told = "no gain that these clips can tell" if np.quantile(difference, 0.025) <= 0 else "a gain"
    assert best.value is not None and baseline.value is not None
    gain = best.value - baseline.value
    return f"{text} Over the baseline ({baseline.value:.3f}): {gain:+.3f} ({_interval(difference)}), {told}."


def _interval(resampled: Scores) -> str:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"95 % interval {low:.3f} to {high:.3f}"


def _scores(storage: StudyStorage, stored: StoredStudy, numbers: tuple[int, ...]) -> dict[int, Scores]:
    """Validation scores of some trials."""
    scored = select(TrialRow.number, TrialRow.scores).where(
        TrialRow.study_id == stored.study_id, TrialRow.number.in_(numbers), TrialRow.scores.is_not(None)
    )
    rows = storage.transact(lambda session: session.execute(scored).all())
    return {number: np.frombuffer(blob) for number, blob in rows if blob is not None}
