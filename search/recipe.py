"""The schema of a recipe: a study file with every range closed.

A study file has the same keys; `search.space` says which of them may hold a range instead of a value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny

from features.cleaning import CleaningSettings
from features.errors import OffkeyError
from features.feature_settings import FeatureSettings
from features.settings import Settings
from models.families import settings_of
from models.settings import FamilySettings, Pooling

#: What a study may be called.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"

TrainOn = Literal["development", "additional", "development+additional"]


class CorpusSettings(Settings):
    """Which recordings."""

    root: str | None = Field(None, description="folder of the clips, relative to the working directory")
    machines: list[str] | None = Field(None, min_length=1, description="machines to use; all of them if left out")
    train_on: TrainOn = Field("development", description="which training clips")


class TrainingSettings(Settings):
    """How a model is trained (Adam)."""

    learning_rate: float = Field(1e-3, gt=0, le=1e30, description="Adam's step size")
    batch_size: int = Field(1000, ge=1, description="windows in one step")
    epochs: int = Field(100, ge=1, description="passes over the training windows")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the arithmetic; bfloat16 (autocast) is faster on a GPU, and coarser"
    )
    calibration_share: float = Field(
        0.1, ge=0, le=0.5, description="share of each machine ID's training clips withheld to set its threshold"
    )
    seed: int | None = Field(None, ge=0, description="of weights, order and noise; a search derives one for each trial")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the arithmetic: sums depend on them in the last bits"
    )


class ScoringSettings(Settings):
    """How window scores become a clip's score and decision."""

    pooling: Pooling = Field("mean", description="how window scores become one clip score")
    decay: float = Field(0.9, ge=0, le=1, description="gwrp: weight of each window over that of the one ranked before")
    top_share: float = Field(0.1, gt=0, le=1, description="top: share of a clip's windows that counts")
    false_alarm_rate: float = Field(0.1, gt=0, lt=1, description="share of normal clips above the threshold")


class ValidationSettings(Settings):
    """What steers the search, and on which share of the labelled clips."""

    metric: Literal["auc"] = "auc"
    share: float = Field(0.5, gt=0, lt=1, description="share of each ID's labelled clips that steers the search")
    seed: int = Field(0, ge=0, description="of the split between validation and test, and of the withheld clips")


class SearchSettings(Settings):
    """The budget, and how it is spent."""

    trials: int = Field(100, ge=1, description="trials in all, over all workers")
    hours: float | None = Field(None, gt=0, description="wall clock with at least one worker")
    sampler: Literal["tpe", "random", "grid"] = Field("tpe", description="grid: each combination of choices once")
    pruner: Literal["hyperband", "none"] = "hyperband"
    seed: int = Field(0, ge=0)
    duplicates: Literal["fresh", "repeat"] = Field(
        "fresh",
        description="settings that a trial had before are suggested anew, or repeated with another seed",
    )


class Origin(Settings):
    """The trial that a recipe was exported from."""

    study: str
    trial: int


def _of_its_family(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    if "family" not in block:
        raise ValueError("`family` is missing: it names the kind of model, `family: vae` for one")
    try:
        return settings_of(str(block["family"])).model_validate(block)
    except OffkeyError as error:
        raise ValueError(str(error)) from error


class Recipe(Settings):
    """Everything that one training needs."""

    model_config = ConfigDict(populate_by_name=True)

    study: str = Field(pattern=NAME, max_length=200)
    corpus: CorpusSettings = CorpusSettings()
    features: FeatureSettings = FeatureSettings()
    cleaning: CleaningSettings = CleaningSettings()
    model: Annotated[SerializeAsAny[FamilySettings], BeforeValidator(_of_its_family)]
    training: TrainingSettings = TrainingSettings()
    scoring: ScoringSettings = ScoringSettings()
    validation: ValidationSettings = ValidationSettings()
    from_: Origin | None = Field(None, alias="from", description="the trial that this recipe was exported from")

    def tree(self) -> dict[str, Any]:
        """As plain values, in the order of the schema, without what was left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
