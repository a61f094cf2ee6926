"""The study's note in the dashboard, in Markdown: its result so far, its data, its objective, its open settings.

Text that people write below the line is never changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna

from search.results.comparison import Comparison, compare
from search.results.families import columns
from search.results.status import Status, read_status, worth
from search.results.wording import interval_or_why
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.objectives import IN_WORDS, LOWEST_CAUTION, PROXY_CAUTION
from search.study.recipe import Objective
from search.study.taken_variant import taken_variant
from search.validation.views import clips_in_words

# optuna-dashboard keeps a study's note in these attributes, in parts of this many characters. They are repeated here
# since its import takes a worker a second and much memory.
_NOTE, _VERSION, _PART, _PART_LENGTH = "dashboard:note_", "dashboard:note_ver", "dashboard:note_str:{}", 2045

_LINE = "*Offkey writes what is above this line; below it is yours.*"

#: Characters that are markup inside a line of Markdown, or that end a table's cell.
_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&]")


def write_note(storage: StudyStorage, stored: StoredStudy, study: optuna.Study) -> None:
    """Updates the note if it is out of date. Raises StudyError if the study no longer exists."""
    status = read_status(storage, stored, study)
    comparison = compare(storage, stored, status)
    ours = "\n\n".join([*_paragraphs(stored, status, comparison), f"---\n{_LINE}"])
    best = None if status.best is None else worth(status.best)
    # If another trial is the best by now, that trial's worker writes the note.
    StudyLedger(storage, stored).edit_attributes(_NOTE, lambda before: _with_ours(before, ours), while_best=best)


def _with_ours(before: Mapping[str, Any], ours: str) -> dict[str, Any]:
    """The attributes to write so that the note has our text above the line; none if it has it already."""
    body = "".join(str(before.get(_PART.format(number), "")) for number in range(len(before)))
    _, line, own = body.partition(_LINE)
    if not line:
        own = f"\n\n{body}" if body else "\n"
    written = f"{ours}{own}"
    if written == body:
        return {}
    parts = [written[start : start + _PART_LENGTH] for start in range(0, len(written), _PART_LENGTH)]
    parts += [""] * (len(before) - 1 - len(parts))  # empties the parts of a longer note before
    entries = {_PART.format(number): part for number, part in enumerate(parts)}
    return {**entries, _VERSION: int(before.get(_VERSION, 0)) + 1}


def _paragraphs(stored: StoredStudy, status: Status, comparison: Comparison | None) -> Iterator[str]:
    study = stored.study()
    by_machine = stored.truth.machines
    ids = sum(map(len, by_machine.values()))
    yield f"# {_escaped(stored.name)}"
    yield (
        f"A search for the model ({study.space.families_in_words}) that best tells a faulty machine's sound from a "
        f"healthy one's: {stored.budget} trials, sampler {study.search.sampler}, pruner {study.search.pruner}."
    )
    yield _result(status, comparison)
    if status.why_ended is not None:
        yield _escaped(status.why_ended)
    if status.portfolio is not None:
        yield status.portfolio.in_words(status.metric_name)
    if any(family.trials for family in status.families):
        titles = columns(status.metric_name)
        yield _table(titles, ["---", *["--:"] * (len(titles) - 1)], (family.row for family in status.families))
    machines, clips = ", ".join(map(_escaped, by_machine)), stored.identity["data"]["clips"]
    yield f"**Data**: {machines}, {ids} machine IDs, {clips} clips."
    yield (
        f"**Validation clips**: {_escaped(clips_in_words(stored.validation, stored.truth))}. The other labelled clips "
        "are test clips: no trial uses them, only the final detector is measured on them."
    )
    yield f"**Objective**: {', '.join(map(_objective, stored.objectives))}."
    if study.space.settings:
        settings = ([f"`{setting.name}`", setting.in_words] for setting in study.space.settings)
        yield _table(["open setting", "range"], ["---", "---"], settings)


def _table(titles: Sequence[str], alignment: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, alignment, *([row[0], *map(_escaped, row[1:])] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _objective(objective: Objective) -> str:
    caution = {"proxy": PROXY_CAUTION, "worst_id": LOWEST_CAUTION}.get(objective)
    return IN_WORDS[objective] + (f" ({caution})" if caution else "")


def _result(status: Status, comparison: Comparison | None) -> str:
    if status.best is None or comparison is None:
        within = " within the study's limits" if status.beyond_limits else ""
        return f"**Result**: no trial{within} is complete yet."
    text = (
        f"**Result**: trial {status.best.number} leads with a validation {status.metric_name} of "
        f"{worth(status.best):.3f} ({interval_or_why(comparison.interval, comparison.why_no_interval)})."
    )
    text += " These clips do not show that it is any better than guessing." if comparison.may_guess else ""
    if len(status.objectives) > 1:
        text += f" {len(status.front)} trials are trade-offs, which no other trial beats in every objective."
    if comparison.gain is not None and status.best.number == 0:
        text += " It is the baseline: no gain over it."
    elif comparison.gain is not None:
        gain = comparison.gain
        text += f" Over the baseline ({status.baseline:.3f}): {gain.measured_in_words}, {gain.in_words}."
        text += f" {gain.power_in_words}"
    variant = taken_variant(status.best)
    text += "" if variant is None else f" Its variant: {_escaped(variant.in_words)}."
    if comparison.ensemble is not None and (promise := comparison.ensemble.in_words(status.study, worth(status.best))):
        text += f"\n\n{_escaped(promise)}"
    return text


def _escaped(text: str) -> str:
    """The text in one line, escaped so that Markdown shows it as it is."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
