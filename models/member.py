"""All settings of one model: a recipe without its recordings, or a member of an ensemble."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, ValidationError, ValidationInfo

from features.clips.machine_id import MachineId
from features.errors import UnservedError
from features.frames.feature_settings import FeatureSettings
from features.settings import Settings
from models.families import settings_from
from models.labels import Labels
from models.settings import FamilySettings, ScoringSettings, TrainingSettings

#: The names that a member, or a branch of a study, may have: parameters and `--set` put them between dots.
NAME = r"[A-Za-z0-9][A-Za-z0-9_+-]*"

#: A `model:` block of any family.
AnyFamily = Annotated[SerializeAsAny[FamilySettings], BeforeValidator(settings_from)]


#: Why a setting cannot be one of a machine type.
SHARED_TRAINING = "changes the training, which all machine types share: set it beside `machine_types`"


class OfMachineType(Settings):
    """What scores the clips of one machine type: settings that change no training."""

    model: Mapping[str, Any] = Field({}, description="settings that replace those of `model:`")
    scoring: Mapping[str, Any] = Field({}, description="settings that replace those of `scoring:`")


def _require_one_training(machine_types: Mapping[str, OfMachineType] | None, info: ValidationInfo) -> Any:
    """Raises ValueError unless machine types differ in settings of scoring alone."""
    if machine_types is not None and not machine_types:
        raise ValueError("must name each machine type whose clips are scored, but names none: leave it out")
    if machine_types is None or "model" not in info.data or "scoring" not in info.data:
        return machine_types  # the other blocks are wrong themselves
    member = Member.model_construct(model=info.data["model"], scoring=info.data["scoring"])
    for machine, own in machine_types.items():
        for block in ("model", "scoring"):
            for setting in changing_the_training(getattr(own, block), getattr(member, block)):
                raise ValueError(f"{machine}.{block}.{setting} {SHARED_TRAINING}")
        try:
            _scored_by(member, own)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise ValueError(f"{machine}: {place} {problem['msg'].removeprefix('Value error, ')}") from error
    return machine_types


#: Machine type → what scores its clips.
MachineTypes = Annotated[
    Mapping[str, OfMachineType] | None,
    AfterValidator(_require_one_training),
    Field(
        description="by machine type, settings that replace those of `model:` and `scoring:` where its clips are "
        "scored; clips of other machine types get no score",
    ),
]


class Member(Settings):
    """The features, the model, the training and the scoring of one model."""

    features: FeatureSettings = FeatureSettings()
    model: AnyFamily
    training: TrainingSettings = TrainingSettings()
    scoring: ScoringSettings = ScoringSettings()
    machine_types: MachineTypes = None

    @property
    def of_machine_types(self) -> dict[str, Member]:
        """Machine type → the model as it scores clips of that type; empty if it scores all in one way."""
        return {machine: _scored_by(self, own) for machine, own in (self.machine_types or {}).items()}

    @property
    def scored_by(self) -> list[Member]:
        """The model in each way in which it scores clips: itself, or that of each machine type."""
        return list(self.of_machine_types.values()) or [self]

    def require(self, labels: Labels, judged: Collection[str]) -> None:
        """Raises UnservedError unless it can learn from these labels and score clips of these machine IDs."""
        of_types = self.of_machine_types
        if not of_types:
            self.model.require(labels, judged)
            return
        for name in sorted({*labels.ids, *judged}):
            require_named(self, name)
        for machine, member in of_types.items():
            member.model.require(labels, [name for name in judged if MachineId.parse(name).machine == machine])


class EnsembleSettings(FamilySettings):
    """A family of several models, each with features and a training of its own."""

    @property
    @abstractmethod
    def ensemble(self) -> Mapping[str, Member]:
        """Members by name."""

    @abstractmethod
    def with_ensemble(self, members: Mapping[str, Member]) -> EnsembleSettings:
        """The same ensemble of other members, whose names stay."""


def members_in(model: FamilySettings) -> Mapping[str, Member]:
    """The members of an ensemble by name; empty for any other family."""
    return model.ensemble if isinstance(model, EnsembleSettings) else {}


def require_named(member: Member, name: str) -> None:
    """Raises UnservedError unless a model says how clips of this machine ID (machine/ID) are scored."""
    machine_types = member.machine_types or {}
    if MachineId.parse(name).machine not in machine_types:
        raise UnservedError(
            f"{member.model.family} cannot score {name}: `machine_types` does not name its machine type, but "
            f"{', '.join(machine_types)}"
        )


def changing_the_training(own: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Yields the names of those settings of a machine type that change a training."""
    for key, value in own.items():
        inner = getattr(settings, key, None)
        if isinstance(value, Mapping) and isinstance(inner, Settings):
            yield from (f"{key}.{name}" for name in changing_the_training(value, inner))
        elif isinstance(value, Mapping) and isinstance(inner, Mapping):  # members by name
            for name in value.keys() & inner.keys():
                yield from (f"{key}.{name}.{below}" for below in changing_the_training(value[name], inner[name]))
        elif key in type(settings).model_fields and key not in settings.scoring_alone():
            yield key


def over(block: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A block of settings with others in their place, also in the blocks within."""
    merged = dict(block)
    for key, value in own.items():
        is_block = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = over(merged[key], value) if is_block else value
    return merged


def _scored_by(member: Member, own: OfMachineType) -> Member:
    blocks: dict[str, Any] = {}
    if own.model:
        blocks["model"] = settings_from(over(member.model.model_dump(), own.model))
    if own.scoring:
        blocks["scoring"] = ScoringSettings.model_validate(over(member.scoring.model_dump(), own.scoring))
    return member.model_copy(update={"machine_types": None, **blocks})
