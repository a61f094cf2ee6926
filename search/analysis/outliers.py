"""Training clips that do not sound normal by either method of `cleaning`, and a page to listen to them.

Test clips are never used: detecting that they sound unlike training clips is the detector's task.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from features.cleaning import OUTLYING, Method, Outlier, deviations, features_of
from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.clips.verified_reading import read_clip
from features.store.building import open_store
from search.analysis import pictures
from search.analysis.findings import Finding
from search.analysis.settings import default_features
from search.analysis.statistics import KindProgress
from search.pages.page import template

#: Each method, and the features that it uses.
METHODS: dict[Method, str] = {"zscore": "zero_crossings+rms+centroid", "neighbours": "logmel"}

#: The page draws at most this many clips; the terminal lists all.
MOST_SHOWN = 20

#: The median of fewer clips is not reliable.
_FEW = 10


@dataclass(frozen=True)
class OutlyingClip:
    """A training clip that at least one method finds outlying."""

    clip: Clip
    typical: Clip  # of the same machine ID and domain
    by_method: dict[Method, Outlier]

    @property
    def deviation(self) -> float:
        return max(outlier.deviation for outlier in self.by_method.values())

    @property
    def reasons(self) -> list[str]:
        """The methods' reasons, that of the larger deviation first."""
        return [of.reason for of in sorted(self.by_method.values(), key=lambda outlier: -outlier.deviation)]


@dataclass(frozen=True)
class _ShownClip:
    name: str
    reasons: list[str]
    typical: str
    picture: str
    sound: str
    cut: str


def outliers(corpus: Corpus, *, progress: KindProgress) -> list[OutlyingClip]:
    """The corpus's outlying training clips, the worst first. Raises StoreError or CorpusError."""
    corpus.require_readable()
    features = default_features(corpus)
    training = [clip for clip in corpus.clips if clip.split == "train"]
    by_name: dict[str, OutlyingClip] = {}
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
                by_name.setdefault(clip.name, OutlyingClip(clip, least, {})).by_method[method] = outlier
    return sorted(by_name.values(), key=lambda outlying: (-outlying.deviation, outlying.clip.name))


def outliers_finding(outlying: list[OutlyingClip], corpus: Corpus) -> Finding:
    """The result in plain language."""
    training = Counter(clip.id_name for clip in corpus.clips if clip.split == "train")
    total = training.total()
    headline = f"{len(outlying)} of {total} training clips sound unlike the others of their machine ID."
    if not outlying:
        headline = f"All {total} training clips sound like the others of their machine ID."
    sentences = [
        f"An outlier lies {OUTLYING:g} robust standard deviations or more from the median of its machine ID and domain "
        "in zero crossings, loudness or spectral centroid (zscore), or in its distance to its nearest neighbours "
        "(neighbours). Test clips were not used."
    ]
    if outlying:
        sentences.append(
            "Listen to find out whether one is wrong or only rare. A study file can leave outliers out of training: "
            "cleaning: {method: zscore, drop: 0.05}, or method: neighbours; drop is a share of each ID's clips."
        )
    few = sum(count < _FEW for count in training.values())
    if few:
        sentences.append(
            f"{few} of {len(training)} machine IDs have fewer than {_FEW} training clips: with so few, some clips are "
            "outliers by chance."
        )
    return Finding(headline, tuple(sentences))


def outliers_page(outlying: list[OutlyingClip], corpus: Corpus, *, progress: KindProgress) -> str:
    """The page, with picture and sound of at most MOST_SHOWN clips."""
    features = default_features(corpus)
    shown = []
    for done, one in enumerate(outlying[:MOST_SHOWN]):
        progress("drawing clips", done, len(outlying[:MOST_SHOWN]))
        waveform = read_clip(one.clip, features.waveform)
        sound = pictures.sound(waveform, features.sample_rate)
        shown.append(
            _ShownClip(
                name=one.clip.name,
                reasons=one.reasons,
                typical=one.typical.name,
                picture=pictures.spectrograms([waveform, read_clip(one.typical, features.waveform)], features),
                sound=sound.uri,
                cut=f"The sound is the clip's first {sound.seconds:.0f} s." if sound.is_cut else "",
            )
        )
    return template(__package__, "outliers.html").render(
        root=corpus.root.name or str(corpus.root),
        finding=outliers_finding(outlying, corpus),
        clips=shown,
        left=len(outlying) - len(shown),
    )
