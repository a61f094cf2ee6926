"""What steers a search where no fault has ever been recorded: normal clips, altered, or passed off as another ID's.

    training clips (normal)  ──►  train, withheld: as ever (search.validation.split)
                             └─►  held out: `share` of each machine ID's, at most `MOST_NORMALS`
                                    ├─► as they are                                                  label 0
                                    ├─► each with a fault of each kind and grade (features.clips.faults)   label 1
                                    └─► as many of the machine's other IDs, as if of this one        label 1

proxy : what a clip of label 1 stands for: one kind of fault in one grade, or clips of other IDs.
value : the mean AUC of these clips (search.evaluation.metrics), as of any labelled ones. An ID's is the mean of its
        proxies' AUCs, in which each fault of a grade counts alike, and other IDs' clips by how many there are.

A proxy that cheap detectors tell every time, and one that none of them tells at all, say nothing of which model is the
better one. They are found and left out before a search, once for all of its trials.

Nobody knows of a machine that was never faulty whether a model that is good at these is good at its real faults;
docs/results.md says where it was measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import joblib

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.corpus import Corpus
from features.clips.faults import faulty_clip
from features.progress import Progress
from search.errors import StudyError
from search.study.proxies import OTHER_IDS, Proxy
from search.study.recipe import TrainOn
from search.validation.split import rank

#: Of each machine ID, no more normal clips are held out: each is scored once for every proxy, in every epoch.
MOST_NORMALS = 20


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
class HeldOut:
    """Normal training clips that a search without labels validates on, and trains without."""

    corpus: Corpus  # with all of its clips, these too
    clips: Mapping[str, Sequence[Clip]]  # by machine/ID

    def with_proxies(self, proxies: Collection[Proxy], *, progress: Progress | None = None) -> Proxied:
        """Makes the clips of some proxies. Beside the held-out clips they are the only test clips that are left.

        `progress` counts the clips with faults. Raises CorpusError or StoreError if one cannot be made.
        """
        normals = [clip for members in self.clips.values() for clip in members]
        faults = [(clip, proxy) for clip in normals for proxy in proxies if proxy != OTHER_IDS]
        made = [ProxyClip(**vars(clip), proxy=None) for clip in map(_as_test_clip, normals)]
        if OTHER_IDS in proxies:
            made += _of_other_ids(self.clips)
        for done, clip in enumerate(_with_faults(faults), start=1):
            made.append(clip)
            if progress is not None:
                progress(done, len(faults))
        names = {clip.name for clip in normals}
        training = tuple(clip for clip in self.corpus.clips if clip.split == "train" and clip.name not in names)
        return Proxied(replace(self.corpus, clips=(*training, *made)), tuple(made))


def hold_out(corpus: Corpus, *, share: float, seed: int, train_on: TrainOn = "development") -> HeldOut:
    """Holds out normal training clips of the sources that a study trains on.

    Which ones depends on the seed and their names alone, as in search.validation.split. A machine ID with one clip
    keeps it. Raises StudyError if no machine ID has two.
    """
    by_id: dict[str, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if clip.split == "train" and clip.source in train_on.split("+"):
            by_id[clip.id_name].append(clip)
    held_out = {}
    for name, members in sorted(by_id.items()):
        count = min(max(round(share * len(members)), 1), len(members) - 1, MOST_NORMALS)
        if count:
            members.sort(key=lambda clip: rank(clip, f"proxy {seed}"))
            held_out[name] = members[:count]
    if not held_out:
        raise StudyError(
            "validation.metric is proxy, which holds out normal training clips, but no machine ID in "
            f"{corpus.root} has two of them ({train_on}): add training clips"
        )
    return HeldOut(corpus, held_out)


def _as_test_clip(clip: Clip) -> Clip:
    return replace(clip, split="test", label=NORMAL)


def _of_other_ids(held_out: Mapping[str, Sequence[Clip]]) -> Iterator[ProxyClip]:
    """For each machine ID as many clips as it has itself, or as its machine's other IDs have, evenly from these."""
    for name, own in held_out.items():
        own_id = own[0].id
        others = [
            (rank, clip)
            for other, members in held_out.items()
            if other != name and members[0].machine == own_id.machine
            for rank, clip in enumerate(members)
        ]
        others.sort(key=lambda ranked: ranked[0])
        for _, clip in others[: len(own)]:
            passed_off = replace(
                clip, machine_id=own_id.number, name=f"{OTHER_IDS.name}/{name}/{clip.name}", split="test", label=ANOMALY
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
