"""Which clips and labels an analysis uses: those that a search may use, unless the user asks for all labels."""

from __future__ import annotations

from dataclasses import dataclass

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from search.study.recipe import ValidationSettings
from search.validation.split import blind, held_out_clips, labelled_test_clips


@dataclass(frozen=True)
class View:
    """A corpus without its held-out test clips: neither their labels nor their sound are used."""

    corpus: Corpus  # all clips, in their order; the labels of the held-out ones are gone
    training: tuple[Clip, ...]
    labelled: tuple[Clip, ...]  # test clips, normal and anomalous
    unlabelled: tuple[Clip, ...]  # test clips
    held_out: tuple[Clip, ...]  # without labels
    all_labels: bool  # whether the user asked for all labels, so that no clip is held out

    @property
    def seen(self) -> tuple[Clip, ...]:
        """All clips but those held out and the supplemental ones."""
        return (*self.training, *self.labelled, *self.unlabelled)


def view_of(corpus: Corpus, validation: ValidationSettings, *, all_labels: bool) -> View:
    """The view of a corpus that has all its labels."""
    visible = corpus if all_labels else blind(corpus, validation)
    hidden = set() if all_labels else {clip.name for clip in held_out_clips(corpus, validation)}
    tests = [clip for clip in visible.clips if clip.split == "test"]
    return View(
        corpus=visible,
        training=tuple(clip for clip in visible.clips if clip.split == "train"),
        labelled=labelled_test_clips(visible),
        unlabelled=tuple(clip for clip in tests if clip.label is None and clip.name not in hidden),
        held_out=tuple(clip for clip in tests if clip.name in hidden),
        all_labels=all_labels,
    )
