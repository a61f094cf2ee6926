"""From recordings to one score for each clip: a network or a density, one for each machine ID, calibrated.

scores : (clips,) float64, higher is more anomalous.

A scorer is a tree, and all that it has learnt is its state dict:

    PerMachineType         routes clips to the scorer of their machine type (models.scoring.per_machine_type)
    └─ Calibrated          on the scale of the withheld normal clips
       └─ PerId            routes clips to the scorer of their machine ID
          └─ Single        one model of a family: window scores pooled, or a density of what it embeds
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from features.errors import UnservedError
from features.frames.framing import Frames
from models.anomaly_model import AnomalyModel
from models.families import build
from models.labels import Labels
from models.member import Member
from models.recordings import Recordings
from models.scoring.calibration import Calibration, require_normals, require_withheld
from models.scoring.densities.each_id import DensityOfEachId, Ids
from models.scoring.network_pass import NetworkPass, Reading
from models.scoring.pooling import pool, quietest
from models.scoring.scores import Array, Scores
from models.settings import DensitySettings


class Scorer(nn.Module, ABC):
    """Gives each clip a score."""

    @abstractmethod
    def singles(self) -> Iterator[Single]:
        """Every model below, one for each network."""

    @abstractmethod
    def single_of(self, name: str) -> Single:
        """The model that a clip of a machine ID (machine/ID) comes to first."""

    @property
    @abstractmethod
    def shares_unknown_ids(self) -> bool:
        """Whether clips of machine IDs never trained on go to a model or density of all IDs."""

    @property
    @abstractmethod
    def scores_unknown_ids(self) -> bool:
        """Whether it can score clips of machine IDs that it was not trained on."""

    def read_in(self, passes: Sequence[NetworkPass]) -> None:
        """Lets models read recordings in passes that they share with other detectors, one for each of the networks."""
        for single, shared in zip(self.singles(), passes, strict=False):
            single.shared_pass = shared

    @abstractmethod
    def fit(self, train: Recordings, withheld: Recordings) -> None:
        """Learns from normal clips what is learnt after the networks: densities, calibrations."""

    @abstractmethod
    def scores_of(self, recordings: Recordings) -> Scores:
        """A score for each clip, (clips,). Raises UnservedError for a machine ID that it was not trained on."""


class Single(Scorer):
    """One model, and the density of its embeddings if that gives the score."""

    def __init__(self, member: Member, labels: Labels, model: AnomalyModel) -> None:
        super().__init__()
        self.member = member
        self.labels = labels
        self.model = model
        self.reading = Reading.of(member)
        self.shared_pass: NetworkPass | None = None  # with other detectors of the same network
        self.densities: DensityOfEachId | None = None
        if member.model.backend is not None:
            assert isinstance(member.model, DensitySettings)
            self.densities = DensityOfEachId(member.model, labels.ids)

    @classmethod
    def fresh(cls, member: Member, labels: Labels, limits: tuple[Frames, Frames]) -> Single:
        """One with new weights, for frames whose bins lie within limits, (bins,) twice."""
        return cls(member, labels, build(member.model, limits, labels))

    def under(self, member: Member) -> Single:
        """Another detector of the same network, by a member that differs in settings of scoring alone."""
        other = Single(member, self.labels, self.model.scoring_by(member.model))
        # The network stays a part of this detector alone: torch would save it with each.
        vars(other)["model"] = other._modules.pop("model")
        return other

    def singles(self) -> Iterator[Single]:
        yield self

    def single_of(self, name: str) -> Single:
        return self

    def fit(self, train: Recordings, withheld: Recordings) -> None:
        if self.densities is not None:
            points, ids = self._points_of(train)
            exposes = self.member.model.backend == "exposure"
            self.densities.fit(points, ids, faults=self._points_of(train.with_faults) if exposes else None)

    def scores_of(self, recordings: Recordings) -> Scores:
        unknown = recordings.first_unknown(self.labels)
        if unknown is not None and not self.scores_unknown_ids:
            raise UnservedError(
                f"{self.member.model.family} cannot score {unknown}: it was not trained on this machine ID"
            )
        if self.densities is None:
            return self._pooled_scores(recordings)
        return self.densities.scores_of(*self._points_of(recordings))

    @property
    def shares_unknown_ids(self) -> bool:
        return self.densities is not None and self.member.model.unknown_id == "shared"

    @property
    def scores_unknown_ids(self) -> bool:
        model = self.member.model
        return not model.knows_ids and (self.densities is None or model.unknown_id == "shared")

    def arithmetic(self, device: torch.device) -> AbstractContextManager[Any]:
        """For losses alone: gradients follow their types, weights stay float32, and scores are computed in float32."""
        if self.member.training.precision == "bfloat16":
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _points_of(self, recordings: Recordings) -> tuple[Array, Ids]:
        """What a density judges of each clip, (clips, dim), and the clips' machine IDs, (clips,)."""
        return self._pass().embeddings(recordings, self.reading), recordings.id_indices(self.labels)

    def _pooled_scores(self, recordings: Recordings) -> Scores:
        scores, levels, clips = self._pass().window_scores(recordings, self.reading)
        scoring = self.member.scoring
        if scoring.windows != "all":
            chosen = quietest(levels if scoring.windows == "quiet" else -levels, clips, share=scoring.windows_share)
            scores, clips = scores[chosen], clips[chosen]
        pooled = pool(
            scores,
            clips,
            clip_count=len(recordings),
            pooling=scoring.pooling,
            decay=scoring.decay,
            top_share=scoring.top_share,
        )
        return np.asarray(pooled.numpy(), dtype=np.float64)

    def _pass(self) -> NetworkPass:
        return self.shared_pass or NetworkPass(self.member, self.labels, {self.reading: self.model})


#: Makes the model of a member for some labels: a fresh one, in training; in a bundle, one whose weights are loaded.
Make = Callable[[Member, Labels], Single]


class PerId(Scorer):
    """One model for each machine ID, and perhaps one for all, to which clips of other IDs go."""

    def __init__(self, member: Member, labels: Labels, make: Make) -> None:
        super().__init__()
        self.labels = labels
        own = [make(member, labels.of_id(name)) for name in labels.ids]
        self.models = nn.ModuleList([*own, make(member, labels)] if member.model.unknown_id == "shared" else own)

    def singles(self) -> Iterator[Single]:
        for model in self.models:
            assert isinstance(model, Single)
            yield model

    def single_of(self, name: str) -> Single:
        return list(self.singles())[self.labels.id_index(name)]

    @property
    def shares_unknown_ids(self) -> bool:
        return len(self.models) > len(self.labels.ids)

    @property
    def scores_unknown_ids(self) -> bool:
        return self.shares_unknown_ids and all(single.scores_unknown_ids for single in self.singles())

    def fit(self, train: Recordings, withheld: Recordings) -> None:
        for single in self.singles():
            single.fit(train.of_ids(single.labels.ids), withheld.of_ids(single.labels.ids))

    def scores_of(self, recordings: Recordings) -> Scores:
        ids = recordings.id_indices(self.labels)
        unknown = recordings.first_unknown(self.labels)
        if unknown is not None and not self.shares_unknown_ids:
            raise UnservedError(f"{unknown} was not trained on, and has no model (model.unknown_id: shared makes one)")
        scores, singles = np.empty(len(ids)), list(self.singles())
        for index in np.unique(ids):
            members = np.flatnonzero(ids == index)
            scores[members] = singles[index].scores_of(recordings.part(members.tolist()))
        return scores


#: With this many withheld clips of each machine ID, an ensemble needs no others to bring its members to one scale.
_ENOUGH_WITHHELD = 10


class Calibrated(Scorer):
    """A scorer on the scale of withheld normal clips; where few are withheld, of those that it was trained on, too.

    Of its own clips a model says less than of others, and a density nothing at all: they are a makeshift, for members
    of ensembles alone.
    """

    def __init__(self, scorer: Scorer, labels: Labels, calibration: Calibration, *, is_member: bool = False) -> None:
        super().__init__()
        self.scorer = scorer
        self.labels = labels
        self.calibration = calibration
        self.is_member = is_member

    def singles(self) -> Iterator[Single]:
        return self.scorer.singles()

    def single_of(self, name: str) -> Single:
        return self.scorer.single_of(name)

    @property
    def shares_unknown_ids(self) -> bool:
        return self.scorer.shares_unknown_ids

    @property
    def scores_unknown_ids(self) -> bool:
        return self.scorer.scores_unknown_ids

    def fit(self, train: Recordings, withheld: Recordings) -> None:
        self.scorer.fit(train, withheld)
        self.calibrate(train, withheld)

    def calibrate(self, train: Recordings, withheld: Recordings) -> None:
        """Learns the scale of a scorer that has learnt the rest."""
        parts = [withheld]
        if self.is_member:
            fewest = min(withheld.ids.count(name) for name in self.labels.ids)
            parts = [part for part in (train, withheld) if len(part)] if fewest < _ENOUGH_WITHHELD else parts
        if self.is_member:
            require_normals([name for part in parts for name in part.ids], self.labels)
        else:
            require_withheld(withheld.ids, train.ids, self.labels)
        if self.shares_unknown_ids and self.scores_unknown_ids:  # and scores them in another way
            parts += [part.anonymous for part in parts]
        self.calibration.fit(
            np.concatenate([self.scorer.scores_of(part) for part in parts]),
            np.concatenate([part.id_indices(self.labels) for part in parts]),
        )

    def scores_of(self, recordings: Recordings) -> Scores:
        return self.calibration.calibrated(self.scorer.scores_of(recordings), recordings.id_indices(self.labels))
