"""The schema of a recipe: a study file with every range closed.

A study file has the same keys; `search.study.space` says which of them may hold a range instead of a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, model_validator

from features.cleaning import CleaningSettings
from features.frames.feature_settings import FeatureSettings
from features.settings import Settings
from models.member import AnyFamily, Member, members_in
from models.settings import ScoringSettings, TrainingSettings

#: What a study may be called.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"

TrainOn = Literal["development", "additional", "development+additional"]


class CorpusSettings(Settings):
    """Which recordings."""

    root: str | None = Field(None, description="folder of the clips, relative to the working directory")
    machines: list[str] | None = Field(None, min_length=1, description="machines to use; all of them if left out")
    train_on: TrainOn = Field("development", description="which training clips")


#: What is made of the scores of the validation clips: the metrics of search.evaluation.metrics, and an AUC on proxies.
ScoreObjective = Literal["auc", "pauc", "official", "worst_id", "proxy"]

#: What may be searched for beside a metric: how little a detector costs (search.training.costs).
CostObjective = Literal["parameters", "latency_ms"]

#: What a study may search for.
Objective = ScoreObjective | CostObjective


class ValidationSettings(Settings):
    """What steers the search, and on which clips."""

    metric: ScoreObjective | list[Objective] = Field(
        "auc", description="what is searched for; several in a list, the most important first: the best trade-offs"
    )
    share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of each ID's labelled clips that steers the search; for proxy (0.25), of its training clips",
    )
    clips: Literal["development"] | None = Field(
        None,
        description="development: in place of a share, that set's labelled clips steer and the evaluation set's are "
        "held out",
    )
    seed: int = Field(0, ge=0, description="of the split between validation and test, and of the withheld clips")
    folds: int | None = Field(
        None, ge=2, le=20, description="cross-validation: each trial trains so many models, each without other clips"
    )
    proxies: list[str] | None = Field(
        None, min_length=1, description="for proxy: what stands for faults; found on the recordings if left out"
    )

    @model_validator(mode="before")
    @classmethod
    def _proxies_leave_most_clips_to_train_on(cls, tree: Any) -> Any:
        metric = tree.get("metric") if isinstance(tree, dict) else None
        is_proxy = metric == "proxy" or (isinstance(metric, list) and "proxy" in metric)
        return {"share": 0.25, **tree} if is_proxy else tree

    @model_validator(mode="after")
    def _objectives_go_together(self) -> ValidationSettings:
        objectives = self.objectives
        if not objectives or objectives[0] in get_args(CostObjective):
            raise ValueError("metric must begin with what is made of scores, such as auc: a detector is to find faults")
        if len(set(objectives)) < len(objectives):
            raise ValueError(f"metric must name each objective once, but got {', '.join(objectives)}")
        if "proxy" in objectives and set(objectives) & {"auc", "pauc", "official", "worst_id"}:
            raise ValueError(
                "metric proxy goes by no labelled clip: it stands alone, or beside parameters and latency_ms"
            )
        if self.uses_proxies and self.folds is not None:
            raise ValueError("folds are for labelled clips, and metric proxy goes by none: leave one of them out")
        if self.uses_proxies and self.clips is not None:
            raise ValueError("clips are labelled ones, and metric proxy goes by none: leave one of them out")
        if self.proxies is not None and not self.uses_proxies:
            raise ValueError("proxies are for metric: proxy")
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is searched for, the most important first."""
        return tuple(self.metric) if isinstance(self.metric, list) else (self.metric,)

    @property
    def uses_proxies(self) -> bool:
        """Whether no labelled clip steers the search."""
        return "proxy" in self.objectives

    @property
    def holds_out_training_clips(self) -> bool:
        """Whether a trial's models do without some training clips, for these to steer."""
        return self.folds is not None or self.uses_proxies


class ConstraintSettings(Settings):
    """What a trial must not go beyond to be chosen."""

    max_parameters: int | None = Field(None, ge=0, description="learnt numbers of all networks")
    max_latency_ms: float | None = Field(None, gt=0, description="milliseconds to score one clip, its file included")
    min_worst_id: float | None = Field(None, ge=0, le=1, description="AUC of the machine ID that has the lowest")


class SearchSettings(Settings):
    """The budget, and how it is spent."""

    trials: int = Field(100, ge=1, description="trials in all, over all workers")
    hours: float | None = Field(None, gt=0, description="wall clock with at least one worker")
    sampler: Literal["tpe", "random", "grid"] = Field("tpe", description="grid: each combination of choices once")
    pruner: Literal["hyperband", "median", "noise", "wilcoxon", "none"] = Field(
        "hyperband",
        description="noise: stops only trials that are behind by more than chance makes of so few clips; "
        "wilcoxon: compares folds in pairs, for more epochs than median takes; always none with several objectives",
    )
    seed: int = Field(0, ge=0)
    duplicates: Literal["fresh", "repeat"] = Field(
        "fresh",
        description="settings that a trial had before are suggested anew, or repeated with another seed",
    )
    constraints: ConstraintSettings | None = Field(
        None, description="what a chosen trial must keep to: `offkey settings constraints`"
    )


class Origin(Settings):
    """The trial that a recipe was exported from."""

    study: str
    trial: int


#: Blocks that the members of an ensemble have, too.
SHARED_BLOCKS = ("features", "training", "scoring")

#: What is said once for all members: they are trained on the same clips, and come to one decision.
OF_THE_WHOLE: Mapping[str, tuple[str, ...]] = {
    "features": (),
    "training": ("calibration_share", "threads"),
    "scoring": ("calibration", "threshold", "false_alarm_rate"),
}

#: What means nothing to a family without a network to train.
TRAINED_ONLY = ("learning_rate", "batch_size", "epochs")


class Recipe(Settings):
    """Everything that one training needs."""

    model_config = ConfigDict(populate_by_name=True)

    study: str = Field(pattern=NAME, max_length=200)
    corpus: CorpusSettings = CorpusSettings()
    features: FeatureSettings = FeatureSettings()
    cleaning: CleaningSettings = CleaningSettings()
    model: AnyFamily
    training: TrainingSettings = TrainingSettings()
    scoring: ScoringSettings = ScoringSettings()
    validation: ValidationSettings = ValidationSettings()
    from_: Origin | None = Field(None, alias="from", description="the trial that this recipe was exported from")

    @model_validator(mode="before")
    @classmethod
    def _members_leave_out_what_the_recipe_says(cls, tree: Any) -> Any:
        members = members_of(tree)
        return tree | {"model": tree["model"] | {"members": _completed(members, tree)}} if members else tree

    @property
    def member(self) -> Member:
        """All of it but the recordings."""
        return Member.model_construct(
            features=self.features, model=self.model, training=self.training, scoring=self.scoring
        )

    @property
    def ensemble(self) -> Mapping[str, Member]:
        """The members of an ensemble by name; empty for any other recipe."""
        return members_in(self.model)

    @property
    def members(self) -> list[Member]:
        """Those of an ensemble; of any other recipe the one that it is."""
        return list(self.ensemble.values()) or [self.member]

    @property
    def epochs(self) -> int:
        """Passes over the training clips; one where there is no network to train."""
        return max((member.training.epochs for member in self.members if member.model.is_trained), default=1)

    def tree(self) -> dict[str, Any]:
        """As plain values, in the order of the schema, without what was left out or has no effect."""
        tree = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        written = tree["model"].get("members", {})
        for name, member in self.ensemble.items():
            # With what is null: left out, it would be as the study has it.
            written[name]["features"] = member.features.model_dump(mode="json")
            for block, keys in OF_THE_WHOLE.items():
                _drop(written[name][block], keys)
            if not member.model.is_trained:
                _drop(written[name]["training"], TRAINED_ONLY)
        if not self.model.is_trained:
            _drop(tree["training"], TRAINED_ONLY)
        return tree


def members_of(tree: Any) -> dict[str, dict[str, Any]]:
    """The members of the ensemble that a tree describes, unless it is not even one in its outline."""
    model = tree.get("model") if isinstance(tree, dict) else None
    members = model.get("members") if isinstance(model, dict) else None
    if not isinstance(members, dict) or not all(isinstance(member, dict) for member in members.values()):
        return {}
    if any(not isinstance(member.get(block) or {}, dict) for member in members.values() for block in SHARED_BLOCKS):
        return {}
    return members


def _completed(members: dict[str, dict[str, Any]], tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The members with what they leave out. A seed is not handed down: it would hide that of a trial's repeat."""
    shared = {block: dict(tree[block]) for block in SHARED_BLOCKS if isinstance(tree.get(block), dict)}
    for block, settings in shared.items():
        _drop(settings, (*OF_THE_WHOLE[block], "seed"))
    return {
        name: member | {block: {**settings, **(member.get(block) or {})} for block, settings in shared.items()}
        for name, member in members.items()
    }


def _drop(settings: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        settings.pop(key, None)
