"""What steers a search where no fault has ever been recorded: normal clips, altered, or passed off as another ID's.

    training clips (normal)  ──►  train, withheld: as ever (search.split)
                             └─►  held out: `share` of each machine ID's, at most `MOST_NORMALS`
                                    ├─► as they are                                                  label 0
                                    ├─► each with a fault of each kind and grade (features.faults)   label 1
                                    └─► as many of the machine's other IDs, as if of this one        label 1

proxy : what a clip of label 1 stands for: one kind of fault in one grade, or clips of other IDs.
value : the mean AUC of these clips (search.evaluation), as of any labelled ones. An ID's is the mean of its proxies'
        AUCs, in which each fault of a grade counts alike, and other IDs' clips by how many there are.

A proxy that cheap detectors tell every time, and one that none of them tells at all, say nothing of which model is the
better one. They are found and left out before a search, once for all of its trials.

Nobody knows of a machine that was never faulty whether a model that is good at these is good at its real faults;
docs/results.md says where it was measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

import joblib

from features.cleaning import features_of
from features.clip import ANOMALY, NORMAL, Clip
from features.corpus import Corpus, Progress
from features.faults import GRADES, KINDS, Kind, faulty_clip
from features.feature_settings import FeatureSettings
from search.errors import StudyError
from search.evaluation import Scores, Truth, mean_auc
from search.recipe import Recipe, TrainOn
from search.split import rank

#: Of each machine ID, no more normal clips are held out: each is scored once for every proxy, in every epoch.
MOST_NORMALS = 20

#: AUC from which on a detector tells a proxy every time, and up to which it does not tell it at all.
TOLD_ALWAYS, NOT_TOLD = 0.98, 0.55

#: The cheap detectors: by each band's mean level, and by its highest (models.stat).
_REFERENCE_DECAYS = (1.0, 0.0)


@dataclass(frozen=True)
class Proxy:
    """What stands for the faults that nobody has recorded."""

    kind: Kind | Literal["other IDs"]
    grade: float | None = None  # of a fault

    @property
    def name(self) -> str:
        return self.kind if self.grade is None else f"{self.kind} {self.grade:g}"


OTHER_IDS = Proxy("other IDs")
PROXIES = (OTHER_IDS, *(Proxy(kind, grade) for kind in KINDS for grade in GRADES))


@dataclass(frozen=True, kw_only=True)
class ProxyClip(Clip):
    """A clip that steers a search without labelled ones."""

    proxy: Proxy | None  # None for one that is normal, as it was recorded


@dataclass(frozen=True)
class Proxied:
    """A corpus as a search without labels sees it."""

    corpus: Corpus  # the training clips that are left, and behind them `clips` as labelled test clips; no other ones
    clips: tuple[ProxyClip, ...]

    def of_proxies(self, proxies: Collection[Proxy]) -> Proxied:
        """With clips of these proxies alone, beside the normal ones."""
        clips = tuple(clip for clip in self.clips if clip.proxy is None or clip.proxy in proxies)
        training = self.corpus.clips[: len(self.corpus.clips) - len(self.clips)]
        return Proxied(replace(self.corpus, clips=(*training, *clips)), clips)


@dataclass(frozen=True)
class Judged:
    """What cheap detectors make of a proxy."""

    proxy: Proxy
    aucs: tuple[float, ...]  # of each detector, means over machine IDs

    @property
    def fault(self) -> str:
        """Why it is left out of a search; empty if it is not."""
        if min(self.aucs) >= TOLD_ALWAYS:
            return "told every time"
        return "told by none" if max(self.aucs) <= NOT_TOLD else ""


def proxy_clips(
    corpus: Corpus,
    *,
    share: float,
    seed: int,
    train_on: TrainOn = "development",
    proxies: Collection[Proxy] = PROXIES,
    progress: Progress | None = None,
) -> Proxied:
    """Holds out normal training clips of the sources that a study trains on, and makes the clips of some proxies.

    Which clips are held out depends on the seed and their names alone, as in search.split. A machine ID with one
    clip keeps it. The real test clips, whatever their labels, are not there any more.

    Raises StudyError if no machine ID has two clips, CorpusError or StoreError if a clip with a fault cannot be made.
    """
    held_out = _held_out(corpus, share=share, seed=seed, sources=train_on.split("+"))
    if not held_out:
        raise StudyError(
            "validation.metric is proxy, which holds out normal training clips, but no machine ID in "
            f"{corpus.root} has two of them ({train_on}): add training clips"
        )
    normals = [clip for members in held_out.values() for clip in members]
    faults = [(clip, proxy) for clip in normals for proxy in proxies if proxy != OTHER_IDS]
    made = [ProxyClip(**vars(clip), proxy=None) for clip in map(_as_test_clip, normals)]
    if OTHER_IDS in proxies:
        made += _of_other_ids(held_out)
    for done, clip in enumerate(_with_faults(faults), start=1):
        made.append(clip)
        if progress is not None:
            progress(done, len(faults))
    names = {clip.name for clip in normals}
    training = tuple(clip for clip in corpus.clips if clip.split == "train" and clip.name not in names)
    return Proxied(replace(corpus, clips=(*training, *made)), tuple(made))


def judged(proxied: Proxied, features: FeatureSettings, *, train_on: TrainOn = "development") -> list[Judged]:
    """What cheap detectors make of each proxy: densities of log-mel levels, framed as `features`, nothing trained."""
    import torch  # here: it takes seconds to load

    from search.training import Training

    of_detectors = []
    for decay in _REFERENCE_DECAYS:
        recipe = Recipe.model_validate(
            {
                "study": "reference",
                "corpus": {"train_on": train_on},
                "features": features_of("logmel", features).model_dump(),
                "model": {"family": "stat", "decay": decay},
                "training": {"seed": 0, "threads": 1},
            }
        )
        scores = Training(recipe, proxied.corpus, torch.device("cpu")).validation_scores()
        of_detectors.append(aucs_of(scores, proxied.clips))
    return [Judged(proxy, tuple(aucs[proxy] for aucs in of_detectors)) for proxy in of_detectors[0]]


def used(judgements: Sequence[Judged]) -> tuple[Proxy, ...]:
    """The proxies that steer a search. Raises StudyError if none can."""
    kept = tuple(judgement.proxy for judgement in judgements if not judgement.fault)
    if not kept:
        found = "; ".join(f"{judgement.proxy.name}: {judgement.fault}" for judgement in judgements)
        raise StudyError(
            "validation.metric is proxy, but no altered clip would tell a better model from a worse one here "
            f"({found}). Search on labelled test clips (validation.metric: auc), or add training clips"
        )
    return kept


def proxies_named(names: Sequence[str]) -> tuple[Proxy, ...]:
    """The proxies of these names. Raises StudyError for a name that none has."""
    known = {proxy.name: proxy for proxy in PROXIES}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise StudyError(f"no proxy is called {name!r}; {hint}")
    return tuple(known[name] for name in names)


def aucs_of(scores: Scores, clips: Sequence[ProxyClip]) -> dict[Proxy, float]:
    """AUC of each proxy that the clips are of, the mean over machine IDs; `scores` (clips,) in their order."""
    found = {}
    for proxy in dict.fromkeys(clip.proxy for clip in clips if clip.proxy is not None):
        members = [index for index, clip in enumerate(clips) if clip.proxy in (None, proxy)]
        found[proxy] = mean_auc(scores[members], Truth.of([clips[index] for index in members]))
    return found


def _held_out(corpus: Corpus, *, share: float, seed: int, sources: Collection[str]) -> dict[str, list[Clip]]:
    """The clips that are held out, by machine/ID: of each with two or more at least one, and not all."""
    by_id: dict[str, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if clip.split == "train" and clip.source in sources:
            by_id[clip.id_name].append(clip)
    held_out = {}
    for name, members in sorted(by_id.items()):
        count = min(max(round(share * len(members)), 1), len(members) - 1, MOST_NORMALS)
        if count:
            members.sort(key=lambda clip: rank(clip, f"proxy {seed}"))
            held_out[name] = members[:count]
    return held_out


def _as_test_clip(clip: Clip) -> Clip:
    return replace(clip, split="test", label=NORMAL)


def _of_other_ids(held_out: dict[str, list[Clip]]) -> Iterator[ProxyClip]:
    """For each machine ID as many clips as it has itself, or as its machine's other IDs have, evenly from these."""
    for name, own in held_out.items():
        machine, machine_id = own[0].machine, own[0].machine_id
        others = [
            (rank, clip)
            for other, members in held_out.items()
            if other != name and members[0].machine == machine
            for rank, clip in enumerate(members)
        ]
        others.sort(key=lambda ranked: ranked[0])
        for _, clip in others[: len(own)]:
            passed_off = replace(
                clip, machine_id=machine_id, name=f"{OTHER_IDS.name}/{name}/{clip.name}", split="test", label=ANOMALY
            )
            yield ProxyClip(**vars(passed_off), proxy=OTHER_IDS)


def _with_faults(faults: Sequence[tuple[Clip, Proxy]]) -> Iterator[ProxyClip]:
    def make(clip: Clip, proxy: Proxy) -> ProxyClip:
        assert proxy.kind != "other IDs" and proxy.grade is not None
        return ProxyClip(**vars(faulty_clip(clip, proxy.kind, proxy.grade)), proxy=proxy)

    found: Iterator[ProxyClip] = joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
        joblib.delayed(make)(clip, proxy) for clip, proxy in faults
    )
    return found
