"""No network: statistics over time of how loud each band of a clip is, and their density among normal clips.

With the weighted mean (`decay`) after Guan et al., "Time-Weighted Frequency Domain Audio Representation with GMM
Estimator for Anomalous Sound Detection" (ICASSP 2023).

    inputs (batch, bins), scaled to [0, 1]
      → k statistics of a clip's frames, in each bin (k · bins,): models.scoring.statistics
      [→ of each statistic, minus its running median over `whiten` bins: what stands out from its neighbours]
      → density (models.scoring.densities)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator
from torch import Tensor

from features.windows.excerpts import Batch
from models.anomaly_model import AnomalyModel
from models.labels import Labels
from models.layers.scale import Scale
from models.settings import Backend, DensitySettings


class Settings(DensitySettings):
    """Statistics of frames over time and a density of them: nothing is trained."""

    family: Literal["stat"] = "stat"
    score: Backend = Field("mahalanobis", description="the density that judges a clip")
    whiten: int = Field(
        0,
        ge=0,
        description="bins whose running median is subtracted from each statistic: an odd number from 3; 0: nothing is",
    )

    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {}  # nothing is trained that they could share
    SCORING_OF_EACH: ClassVar[Mapping[str, Sequence[object]]] = {**DensitySettings.SCORING_ONLY, "whiten": (0, 15)}
    NEVER_IDLE: ClassVar[frozenset[str]] = DensitySettings.NEVER_IDLE - {"decay"} | {"whiten"}

    @field_validator("whiten")
    @classmethod
    def _has_a_middle(cls, whiten: int) -> int:
        if whiten == 1 or (whiten > 0 and whiten % 2 == 0):
            raise ValueError(
                f"must be 0 or an odd number from 3, so that a bin is the middle one, but got {whiten}: "
                f"write {max(whiten + 1, 3)}"
            )
        return whiten

    @property
    def is_trained(self) -> bool:
        return False

    def excerpt_frames(self, bins: int) -> int:
        return 1

    @property
    def excerpt_setting(self) -> str:
        return "features.hop_length"  # one frame: only a clip without any is too short

    @property
    def bands_of_median(self) -> int:
        return self.whiten


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
