"""No network: how loud each band of a clip is, time-weighted, and the density of that among normal clips.

After Guan et al., "Time-Weighted Frequency Domain Audio Representation with GMM Estimator for Anomalous Sound
Detection" (ICASSP 2023).

    inputs (batch, bins), scaled to [0, 1]
      → of a clip's frames, in each bin the mean weighted by rank (bins,): loudest frames first, weights falling by
        `decay`; decay 1 is the mean over time, decay 0 the maximum
      → density (models.scoring.densities)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from features.windows.excerpts import Batch
from models.anomaly_model import AnomalyModel
from models.labels import Labels
from models.layers.scale import Scale
from models.settings import Backend, DensitySettings


class Settings(DensitySettings):
    """Frames pooled over time and a density of them: nothing is trained."""

    family: Literal["stat"] = "stat"
    score: Backend = Field("mahalanobis", description="the density that judges a clip")
    decay: float = Field(
        1.0, ge=0, le=1, description="weight of each frame over that of the next louder one, in each bin; 1: the mean"
    )

    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {}  # nothing is trained that they could share

    @property
    def is_trained(self) -> bool:
        return False

    def excerpt_frames(self, bins: int) -> int:
        return 1

    @property
    def excerpt_setting(self) -> str:
        return "features.hop_length"  # one frame: only a clip without any is too short

    @property
    def embedding_decay(self) -> float:
        return self.decay


class Model(AnomalyModel):
    """Has no weights: hands frames on to the density."""

    def __init__(self, settings: Settings, scale: Scale, labels: Labels) -> None:
        super().__init__()
        self.scale = scale

    def loss(self, batch: Batch) -> Tensor:
        raise NotImplementedError("there is nothing to train")

    def score(self, batch: Batch) -> Tensor:
        raise NotImplementedError("a density of the clips' embeddings gives the score")

    def embed(self, batch: Batch) -> Tensor:
        """The frames, each bin's limits at 0 and 1, (batch, bins)."""
        scaled: Tensor = self.scale(batch.inputs)
        return scaled
