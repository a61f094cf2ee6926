"""The settings of models in study files. Without torch: reading a study does not wait for it to load."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, cast, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from features.errors import UnservedError
from features.settings import Effects, Settings
from features.stacks import joined, require_stack
from models.labels import Labels

#: How window scores become one clip score: models.scoring.pooling.
Pooling = Literal["mean", "max", "top", "gwrp"]

#: Densities of a model's embeddings, or boundaries around them: models.scoring.densities.
Backend = Literal["mahalanobis", "gmm", "knn", "lof", "ocsvm", "exposure"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

#: Statistics over time of a clip's embeddings: models.scoring.statistics.
Statistic = Literal["mean", "median", "quantile", "minimum", "maximum", "quiet", "loud", "deviation", "change"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)

#: What `auto` stands for on a device: models.precision.
ClosedPrecision = Literal["float32", "bfloat16"]


class TrainingSettings(Settings):
    """How a model is trained (Adam)."""

    learning_rate: float = Field(1e-3, gt=0, le=1e30, description="Adam's step size")
    batch_size: int = Field(1000, ge=1, description="windows or crops in one step")
    epochs: int = Field(100, ge=1, description="passes over the training clips")
    precision: Literal["auto"] | ClosedPrecision = Field(
        "auto",
        description="of the arithmetic in training; auto: bfloat16 (autocast) where the device computes it natively, "
        "else float32. Scores are always float32",
    )
    calibration_share: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="share of each machine ID's normal clips withheld for calibration and threshold",
    )
    seed: int | None = Field(None, ge=0, description="of weights, order and noise; a search derives one for each trial")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the arithmetic: sums depend on them in the last bits"
    )


class ScoringSettings(Settings):
    """How window scores become a clip's score and decision."""

    #: Settings without effect where a density gives a clip's score.
    OF_WINDOWS: ClassVar[frozenset[str]] = frozenset({"pooling", "decay", "top_share", "windows", "windows_share"})

    ONLY_BESIDE: ClassVar[Effects] = {
        "decay": {"pooling": ["gwrp"]},
        "top_share": {"pooling": ["top"]},
        "windows_share": {"windows": ["quiet", "loud"]},
    }
    NEVER_IDLE: ClassVar[frozenset[str]] = frozenset({"windows", "windows_share"})
    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {
        "pooling": (),
        "decay": (0.5, 0.8, 0.9, 0.95, 0.99),
        "top_share": (0.02, 0.05, 0.1, 0.2, 0.5),
        "windows": (),
        "windows_share": (0.05, 0.1, 0.25, 0.5),
        "calibration": (),
    }

    pooling: Pooling = Field("mean", description="how window scores become one clip score")
    decay: float = Field(0.9, ge=0, le=1, description="gwrp: weight of each window over that of the one ranked before")
    top_share: float = Field(0.1, gt=0, le=1, description="top: share of a clip's windows that counts")
    windows: Literal["all", "quiet", "loud"] = Field(
        "all",
        description="windows that are pooled: all of a clip's, or those of the lowest or highest input level; quiet "
        "where noise comes and goes, loud where faults knock",
    )
    windows_share: float = Field(0.25, gt=0, le=1, description="quiet, loud: share of a clip's windows that is pooled")
    calibration: Literal["none", "z", "empirical"] = Field(
        "none", description="of clip scores, for each machine ID, by its withheld normal clips"
    )
    threshold: Literal["quantile", "gamma"] = Field(
        "quantile", description="of the withheld normal clips' scores, or of a gamma distribution fitted to them"
    )
    false_alarm_rate: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of a machine ID's new normal clips that may be above the threshold; a rate R takes 1/R - 1 "
        "withheld clips",
    )


class FamilySettings(Settings):
    """The `model:` block of a study file: each family adds its own, and derives from one of those below."""

    family: str
    per_id: bool = Field(False, description="one model for each machine ID, clips routed to their own")
    unknown_id: Literal["error", "shared"] = Field(
        "error", description="clips of an ID never trained on, where IDs matter: an error, or what all IDs share"
    )

    ONLY_BESIDE: ClassVar[Effects] = {"unknown_id": {"per_id": [True], "score": BACKENDS}}

    @property
    def is_trained(self) -> bool:
        """Whether it has a training: epochs, batches and a learning rate."""
        return True

    def excerpt_frames(self, bins: int) -> int:
        """The length of a window or crop in frames, for frames with this many bins."""
        raise NotImplementedError

    @property
    def excerpt_setting(self) -> str:
        """The setting that gives the length of an excerpt."""
        raise NotImplementedError

    @property
    def knows_ids(self) -> bool:
        """Whether its network takes machine IDs or classifies them: it cannot score others."""
        return False

    def repeated(self, times: int) -> FamilySettings:
        """Settings of the same model with other random numbers, for the `times`-th repetition, if the model has any."""
        return self

    @property
    def to_be_loaded(self) -> FamilySettings:
        """Settings of the same model, whose weights will be loaded from a file."""
        return self

    @property
    def fewest_in_batch(self) -> int:
        """Windows or crops that a step of training needs: two where they are normalised over the batch."""
        return 1

    @property
    def backend(self) -> Backend | None:
        """The density that gives the score; None where the network itself does."""
        return None

    def require(self, labels: Labels, judged: Collection[str]) -> None:
        """Raises UnservedError unless it can learn from these labels and score clips of these machine IDs."""
        unknown = sorted(set(judged) - set(labels.ids))
        if unknown and (self.knows_ids or (self.unknown_id == "error" and (self.per_id or self.backend is not None))):
            remedy = "" if self.knows_ids else ", or set model.unknown_id: shared"
            raise UnservedError(
                f"model.family {self.family} cannot score {', '.join(unknown)}: no training clip of it. "
                f"Train on it (corpus.train_on, corpus.machines){remedy}"
            )


class WindowSettings(FamilySettings):
    """Families that see a few frames at a time, as one vector: every such window of a clip."""

    context: int = Field(5, ge=1, le=512, description="frames in one input vector")

    def excerpt_frames(self, bins: int) -> int:
        return self.context

    @property
    def excerpt_setting(self) -> str:
        return "model.context"


class CropSettings(FamilySettings):
    """Families that see long stretches of frames as pictures: some crops of a clip."""

    frames: Annotated[int, Field(ge=1)] | Literal["square"] = Field(
        "square", description="frames in one crop; square: as many as a frame has bins"
    )
    crop_hop: int | None = Field(
        None, ge=1, description="frames from one crop to the next in scoring; half a crop if left out"
    )
    crops_per_clip: int = Field(10, ge=1, description="crops of each clip in an epoch of training, anywhere in it")

    def excerpt_frames(self, bins: int) -> int:
        return bins if self.frames == "square" else self.frames

    @property
    def excerpt_setting(self) -> str:
        return "model.frames"

    def hop(self, bins: int) -> int:
        """Frames from one crop to the next in scoring."""
        return self.crop_hop or max(self.excerpt_frames(bins) // 2, 1)


class DensitySettings(FamilySettings):
    """Families whose embeddings a density can judge: `score` names it."""

    neighbours: int = Field(2, ge=1, description="knn, lof: neighbours that a clip is compared with")
    local_neighbours: int = Field(
        4, ge=0, description="knn: a neighbour's own ones, by whose distance it counts; 0: distances as they are"
    )
    components: int = Field(2, ge=1, description="gmm: Gaussians")
    standardize: bool = Field(
        False,
        description="each dimension of an embedding by the mean and deviation of the machine ID's training clips, "
        "before the density; where some dimensions vary more than others",
    )
    covariance: Literal["own", "tied"] = Field(
        "own",
        description="mahalanobis: of the machine ID's own training clips, or one of all IDs' around their own means; "
        "tied where IDs have few clips and vary in like ways",
    )
    distance: Literal["euclidean", "cosine"] = Field(
        "euclidean",
        description="knn: between points, or by the angle between them; cosine where it matters which dimensions stand "
        "out, and not by how much",
    )
    nu: float = Field(
        0.1, ge=1e-3, lt=1, description="ocsvm: share of the training clips that may lie outside, roughly"
    )
    statistic: Annotated[str, BeforeValidator(joined)] = Field(
        "mean",
        description="of a clip's embeddings over time, for a density: one of "
        f"{', '.join(STATISTICS)}, or several: [quantile, maximum] or quantile+maximum",
    )
    share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="quantile: of the windows that are below it; quiet, loud: of the windows that count",
    )
    decay: float = Field(
        1.0,
        ge=0,
        le=1,
        description="mean: weight of each window over that of the next higher one, in each dimension; 1: the mean, "
        "0: the maximum",
    )

    ONLY_BESIDE: ClassVar[Effects] = {
        "statistic": {"score": BACKENDS},
        "share": {"statistic": ["quantile", "quiet", "loud"]},
        "decay": {"statistic": ["mean"]},
        "neighbours": {"score": ["knn", "lof"]},
        "local_neighbours": {"score": ["knn"]},
        "components": {"score": ["gmm"]},
        "standardize": {"score": BACKENDS},
        "covariance": {"score": ["mahalanobis"]},
        "distance": {"score": ["knn"]},
        "nu": {"score": ["ocsvm"]},
    }
    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {
        "score": (),
        "neighbours": (1, 2, 4, 8),
        "local_neighbours": (0, 2, 4, 8),
        "components": (1, 2, 4),
        "standardize": (),
        "covariance": (),
        "distance": (),
        "nu": (0.05, 0.1, 0.2, 0.5),
        "statistic": (),
        "share": (0.05, 0.1, 0.25, 0.5),
        "decay": (0.0, 0.5, 0.9, 0.99, 1.0),
    }
    NEVER_IDLE: ClassVar[frozenset[str]] = frozenset(
        {"standardize", "covariance", "distance", "nu", "statistic", "share", "decay"}
    )

    @model_validator(mode="after")
    def _is_tied_to_others(self) -> DensitySettings:
        if self.per_id and self.backend == "mahalanobis" and self.covariance == "tied":
            raise ValueError(
                "covariance: tied takes several machine IDs in one model, but per_id: true makes a model for each: "
                "set per_id: false or covariance: own"
            )
        return self

    @field_validator("statistic")
    @classmethod
    def _statistics_exist(cls, statistic: str) -> str:
        require_stack(statistic, STATISTICS, what="statistic")
        return statistic

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The names of the stack."""
        return cast("tuple[Statistic, ...]", tuple(self.statistic.split("+")))

    @property
    def bands_of_median(self) -> int:
        """The number of neighbouring dimensions whose median is subtracted from each statistic; 0: none is."""
        return 0

    @property
    def backend(self) -> Backend | None:
        score = getattr(self, "score", None)  # each family has the field, with names of its own beside the densities'
        return next((backend for backend in BACKENDS if backend == score), None)


class ReconstructionSettings(DensitySettings):
    """Families that reconstruct their inputs: a density judges their embeddings, or how they err."""

    points: Literal["embedding", "residual"] = Field(
        "embedding",
        description="what a density judges of each window: its embedding, or the log error of each bin's "
        "reconstruction; residual where faults change some bands alone",
    )

    ONLY_BESIDE: ClassVar[Effects] = {"points": {"score": BACKENDS}}
    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {**DensitySettings.SCORING_ONLY, "points": ()}
    NEVER_IDLE: ClassVar[frozenset[str]] = DensitySettings.NEVER_IDLE | {"points"}
