"""The worst misses of the best trial, to listen to: validation clips alone, never a held-out test clip.

The storage has the scores of the validation clips, but neither their names nor their sounds: the recordings are read
again. Where that cannot be done, a sentence says why, and the rest of the page is as ever.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.corpus import read_corpus
from features.clips.verified_reading import read_clip
from features.errors import CorpusError
from features.progress import Progress
from models.scoring.scores import Scores
from search.evaluation.misses import RankedClip, worst_ranked
from search.evaluation.truth import Truth
from search.pages.media import Sound, flac
from search.storage.stored_study import StoredStudy
from search.study.identity import surroundings
from search.study.recipe import Recipe
from search.validation.split import labelled_test_clips

#: How many clips of each label are shown.
_MOST = 3
#: A sound larger than this (bytes) is cut: the sounds of a page take 1.2 MB at most.
_MOST_BYTES = 150_000

_SYNTHETIC = (
    "None is played: the faults among the validation clips are synthetic, and a miss of one says nothing about "
    "recorded faults."
)
_NONE = "None: each faulty validation clip scores higher than every normal one of its machine ID."
_OTHER_CLIPS = (
    "Not shown: the recordings in {root} are not those that the study searched on. The sounds are shown where its own "
    "recordings are."
)


@dataclass(frozen=True)
class Miss:
    """A validation clip that is ranked wrong, and its sound."""

    name: str
    machine_id: str
    label: str
    score: str
    rank: str
    wrong: str  # how many clips of the other label it is ranked wrong against
    sound: Sound

    @classmethod
    def of(cls, clip: Clip, ranked: RankedClip, score: float, recipe: Recipe) -> Miss:
        """Read the sound as the detector hears it, or an ensemble's first member.

        Raises CorpusError if the clip can no longer be read.
        """
        heard = recipe.members[0].features
        waveform = read_clip(clip, heard.waveform)
        other, side = ("normal", "high or higher") if clip.label == ANOMALY else ("faulty", "low or lower")
        return cls(
            name=_printable(clip.name),
            machine_id=_printable(clip.id_name),
            label="faulty" if clip.label == ANOMALY else "normal",
            score=f"{score:.4g}",
            rank=f"{ranked.rank} of {ranked.clips}",
            wrong=f"{ranked.wrong} of {ranked.others} {other} ones score as {side}",
            sound=flac(waveform, heard.sample_rate, most_bytes=_MOST_BYTES),
        )


@dataclass(frozen=True)
class Misses:
    """What the page shows: two lists, or a sentence in their place."""

    missed: Sequence[Miss] = ()  # faulty clips, the worst first
    alarms: Sequence[Miss] = ()  # normal clips
    of: tuple[int, int] = (0, 0)  # how many clips of either list are ranked wrong in all
    instead: str = ""
    of_last_fold: bool = False


def worst_misses(stored: StoredStudy, recipe: Recipe, scores: Scores, *, progress: Progress | None = None) -> Misses:
    """Return the validation clips that a trial with this recipe and these scores ranks worst.

    `progress` counts the recordings of the study, all of which are read to make sure that they are its own. With folds,
    clips and scores are those of the last fold's model, as in the page's charts.
    """
    if stored.validation.uses_proxies:
        return Misses(instead=_SYNTHETIC)
    try:
        clips = _validation_clips(stored, progress)
        if clips is None:
            return Misses(instead=_printable(_OTHER_CLIPS.format(root=stored.root)))
        scores, truth = scores[stored.truth.last_fold], stored.truth.in_last_fold
        missed, alarms = (_ranked_wrong(scores, truth, label) for label in (ANOMALY, NORMAL))

        def shown(ranked: Sequence[RankedClip]) -> list[Miss]:
            return [Miss.of(clips[one.position], one, float(scores[one.position]), recipe) for one in ranked[:_MOST]]

        return Misses(
            missed=shown(missed),
            alarms=shown(alarms),
            of=(len(missed), len(alarms)),
            instead="" if missed else _NONE,
            of_last_fold=bool(stored.truth.folds),
        )
    except CorpusError as error:
        reason = _printable(str(error).splitlines()[0].rstrip(".:"))
        return Misses(instead=f"Not shown: the recordings cannot be read here. {reason}.")


def _ranked_wrong(scores: Scores, truth: Truth, label: int) -> list[RankedClip]:
    return [clip for clip in worst_ranked(scores, truth, label=label) if clip.wrong]


def _validation_clips(stored: StoredStudy, progress: Progress | None) -> tuple[Clip, ...] | None:
    """Return the clips of the last view, in the truth's order; None if these are not the study's recordings.

    Raises CorpusError if a recording cannot be used.
    """
    corpus = read_corpus(Path(stored.root), progress=progress).for_study(stored.machines)
    if surroundings(corpus)["data"] != stored.identity["data"]:
        return None
    data = stored.validation_data(corpus)
    if (data.truth.ids, data.truth.labels) != (stored.truth.ids, stored.truth.labels):
        return None  # a version of Offkey that divided clips in another way created the study
    return labelled_test_clips(data.views[-1])


def _printable(text: str) -> str:
    """Return a text with � for the bytes of names that are not UTF-8."""
    return os.fsencode(text).decode(errors="replace")
