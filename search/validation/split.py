"""Which clips train, which withhold, which steer the search, and which are kept for the final figure.

    training clips (normal)  ──►  train      │ withheld: calibration_share of each ID, for its threshold
    labelled test clips      ──►  validation │ test: stratified by machine, machine ID and label
    with `validation.clips: development`: the challenge's development set steers, its evaluation set is the test
    with `validation.folds`: the training clips are dealt out to that many folds, and each steers once
    with `validation.metric: proxy`: no labelled clip steers, all are for the test (search.validation.proxy_clips)

Clips are ordered by a digest of the seed and their name: the parts depend on no random number generator, are
the same on every host, and do not change when other strata do.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.corpus import Corpus
from search.errors import StudyError
from search.study.recipe import Recipe, TrainOn, ValidationSettings

_SOURCES = {
    "development": ("development",),
    "additional": ("additional",),
    "development+additional": ("development", "additional"),
}


@dataclass(frozen=True)
class TrainingClips:
    """One recipe's training clips, all of them normal."""

    train: tuple[Clip, ...]
    withheld: tuple[Clip, ...]


def training_clips(corpus: Corpus, recipe: Recipe) -> TrainingClips:
    """The recipe's training clips. Raises StudyError if the corpus has none of the kind."""
    chosen = [
        clip for clip in corpus.clips if clip.split == "train" and clip.source in _SOURCES[recipe.corpus.train_on]
    ]
    if not serves(corpus, recipe.corpus.train_on):
        raise StudyError(
            f"corpus.train_on is {recipe.corpus.train_on}, but {corpus.root} does not have them all: "
            "development clips lie in [dev_data/]<machine>/train, additional ones in eval_data/<machine>/train"
        )
    share = recipe.training.calibration_share
    withheld, train = _divide(
        chosen,
        stratum=lambda clip: (clip.id, clip.source),
        share=share,
        seed=recipe.validation.seed,
        single_goes_first=False,
    )
    return TrainingClips(train=train, withheld=withheld)


def serves(corpus: Corpus, train_on: str) -> bool:
    """Whether the corpus has training clips of every source that is asked for."""
    sources = {clip.source for clip in corpus.clips if clip.split == "train"}
    return set(_SOURCES[train_on]) <= sources


def blind(corpus: Corpus, validation: ValidationSettings) -> Corpus:
    """The corpus as a search may see it: the labels of the test part are gone."""
    hidden = {clip.name for clip in held_out_clips(corpus, validation)}
    clips = tuple(replace(clip, label=None) if clip.name in hidden else clip for clip in corpus.clips)
    return replace(corpus, clips=clips)


def folds_of(corpus: Corpus, validation: ValidationSettings, train_on: TrainOn) -> tuple[Corpus, ...]:
    """The corpus as each model of a cross-validation sees it: its fold of the training clips are normal test clips.

    Each machine ID's clips of each source are dealt out evenly; an ID that has a single one keeps it.
    """
    assert validation.folds is not None
    strata: dict[object, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if clip.split == "train" and clip.source in _SOURCES[train_on]:
            strata[clip.id, clip.source].append(clip)
    fold_of: dict[str, int] = {}
    for members in strata.values():
        if len(members) > 1:
            members.sort(key=lambda clip: rank(clip, f"fold {validation.seed}"))
            fold_of |= {clip.name: place % validation.folds for place, clip in enumerate(members)}
    return tuple(
        replace(
            corpus,
            clips=tuple(
                replace(clip, split="test", label=NORMAL) if fold_of.get(clip.name) == fold else clip
                for clip in corpus.clips
            ),
        )
        for fold in range(validation.folds)
    )


def labelled_test_clips(corpus: Corpus) -> tuple[Clip, ...]:
    """Test clips with a label: in a blinded corpus, those that steer the search."""
    return tuple(clip for clip in corpus.clips if clip.split == "test" and clip.label is not None)


def held_out_clips(corpus: Corpus, validation: ValidationSettings) -> tuple[Clip, ...]:
    """The labelled clips that no search sees, for the final figure."""
    return _divide_labelled(corpus, validation)[1]


def undefined_ids(clips: Iterable[Clip]) -> list[str]:
    """Machine IDs, as machine/ID, for which the clips hold one label only: no AUC is defined for them."""
    labels: dict[str, set[int | None]] = defaultdict(set)
    for clip in clips:
        labels[clip.id_name].add(clip.label)
    return sorted(name for name, found in labels.items() if not {NORMAL, ANOMALY} <= found)


def _divide_labelled(corpus: Corpus, validation: ValidationSettings) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    if validation.uses_proxies:
        return (), labelled_test_clips(corpus)
    if validation.clips is not None:
        chosen = labelled_test_clips(corpus)
        return (
            tuple(clip for clip in chosen if clip.source == validation.clips),
            tuple(clip for clip in chosen if clip.source != validation.clips),
        )
    return _divide(
        labelled_test_clips(corpus),
        stratum=lambda clip: (clip.id, clip.label),
        share=validation.share,
        seed=validation.seed,
        single_goes_first=True,
    )


def _divide(
    clips: Sequence[Clip], *, stratum: Callable[[Clip], object], share: float, seed: int, single_goes_first: bool
) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Two parts, the first with `share` of each stratum: at least one clip and not all, where it has two or more."""
    strata: dict[object, list[Clip]] = defaultdict(list)
    for clip in clips:
        strata[stratum(clip)].append(clip)
    first: set[str] = set()
    for members in strata.values():
        members.sort(key=lambda clip: rank(clip, str(seed)))
        if len(members) == 1:
            count = int(single_goes_first)
        else:
            count = min(max(round(share * len(members)), 1), len(members) - 1) if share > 0 else 0
        first.update(clip.name for clip in members[:count])
    return (
        tuple(clip for clip in clips if clip.name in first),
        tuple(clip for clip in clips if clip.name not in first),
    )


def rank(clip: Clip, draw: str) -> tuple[bytes, str]:
    """Where a clip comes among its like: another place in each draw."""
    text = f"{draw}/{clip.machine}/{clip.path.name}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest(), clip.name
