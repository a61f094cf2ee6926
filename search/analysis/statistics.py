"""Each clip's mean and standard deviation over time, for each bin of each kind of feature.

values : (clips, 2 · bins) float64, the means first. A stack has the values of its parts side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.cleaning import clip_statistics
from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.store.building import open_store
from search.analysis.settings import AnalysisSettings

Values = npt.NDArray[np.float64]

#: Called with the name of the current step, and with (done, in all).
KindProgress = Callable[[str, int, int], None]

#: Progress is reported each time the statistics of this many clips have been computed.
_CLIPS_AT_ONCE = 256


@dataclass(frozen=True)
class Statistics:
    """The statistics of some clips, for every kind of feature."""

    rows: dict[str, int]  # a clip's name → its row
    of_kind: dict[str, npt.NDArray[np.float32]]  # (clips, 2 · bins): half the memory of float64

    def of(self, kind: str, clips: Sequence[Clip]) -> Values:
        """The values of these clips for a kind or a stack."""
        chosen = [self.rows[clip.name] for clip in clips]
        halves = [np.hsplit(self.of_kind[part][chosen], 2) for part in kind.split("+")]
        return np.hstack([mean for mean, _ in halves] + [deviation for _, deviation in halves]).astype(np.float64)

    def levels(self, clips: Sequence[Clip]) -> Values:
        """The RMS of each clip, (clips,) dB of full scale; -100 for silence."""
        mean, deviation = np.hsplit(self.of("rms", clips), 2)
        power = (mean**2 + deviation**2)[:, 0]
        return np.asarray(10 * np.log10(np.maximum(power, 1e-10)))


def statistics_of(
    clips: Sequence[Clip], corpus: Corpus, settings: AnalysisSettings, kinds: Sequence[str], *, progress: KindProgress
) -> Statistics:
    """The statistics of some of a corpus's clips, for some kinds; the frames of one clip at a time are in memory.

    Those of stacks are put together from the statistics of their parts.

    Raises StoreError or CorpusError where frames cannot be computed.
    """
    tables = {}
    for kind in dict.fromkeys(part for stack in kinds for part in stack.split("+")):
        features = settings.features_of(kind)

        def built(done: int, of: int, kind: str = kind) -> None:
            progress(f"computing {kind}", done, of)

        open_store(corpus.clips, features, progress=built)
        table = np.empty((len(clips), 2 * features.bins), dtype=np.float32)
        for start in range(0, len(clips), _CLIPS_AT_ONCE):
            block = clips[start : start + _CLIPS_AT_ONCE]
            table[start : start + len(block)] = clip_statistics(block, corpus, features)
            progress(f"measuring {kind}", start + len(block), len(clips))
        tables[kind] = table
    return Statistics({clip.name: row for row, clip in enumerate(clips)}, tables)


def standardised(values: Values, like: Values) -> Values:
    """Each column minus its mean in `like`, divided by its standard deviation there; (rows, columns) both.

    A column that is constant in `like` is not divided.
    """
    mean, deviation = like.mean(axis=0), like.std(axis=0)
    changes = deviation > 1e-6 * np.abs(mean) + 1e-12
    return np.asarray((values - mean) / np.where(changes, deviation, 1.0))
