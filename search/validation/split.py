"""Which clips are for training, which are withheld, which validate trials, and which are held out for the test.

    training clips (normal)  ──►  train      │ withheld: calibration_share of each machine ID, for its threshold
    labelled test clips      ──►  validation │ test: stratified by machine type, machine ID and label
    with `validation.clips: development`: validation is the challenge's development set, test its evaluation set
    with `validation.folds`: the training clips are divided into folds, and each also validates in one fold
    with `validation.metric: proxy`: all labelled clips are for the test, none for validation
                                     (search.validation.proxy_clips)

Clips are ordered by a digest of the seed and their name. The parts therefore depend on no random number generator, are
the same on every host, and do not change when other strata do.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.corpus import Corpus
from models.labels import Labels
from search.errors import StudyError
from search.study.recipe import Recipe, TrainOn, ValidationSettings

_SOURCES = {
    "development": ("development",),
    "additional": ("additional",),
    "development+additional": ("development", "additional"),
}


@dataclass(frozen=True)
class TrainingClips:
    """The training clips of a recipe, all of them normal."""

    train: tuple[Clip, ...]
    withheld: tuple[Clip, ...]

    @property
    def labels(self) -> Labels:
        """The machine IDs and attributes of the clips in `train`, as models use them."""
        return Labels.of((clip.id_name, clip.attributes) for clip in self.train)


def training_clips(corpus: Corpus, recipe: Recipe) -> TrainingClips:
    """Return the recipe's training clips. Raises StudyError if the corpus lacks one of the sources in `train_on`."""
    chosen = clips_to_train_on(corpus, recipe.corpus.train_on)
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


def clips_to_train_on(corpus: Corpus, train_on: TrainOn) -> list[Clip]:
    """Return the training clips of the sources in `train_on`."""
    return [clip for clip in corpus.clips if clip.split == "train" and clip.source in _SOURCES[train_on]]


def serves(corpus: Corpus, train_on: str) -> bool:
    """Whether the corpus has training clips of every source in `train_on`."""
    sources = {clip.source for clip in corpus.clips if clip.split == "train"}
    return set(_SOURCES[train_on]) <= sources


def blind(corpus: Corpus, validation: ValidationSettings) -> Corpus:
    """Return the corpus as a search may see it: without the labels of the held-out test clips."""
    hidden = {clip.name for clip in held_out_clips(corpus, validation)}
    clips = tuple(replace(clip, label=None) if clip.name in hidden else clip for clip in corpus.clips)
    return replace(corpus, clips=clips)


def folds_of(corpus: Corpus, validation: ValidationSettings, train_on: TrainOn) -> tuple[Corpus, ...]:
    """Return the corpus as each model of a cross-validation sees it.

    For a model, the training clips of its own fold are normal test clips. The clips of each machine ID and source are
    divided evenly among the folds; a single clip stays a training clip in all of them.
    """
    assert validation.folds is not None
    strata: dict[object, list[Clip]] = defaultdict(list)
    for clip in clips_to_train_on(corpus, train_on):
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
    """Return the test clips that have a label: in a blinded corpus these are the validation clips."""
    return tuple(clip for clip in corpus.clips if clip.split == "test" and clip.label is not None)


def validation_clips(corpus: Corpus, validation: ValidationSettings) -> tuple[Clip, ...]:
    """Return the labelled test clips that validate trials; with proxies, there are none."""
    return _divide_labelled(corpus, validation)[0]


def held_out_clips(corpus: Corpus, validation: ValidationSettings) -> tuple[Clip, ...]:
    """Return the labelled clips that no search sees: those for the test evaluation."""
    return _divide_labelled(corpus, validation)[1]


def undefined_ids(clips: Iterable[Clip]) -> list[str]:
    """Return the machine IDs (machine/ID) whose clips have one label only: they have no AUC."""
    labels: dict[str, set[int | None]] = defaultdict(set)
    for clip in clips:
        labels[clip.id_name].add(clip.label)
    return sorted(name for name, known in labels.items() if not {NORMAL, ANOMALY} <= known)


def has_defined_id(clips: Collection[Clip]) -> bool:
    """Whether the clips of at least one machine ID have both labels: then the mean AUC is defined."""
    return len(undefined_ids(clips)) < len({clip.id_name for clip in clips})


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
    """Divide clips into two parts; the first has `share` of each stratum.

    In a stratum of two or more clips, the first part has at least one clip (unless the share is 0) and not all.
    """
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
    """Return the sort key of a clip in its stratum; each `draw` gives another order."""
    text = f"{draw}/{clip.machine}/{clip.path.name}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest(), clip.name
