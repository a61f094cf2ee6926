"""An ensemble: several models, each with features and a training of its own, whose calibrated scores are combined.

scores : (clips,) float64, higher is more anomalous.

Each member's scores are brought to the scale of normal clips of the same machine ID (models.scoring.calibration) before
they meet. These are withheld ones; where an ID has fewer than ten, all of the training set's:

    mean      of the members
    min, max  the least and the most alarmed one: all must agree, or one suffices
    rank      mean of the ranks that normal clips would have, within (0, 1): larger scores do not count more
    weights   mean, each member by its `weight`

A mean follows the member that shouts: a score of 40 standard deviations outweighs four members at 2. `squash` brings
large scores closer together before the mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator
from torch import nn

from features.settings import Effects
from models.labels import Labels
from models.member import NAME, EnsembleSettings, Member, members_in
from models.recordings import Recordings
from models.scoring.calibration import Calibration
from models.scoring.combination import Combine, combined
from models.scoring.scorer import Calibrated, Scorer, Single
from models.scoring.scores import Scores


class FusionMember(Member):
    """A member of an ensemble."""

    weight: float = Field(1.0, ge=0, description="combine: weights: how much it counts")

    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {"weight": (0.25, 0.5, 1.0, 2.0, 4.0)}


class Settings(EnsembleSettings):
    """Members by name; what a member leaves out of its features, training and scoring is as in the study."""

    family: Literal["fusion"] = "fusion"
    combine: Combine = Field("mean", description="how scores become one")
    calibrate: Literal["z", "empirical"] = Field(
        "z", description="how members come to one scale, on the normal clips of the training set; rank: empirical"
    )
    squash: bool = Field(
        False,
        description="mean, weights: each score z becomes sign(z)·log(1 + |z|), so that no member outshouts others",
    )
    members: Mapping[str, FusionMember] = Field(description="models by name, two at least")

    ONLY_BESIDE: ClassVar[Effects] = {
        "calibrate": {"combine": ["mean", "min", "max", "weights"]},
        "squash": {"combine": ["mean", "weights"]},
        "weight": {"combine": ["weights"]},  # of each member
    }
    SCORING_ONLY: ClassVar[Mapping[str, Sequence[object]]] = {"combine": (), "calibrate": (), "squash": ()}

    @property
    def ensemble(self) -> Mapping[str, Member]:
        return self.members

    def with_ensemble(self, members: Mapping[str, Member]) -> Settings:
        return self.model_copy(update={"members": members})

    def repeated(self, times: int) -> Settings:
        """Members with seeds of their own count them up."""
        members = {
            name: member.model_copy(
                update={"training": member.training.model_copy(update={"seed": member.training.seed + times})}
            )
            if member.training.seed is not None
            else member
            for name, member in self.members.items()
        }
        return self.with_ensemble(members)

    @property
    def is_trained(self) -> bool:
        return any(member.model.is_trained for member in self.members.values())

    @field_validator("per_id")
    @classmethod
    def _members_are_per_id(cls, per_id: bool) -> bool:
        if per_id:
            raise ValueError("is for members, each by its own: set it in their `model:`")
        return per_id

    @field_validator("unknown_id")
    @classmethod
    def _members_know_ids(cls, unknown_id: str) -> str:
        if unknown_id != "error":
            raise ValueError("is for members, each by its own: set it in their `model:`")
        return unknown_id

    @field_validator("members")
    @classmethod
    def _members_are_models_with_names(cls, members: Mapping[str, FusionMember]) -> Mapping[str, FusionMember]:
        if len(members) < 2:
            raise ValueError(f"an ensemble has two members at least, but got {len(members)}")
        for name, member in members.items():
            if not re.fullmatch(NAME, name):
                raise ValueError(f"a member's name is of letters, digits, _, + and -, but got {name!r}")
            if members_in(member.model):
                raise ValueError(f"{name} is an ensemble itself: name its members here instead")
        return members

    @model_validator(mode="after")
    def _one_member_counts(self) -> Settings:
        if self.combine == "weights" and not any(member.weight for member in self.members.values()):
            raise ValueError("at least one member's weight must be above 0")
        return self

    def require(self, labels: Labels, judged: Collection[str]) -> None:
        for member in self.members.values():
            member.require(labels, judged)


class Fusion(Scorer):
    """Combines its members' scores."""

    def __init__(self, settings: Settings, labels: Labels, scorers: Iterable[Scorer]) -> None:
        """`scorers`: of the members, in their order."""
        super().__init__()
        self.settings = settings
        kind = "empirical" if settings.combine == "rank" else settings.calibrate
        self.members = nn.ModuleList(
            Calibrated(scorer, labels, Calibration(kind), is_member=True) for scorer in scorers
        )

    def singles(self) -> Iterator[Single]:
        for member in self._members():
            yield from member.singles()

    def single_of(self, name: str) -> Single:
        return next(self._members()).single_of(name)

    @property
    def shares_unknown_ids(self) -> bool:
        return any(member.shares_unknown_ids for member in self._members())

    @property
    def scores_unknown_ids(self) -> bool:
        return all(member.scores_unknown_ids for member in self._members())

    def fit(self, train: Recordings, withheld: Recordings) -> None:
        for member in self._members():
            member.fit(train, withheld)

    def scores_of(self, recordings: Recordings) -> Scores:
        scores = np.stack([member.scores_of(recordings) for member in self._members()])  # (members, clips)
        settings = self.settings
        weights = [member.weight for member in settings.members.values()]
        return combined(scores, settings.combine, weights=weights, squash=settings.squash)

    def _members(self) -> Iterator[Calibrated]:
        for member in self.members:
            assert isinstance(member, Calibrated)
            yield member
