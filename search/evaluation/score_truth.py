"""Joins the scores of a system with the labels and domains of their clips.

All labelled clips of a machine ID have a score, or the scores are refused: metrics of some of its clips would not be
those of the system. A machine ID without any score is left out, with a warning. Both hold for every form of the truth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.clip_matching import Matches, match
from search.evaluation.known_clips import KnownClip, KnownClips, known_clips
from search.evaluation.official import Year
from search.evaluation.official_year import rule_stated_by
from search.evaluation.score_files import ScoreRow, machine_of_folder
from search.evaluation.truth import Truth, judged_ids


@dataclass(frozen=True)
class LabelledScores:
    """Labelled clips with their scores, in the order of the truth, and warnings of what could not be used."""

    scores: Scores
    decisions: tuple[int | None, ...]
    truth: Truth
    without_scores: tuple[str, ...]  # machine IDs of the truth
    year: Year | None  # the rule of the official score
    why_no_year: str
    warnings: tuple[str, ...]
    of_corpus: bool  # whether the truth is a corpus: a search may have used some of these clips for validation


def labelled_systems(
    rows: Sequence[ScoreRow], others: Sequence[ScoreRow] | None, truth: Path, *, year: Year | None = None
) -> tuple[LabelledScores, LabelledScores | None]:
    """Return the scores of a system, and of another one if there is one, as `labelled` does; the truth is read once.

    Raises the errors of `labelled`, and StudyError or CorpusError if the truth is none.
    """
    named = {row.machine or machine_of_folder(row.path) for row in (*rows, *(others or ()))}
    known = known_clips(truth, named - {""})
    clips = labelled(rows, known, year=year)
    if others is None:
        return clips, None
    try:
        other = labelled(others, known, year=year)
    except StudyError as error:
        raise StudyError(f"The other system: {error}") from error
    again = set(clips.warnings)
    warnings = tuple(f"the other system: {warning}" for warning in other.warnings if warning not in again)
    return clips, replace(other, warnings=warnings)


def labelled(rows: Sequence[ScoreRow], known: KnownClips, *, year: Year | None = None) -> LabelledScores:
    """Return the scores whose clips have a label; `year` chooses the official score, None the one that clips state.

    Raises StudyError if a score may be of several clips, if a clip has two scores, if a labelled clip of a scored
    machine ID has none, or if some clips of a machine ID have a decision and others have none.
    """
    matches = match(rows, known)
    if not matches.labelled:
        raise _labels_none(rows, known, matches)
    chosen = list(matches.labelled.items())
    scored_ids = {known.clips[place].description.id_name for place in matches.labelled}
    missing = [
        clip
        for place, clip in enumerate(known.clips)
        if clip.is_labelled and place not in matches.labelled and clip.description.id_name in scored_ids
    ]
    if missing:
        raise StudyError(
            f"{len(missing)} labelled clips have no score ({_first(missing)}): metrics without them would "
            "not be those of this system"
        )
    unscored = sorted({clip.description.id_name for clip in known.clips if clip.is_labelled} - scored_ids)
    of_clips = [known.clips[place].description for place in matches.labelled]
    _require_all_decisions_or_none(
        [(description.id_name, row) for description, (_, row) in zip(of_clips, chosen, strict=True)]
    )
    truth = Truth.of(of_clips)
    _require_both_labels(truth, known)
    rule, why = (
        (year, "")
        if year is not None
        else rule_stated_by((known.clips[place].path, PurePath(row.path)) for place, row in chosen)
    )
    return LabelledScores(
        scores=np.array([row.score for _, row in chosen]),
        decisions=tuple(row.decision for _, row in chosen),
        truth=truth,
        without_scores=tuple(unscored),
        year=rule,
        why_no_year=why,
        warnings=(*known.warnings, *_left_out(matches, known), *_without_scores(unscored)),
        of_corpus=known.of_corpus,
    )


def _left_out(matches: Matches, known: KnownClips) -> Iterable[str]:
    """Yield a warning for each kind of scores that are not used."""
    if matches.training:
        first = matches.training[0]
        yield (
            f"{len(matches.training)} scored clips are training clips and are left out, for example {first.path} "
            f"({first.where})"
        )
    if matches.of_other_ids:
        count = sum(map(len, matches.of_other_ids.values()))
        yield (
            f"{known.truth} has no clip of {', '.join(sorted(matches.of_other_ids))}: {count} scored clips are left out"
        )
    if matches.by_name:
        row, clip = matches.by_name[0]
        yield (
            f"{len(matches.by_name)} scores were taken for clips in other folders, by the file name alone: {row.path} "
            f"({row.where}) for {clip.path}. If these are other recordings, the figures are wrong"
        )
    if matches.unlabelled:
        first = matches.unlabelled[0]
        yield (
            f"{len(matches.unlabelled)} scored clips have no label and are left out, for example {first.file} "
            f"({first.where})"
        )


def _without_scores(unscored: Sequence[str]) -> Iterable[str]:
    if unscored:
        yield f"no clip of {', '.join(unscored)} has a score: means and the official score are without them"


def _labels_none(rows: Sequence[ScoreRow], known: KnownClips, matches: Matches) -> StudyError:
    first = rows[0]
    message = f"{known.truth} has a label for none of the {len(rows)} scored clips, for example {first.where}"
    machines = {clip.machine for clip in known.clips if clip.is_labelled}
    scored = {row.machine or machine_of_folder(row.path) for row in rows} - {""}
    if scored and machines and scored.isdisjoint(machines):
        message += (
            f". They are of {', '.join(sorted(scored))} by their folder or column machine, and {known.truth} is of "
            f"{', '.join(sorted(machines))}"
        )
    return StudyError("\n".join([message, *known.warnings, *_left_out(matches, known)]))


def _require_both_labels(truth: Truth, known: KnownClips) -> None:
    try:
        judged_ids(truth)
    except StudyError as error:
        ids = ", ".join(sorted(set(truth.ids)))
        raise StudyError(
            f"{error}. The scored machine IDs are {ids}, by folders and names: if these are no machine types, add a "
            f"column machine to {known.truth}"
        ) from error


def _require_all_decisions_or_none(rows: Iterable[tuple[str, ScoreRow]]) -> None:
    by_id: dict[str, list[ScoreRow]] = defaultdict(list)
    for name, row in rows:
        by_id[name].append(row)
    for name, of_id in by_id.items():
        without = [row for row in of_id if row.decision is None]
        if 0 < len(without) < len(of_id):
            raise StudyError(
                f"{len(without)} of the {len(of_id)} scored clips of {name} have no decision, for example "
                f"{without[0].file} ({without[0].where}): give a decision to all of them, or to none"
            )


def _first(clips: Sequence[KnownClip]) -> str:
    """Return the first three clips, for a message."""
    return ", ".join(map(str, clips[:3])) + (", …" if len(clips) > 3 else "")
