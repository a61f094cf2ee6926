"""All settings of one model: a recipe without its recordings, or a member of an ensemble."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from features.frames.feature_settings import FeatureSettings
from features.settings import Settings
from models.families import settings_from
from models.settings import FamilySettings, ScoringSettings, TrainingSettings

#: The names that a member, or a branch of a study, may have: parameters and `--set` put them between dots.
NAME = r"[A-Za-z0-9][A-Za-z0-9_+-]*"

#: A `model:` block of any family.
AnyFamily = Annotated[SerializeAsAny[FamilySettings], BeforeValidator(settings_from)]


class Member(Settings):
    """The features, the model, the training and the scoring of one model."""

    features: FeatureSettings = FeatureSettings()
    model: AnyFamily
    training: TrainingSettings = TrainingSettings()
    scoring: ScoringSettings = ScoringSettings()


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
