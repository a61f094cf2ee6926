"""Validation clips for a search without recorded faults: normal clips, altered or attributed to another machine ID.

    training clips (normal)  ──►  train, withheld: as ever (search.validation.split)
                             └─►  held out: `share` of each machine ID's, at most `MOST_NORMALS`
                                    ├─► as they are                                                        label 0
                                    ├─► each with a synthetic fault of each kind and grade                 label 1
                                    └─► the same number of clips of the machine type's other IDs,
                                        attributed to this one                                             label 1

proxy : what a clip of label 1 stands for: a synthetic fault of one kind and grade, or clips of other machine IDs.
value : the mean AUC of these clips (search.evaluation.metrics), as of any labelled clips. The AUC of a machine ID is
        the mean of its proxies' AUCs. Each synthetic fault has the same weight; other IDs' clips are weighted by their
        number.

Two kinds of proxies cannot show which model is better: those that cheap detectors always detect, and those that no
cheap detector detects. They are left out before a search, once for all of its trials
(search.preparation.proxy_judgement).

Without recorded faults of a machine, nobody knows whether a model that detects its proxies also detects its real
faults. docs/results.md says on which machines this was measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.corpus import Corpus
from features.clips.synthetic_faults import faulty_clips
from features.progress import Progress
from search.errors import StudyError
from search.study.proxies import OTHER_IDS, Proxy
from search.study.recipe import TrainOn
from search.validation.split import clips_to_train_on, rank

#: The most normal clips that are held out of a machine ID: each is scored once for every proxy, in every epoch.
MOST_NORMALS = 20


@dataclass(frozen=True, kw_only=True)
class ProxyClip(Clip):
    """A validation clip of a search without labels."""

    proxy: Proxy | None  # None for a normal clip


@dataclass(frozen=True)
class ProxyCorpus:
    """A corpus as a search without labels sees it."""

    corpus: Corpus  # the remaining training clips, then `clips` as labelled test clips; no other clips
    clips: tuple[ProxyClip, ...]

    def of_proxies(self, proxies: Collection[Proxy]) -> ProxyCorpus:
        """Return the same corpus with the normal clips and the clips of these proxies alone."""
        clips = tuple(clip for clip in self.clips if clip.proxy is None or clip.proxy in proxies)
        training = self.corpus.clips[: len(self.corpus.clips) - len(self.clips)]
        return ProxyCorpus(replace(self.corpus, clips=(*training, *clips)), clips)


@dataclass(frozen=True)
class HeldOutClips:
    """Normal training clips that a search without labels validates on, and does not train on."""

    corpus: Corpus  # with all of its clips, the held-out ones too
    clips: Mapping[str, Sequence[Clip]]  # by machine/ID

    def with_proxies(self, proxies: Collection[Proxy], *, progress: Progress | None = None) -> ProxyCorpus:
        """Create the clips of these proxies. They and the held-out clips are the corpus's only test clips.

        `progress` counts the clips with synthetic faults. Raises CorpusError or StoreError if one cannot be created.
        """
        normals = [clip for members in self.clips.values() for clip in members]
        faults = [(clip, proxy) for clip in normals for proxy in proxies if proxy != OTHER_IDS]
        clips = [ProxyClip(**vars(clip), proxy=None) for clip in map(_as_test_clip, normals)]
        if OTHER_IDS in proxies:
            clips += _of_other_ids(self.clips)
        for done, clip in enumerate(_with_faults(faults), start=1):
            clips.append(clip)
            if progress is not None:
                progress(done, len(faults))
        names = {clip.name for clip in normals}
        training = tuple(clip for clip in self.corpus.clips if clip.split == "train" and clip.name not in names)
        return ProxyCorpus(replace(self.corpus, clips=(*training, *clips)), tuple(clips))


def hold_out(corpus: Corpus, *, share: float, seed: int, train_on: TrainOn = "development") -> HeldOutClips:
    """Hold out a share of the normal training clips of the sources that a study trains on.

    The choice depends on the seed and the clips' names alone, as in search.validation.split. A machine ID with a single
    clip keeps it for training. Raises StudyError if no machine ID has two.
    """
    by_id: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips_to_train_on(corpus, train_on):
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
    return HeldOutClips(corpus, held_out)


def _as_test_clip(clip: Clip) -> Clip:
    return replace(clip, split="test", label=NORMAL)


def _of_other_ids(held_out: Mapping[str, Sequence[Clip]]) -> Iterator[ProxyClip]:
    """Yield clips of other machine IDs, attributed to each machine ID in turn.

    Their number is that of the machine ID's own held-out clips, or less where its machine type's other IDs have fewer.
    They are taken evenly from these other IDs.
    """
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
            attributed = replace(
                clip, machine_id=own_id.number, name=f"{OTHER_IDS.name}/{name}/{clip.name}", split="test", label=ANOMALY
            )
            yield ProxyClip(**vars(attributed), proxy=OTHER_IDS)


def _with_faults(faults: Sequence[tuple[Clip, Proxy]]) -> Iterator[ProxyClip]:
    wanted = []
    for clip, proxy in faults:
        assert proxy.kind != "other IDs" and proxy.grade is not None
        wanted.append((clip, proxy.kind, proxy.grade))
    for clip, (_, proxy) in zip(faulty_clips(wanted), faults, strict=True):
        yield ProxyClip(**vars(clip), proxy=proxy)
