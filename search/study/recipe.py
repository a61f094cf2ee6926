"""The schema of a recipe: a study file without ranges.

A study file has the same keys; `search.study.space` defines which of them may hold a range instead of a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, model_validator

from features.cleaning import CleaningSettings
from features.frames.feature_settings import FeatureSettings
from features.settings import Settings
from models.member import AnyFamily, MachineTypes, Member, members_in
from models.settings import ScoringSettings, TrainingSettings
from search.evaluation.official import YEARS

#: The names that a study may have.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"

TrainOn = Literal["development", "additional", "development+additional"]


class CorpusSettings(Settings):
    """Which recordings are used."""

    root: str | None = Field(None, description="folder of the clips, relative to the working directory")
    machines: list[str] | None = Field(None, min_length=1, description="machine types to use; all of them if left out")
    train_on: TrainOn = Field("development", description="which training clips are used")


#: Objectives of the validation clips' scores: the metrics of search.evaluation.metrics, and an AUC on proxies.
ScoreObjective = Literal["auc", "pauc", "official", "worst_id", "proxy"]

#: Objectives beside a metric: a low cost of the detector (search.training.costs).
CostObjective = Literal["parameters", "latency_ms"]

#: All objectives of a study.
Objective = ScoreObjective | CostObjective


class ValidationSettings(Settings):
    """The objectives of the search, and the clips that validate trials."""

    metric: ScoreObjective | list[Objective] = Field(
        "auc",
        description="the objective; a list of several, the most important first, searches for the best trade-offs",
    )
    year: int | None = Field(
        None,
        ge=YEARS[0],
        le=YEARS[-1],
        description="for official: the year of the challenge by whose rule trials are scored; if left out, the rule of "
        "2022 where the clips' domains are known, else that of 2020",
    )
    share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of each ID's labelled clips for validation; with proxy (0.25), of its training clips",
    )
    clips: Literal["development"] | None = Field(
        None,
        description="development: instead of a share, the labelled clips of that set are for validation, and those of "
        "the evaluation set are held out",
    )
    seed: int = Field(
        0, ge=0, description="seed of the division into validation and test clips, and of the withheld clips"
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=20,
        description="cross-validation: each trial trains this number of models, each without another part of the clips",
    )
    proxies: list[str] | None = Field(
        None, min_length=1, description="for proxy: what stands for faults; chosen by the recordings if left out"
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
            raise ValueError("metric must begin with a metric of scores, such as auc: a detector has to detect faults")
        if len(set(objectives)) < len(objectives):
            raise ValueError(f"metric must name each objective once, but got {', '.join(objectives)}")
        if "proxy" in objectives and set(objectives) & {"auc", "pauc", "official", "worst_id"}:
            raise ValueError("metric proxy uses no labelled clip: it stands alone, or beside parameters and latency_ms")
        if self.uses_proxies and self.folds is not None:
            raise ValueError("folds need labelled clips, and metric proxy uses none: leave one of the two out")
        if self.uses_proxies and self.clips is not None:
            raise ValueError("clips chooses labelled clips, and metric proxy uses none: leave one of the two out")
        if self.proxies is not None and not self.uses_proxies:
            raise ValueError("proxies are for metric: proxy")
        if self.year is not None and "official" not in objectives:
            raise ValueError("year is for metric: official")
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives, the most important first."""
        return tuple(self.metric) if isinstance(self.metric, list) else (self.metric,)

    @property
    def uses_proxies(self) -> bool:
        """Whether proxies validate trials, in place of labelled clips."""
        return "proxy" in self.objectives

    @property
    def holds_out_training_clips(self) -> bool:
        """Whether some training clips validate a trial's models, which then do not train on them."""
        return self.folds is not None or self.uses_proxies


class Origin(Settings):
    """The trial that a recipe was exported from, or those of the members of an ensemble."""

    study: str
    trial: int | None = Field(None, description="its number")
    trials: list[int] | None = Field(None, min_length=2, description="the trials of an ensemble's members, best first")

    @model_validator(mode="after")
    def _of_one_or_of_several(self) -> Origin:
        if (self.trial is None) == (self.trials is None):
            raise ValueError("names either a trial or the trials of an ensemble")
        return self

    @property
    def in_words(self) -> str:
        """Names the trials: trial 7, or trials 3, 7 and 12."""
        return f"trial {self.trial}" if self.trials is None else trials_in_words(self.trials)


def trials_in_words(numbers: Sequence[int]) -> str:
    """Name several trials: trials 3, 7 and 12."""
    *others, last = map(str, numbers)
    return f"trials {', '.join(others)} and {last}"


#: Blocks that a study and the members of an ensemble have.
SHARED_BLOCKS = ("features", "training", "scoring")

#: Settings that an ensemble has once: its members are trained on the same clips, and there is one decision.
OF_THE_WHOLE: Mapping[str, tuple[str, ...]] = {
    "features": (),
    "training": ("calibration_share", "threads"),
    "scoring": ("calibration", "threshold", "false_alarm_rate"),
}

#: Settings without effect for a family that trains no network.
TRAINED_ONLY = ("learning_rate", "batch_size", "epochs", "precision")


class Recipe(Settings):
    """All settings that one training needs."""

    model_config = ConfigDict(populate_by_name=True)

    study: str = Field(pattern=NAME, max_length=200)
    corpus: CorpusSettings = CorpusSettings()
    features: FeatureSettings = FeatureSettings()
    cleaning: CleaningSettings = CleaningSettings()
    model: AnyFamily
    training: TrainingSettings = TrainingSettings()
    scoring: ScoringSettings = ScoringSettings()
    machine_types: MachineTypes = None
    validation: ValidationSettings = ValidationSettings()
    from_: Origin | None = Field(None, alias="from", description="the trial that this recipe was exported from")

    @model_validator(mode="before")
    @classmethod
    def _members_leave_out_what_the_recipe_says(cls, tree: Any) -> Any:
        members = members_of(tree)
        return tree | {"model": tree["model"] | {"members": _completed(members, tree)}} if members else tree

    @model_validator(mode="before")
    @classmethod
    def _exported_without_precision_is_float32(cls, tree: Any) -> Any:
        """A trial that trained a network exports its precision, unless its Offkey had float32 alone.

        This runs before the validator above, whose members inherit the precision.
        """
        if not isinstance(tree, dict) or tree.get("from") is None or not isinstance(tree.get("training", {}), dict):
            return tree
        return tree | {"training": {"precision": "float32", **tree.get("training", {})}}

    @property
    def member(self) -> Member:
        """The recipe without its recordings."""
        return Member.model_construct(
            features=self.features,
            model=self.model,
            training=self.training,
            scoring=self.scoring,
            machine_types=self.machine_types,
        )

    @property
    def ensemble(self) -> Mapping[str, Member]:
        """The members of an ensemble by name; empty for any other recipe."""
        return members_in(self.model)

    @property
    def members(self) -> list[Member]:
        """The members of an ensemble; of any other recipe, the recipe itself as one member."""
        return list(self.ensemble.values()) or [self.member]

    @property
    def epochs(self) -> int:
        """The number of passes over the training clips; 1 if there is no network to train."""
        return max((member.training.epochs for member in self.members if member.model.is_trained), default=1)

    def tree(self) -> dict[str, Any]:
        """Return the recipe as plain values, in the order of the schema, without null and without idle settings.

        Settings that have no idle value (`NEVER_IDLE`) are also left out at their default. So are settings that machine
        types replace.
        """
        tree = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        _drop(tree["model"], _changing_nothing(self.model, self))
        _drop(tree["scoring"], _changing_nothing(self.scoring, self))
        _drop_beside_machine_types(tree, self, inherited=self.scoring)
        written = tree["model"].get("members", {})
        for name, member in self.ensemble.items():
            _drop(written[name]["model"], _changing_nothing(member.model, member))
            # With null values: if one were left out, the member would inherit the study's value.
            written[name]["features"] = member.features.model_dump(mode="json")
            for block, keys in OF_THE_WHOLE.items():
                _drop(written[name][block], keys)
            _drop_beside_machine_types(written[name], member, inherited=self.scoring)
            if not member.model.is_trained:
                _drop(written[name]["training"], TRAINED_ONLY)
        if not self.model.is_trained:
            _drop(tree["training"], TRAINED_ONLY)
        return tree


def members_of(tree: Any) -> dict[str, dict[str, Any]]:
    """Return the members of the ensemble in a tree; empty if the tree has none, or none of the right form."""
    model = tree.get("model") if isinstance(tree, dict) else None
    members = model.get("members") if isinstance(model, dict) else None
    if not isinstance(members, dict) or not all(isinstance(member, dict) for member in members.values()):
        return {}
    if any(not isinstance(member.get(block) or {}, dict) for member in members.values() for block in SHARED_BLOCKS):
        return {}
    return members


def _completed(members: dict[str, dict[str, Any]], tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the members with the settings that they inherit.

    They do not inherit the seed: it would replace the seed of a trial's repeat.
    """
    shared = {block: dict(tree[block]) for block in SHARED_BLOCKS if isinstance(tree.get(block), dict)}
    for block, settings in shared.items():
        _drop(settings, (*OF_THE_WHOLE[block], "seed"))
    return {
        name: member | {block: {**settings, **(member.get(block) or {})} for block, settings in shared.items()}
        for name, member in members.items()
    }


def _changing_nothing(settings: Settings, whole: Recipe | Member) -> frozenset[str]:
    """The settings without effect or at their default, which are not written. Machine types may inherit the former."""
    without = settings.changing_nothing
    return without if whole.machine_types is None else without & _scoring_at_default(settings)


def _drop_beside_machine_types(tree: dict[str, Any], whole: Recipe | Member, *, inherited: ScoringSettings) -> None:
    """Drop settings of scoring that have their default beside `machine_types`: they would look as if they counted.

    `inherited` are those that would take the place of `scoring:`.
    """
    if whole.machine_types is None:
        return
    _drop(tree["model"], _scoring_at_default(whole.model))
    _drop(tree["scoring"], _scoring_at_default(whole.scoring) & _scoring_at_default(inherited))
    tree["machine_types"] = {
        machine: {block: own for block, own in blocks.items() if own}
        for machine, blocks in tree["machine_types"].items()
    }


def _scoring_at_default(settings: Settings) -> set[str]:
    fields = type(settings).model_fields
    own = {name for name in settings.scoring_alone() if name in fields}
    return {name for name in own if getattr(settings, name) == fields[name].default}


def _drop(settings: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        settings.pop(key, None)
