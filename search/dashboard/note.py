"""The study's note in the dashboard, in Markdown: what is searched on which data, and what came of it so far.

Whatever people write below the line is theirs and stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import optuna

from search.results.comparison import Comparison, compare
from search.results.status import Status, machines, read_status, worth
from search.results.wording import interval
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.objectives import IN_WORDS, LOWEST_CAUTION, PROXY_CAUTION
from search.study.recipe import Objective
from search.validation.views import clips_in_words

# Where optuna-dashboard keeps a study's note: in parts of so many characters. Its import takes a worker a second and
# much memory.
_NOTE, _VERSION, _PART, _PART_LENGTH = "dashboard:note_", "dashboard:note_ver", "dashboard:note_str:{}", 2045

_LINE = "*Offkey writes what is above this line; below it is yours.*"

#: What would be markup inside a line of Markdown, or end a table's cell.
_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&]")


def write_note(storage: StudyStorage, stored: StoredStudy, study: optuna.Study) -> None:
    """Brings the note up to date, if it is not. Raises StudyError if the study is there no more."""
    status = read_status(storage, stored, study)
    comparison = compare(storage, stored, status, with_ties=False)
    ours = f"{_about(stored)}{_result(status, comparison)}\n\n---\n{_LINE}"
    best = None if status.best is None else worth(status.best)
    # Where another trial is the best by now, its worker writes the note.
    StudyLedger(storage, stored).edit_attributes(_NOTE, lambda before: _with_ours(before, ours), while_best=best)


def _with_ours(before: Mapping[str, Any], ours: str) -> dict[str, Any]:
    """The attributes that make the note say what is ours; none where it does."""
    body = "".join(str(before.get(_PART.format(number), "")) for number in range(len(before)))
    _, line, own = body.partition(_LINE)
    if not line:
        own = f"\n\n{body}" if body else "\n"
    written = f"{ours}{own}"
    if written == body:
        return {}
    parts = [written[start : start + _PART_LENGTH] for start in range(0, len(written), _PART_LENGTH)]
    parts += [""] * (len(before) - 1 - len(parts))  # of a longer one before
    entries = {_PART.format(number): part for number, part in enumerate(parts)}
    return {**entries, _VERSION: int(before.get(_VERSION, 0)) + 1}


def _about(stored: StoredStudy) -> str:
    study = stored.study()
    by_machine = machines(stored.truth)
    ids = sum(map(len, by_machine.values()))
    families = ", ".join(study.space.families)
    settings = "\n".join(f"| `{setting.name}` | {_escaped(setting.in_words)} |" for setting in study.space.settings)
    return (
        f"# {_escaped(stored.name)}\n\n"
        f"A search for the model ({families}) that best tells a faulty machine's sound from a healthy one's: "
        f"{stored.budget} trials, sampler {study.search.sampler}, pruner {study.search.pruner}.\n\n"
        f"**Data**: {', '.join(map(_escaped, by_machine))}, {ids} machine IDs, "
        f"{stored.identity['data']['clips']} clips.\n\n"
        f"**Steered by** {_escaped(clips_in_words(stored.validation, stored.truth))}. No trial sees the other labelled "
        "clips: they are for the final detector alone.\n\n"
        f"**Searched for**: {', '.join(map(_searched_for, stored.objectives))}.\n\n"
        + (f"| open setting | range |\n|---|---|\n{settings}\n\n" if settings else "")
    )


def _searched_for(objective: Objective) -> str:
    caution = {"proxy": PROXY_CAUTION, "worst_id": LOWEST_CAUTION}.get(objective)
    return IN_WORDS[objective] + (f" ({caution})" if caution else "")


def _result(status: Status, comparison: Comparison | None) -> str:
    if status.best is None or comparison is None:
        within = " within the study's limits" if status.beyond_limits else ""
        return f"**Result**: no trial{within} is complete yet."
    text = (
        f"**Result**: trial {status.best.number} leads with a validation {status.metric_name} of "
        f"{worth(status.best):.3f} (95 % interval {interval(comparison.interval)})."
    )
    if len(status.objectives) > 1:
        text += f" {len(status.front)} trials are trade-offs that no other is better than in everything."
    if comparison.gain is None:
        return text
    if status.best.number == 0:
        return f"{text} It is the baseline: no gain over it."
    gain = comparison.gain
    told = f"{gain.difference:+.3f} (95 % interval {interval(gain.interval)}), {gain.in_words}."
    return f"{text} Over the baseline ({status.baseline:.3f}): {told}"


def _escaped(text: str) -> str:
    """Text that stands in Markdown as it is, in one line."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
