"""Training clips that do not sound normal, found by both methods of `cleaning`, and a page to listen to them.

Test clips are never looked at: that they sound unlike training clips is what a detector is to find out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from features.cleaning import OUTLYING, Method, Outlier, deviations, features_of
from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.clips.reading import read_clip
from features.store.building import open_store
from search.analysis import pictures
from search.analysis.settings import heard
from search.analysis.statistics import KindProgress
from search.analysis.words import Told
from search.pages.page import template

#: Method, and the features whose frames it takes.
METHODS: dict[Method, str] = {"zscore": "zero_crossings+rms+centroid", "neighbours": "logmel"}

#: More clips than this are listed, not drawn.
MOST_SHOWN = 20

#: The median of fewer clips is no norm.
_FEW = 10


@dataclass(frozen=True)
class OutlyingClip:
    """A training clip that at least one method finds outlying."""

    clip: Clip
    typical: Clip  # of the same machine ID and domain
    found: dict[Method, Outlier]  # by the methods that do

    @property
    def deviation(self) -> float:
        return max(outlier.deviation for outlier in self.found.values())

    @property
    def reasons(self) -> list[str]:
        """The farther deviation first."""
        return [of.reason for of in sorted(self.found.values(), key=lambda outlier: -outlier.deviation)]


@dataclass(frozen=True)
class _Shown:
    name: str
    reasons: list[str]
    typical: str
    picture: str
    sound: str
    cut: str


def outliers(corpus: Corpus, *, progress: KindProgress) -> list[OutlyingClip]:
    """The corpus's outlying training clips, the worst first. Raises StoreError or CorpusError."""
    corpus.require_readable()
    features = heard(corpus)
    training = [clip for clip in corpus.clips if clip.split == "train"]
    found: dict[str, OutlyingClip] = {}
    typical: dict[tuple[str, str | None], Clip] = {}
    for method, kind in METHODS.items():

        def built(done: int, of: int, kind: str = kind) -> None:
            progress(f"computing {kind}", done, of)

        open_store(corpus.clips, features_of(kind, features), progress=built)
        measured = deviations(training, corpus, method, features) if training else []
        for outlier in sorted(measured, key=lambda outlier: outlier.deviation):
            clip = outlier.clip
            least = typical.setdefault((clip.id_name, clip.domain), clip)  # by the first method, in which none has 0
            if outlier.deviation >= OUTLYING:
                found.setdefault(clip.name, OutlyingClip(clip, least, {})).found[method] = outlier
    return sorted(found.values(), key=lambda outlying: (-outlying.deviation, outlying.clip.name))


def told_of(found: list[OutlyingClip], corpus: Corpus) -> Told:
    """What was found, in plain language."""
    training = Counter(clip.id_name for clip in corpus.clips if clip.split == "train")
    total = training.total()
    headline = f"{len(found)} of {total} training clips sound unlike the others of their machine ID."
    if not found:
        headline = f"All {total} training clips sound like the others of their machine ID."
    sentences = [
        f"An outlier lies {OUTLYING:g} robust standard deviations or more from the median of its machine ID and domain "
        "in zero crossings, loudness or spectral centroid (zscore), or in its distance to its nearest neighbours "
        "(neighbours). Test clips were not looked at."
    ]
    if found:
        sentences.append(
            "Whether one is wrong or only rare is for an ear to say. What should not be trained on, a study file "
            "can leave out: cleaning: {method: zscore, drop: 0.05}, or method: neighbours; drop is a share of each ID."
        )
    few = sum(count < _FEW for count in training.values())
    if few:
        sentences.append(
            f"{few} of {len(training)} machine IDs have fewer than {_FEW} training clips: so few make no norm, and "
            "some of their clips lie outside by chance."
        )
    return Told(headline, tuple(sentences))


def outliers_page(found: list[OutlyingClip], corpus: Corpus, *, progress: KindProgress) -> str:
    """The page: each clip's picture and sound, of so many."""
    features = heard(corpus)
    shown = []
    for done, outlying in enumerate(found[:MOST_SHOWN]):
        progress("drawing clips", done, len(found[:MOST_SHOWN]))
        waveform = read_clip(outlying.clip, features.waveform)
        sound = pictures.sound(waveform, features.sample_rate)
        shown.append(
            _Shown(
                name=outlying.clip.name,
                reasons=outlying.reasons,
                typical=outlying.typical.name,
                picture=pictures.spectrograms([waveform, read_clip(outlying.typical, features.waveform)], features),
                sound=sound.uri,
                cut=f"The sound is the clip's first {sound.seconds:.0f} s." if sound.is_cut else "",
            )
        )
    return template(__package__, "outliers.html").render(
        root=corpus.root.name or str(corpus.root),
        told=told_of(found, corpus),
        clips=shown,
        left=len(found) - len(shown),
    )
