"""A network that classifies healthy machines; a clip that it does not recognise is anomalous.

    crops (batch, 1, bins, frames), scaled to [0, 1]
      → backbone → dense: embedding (batch, embedding_dim)
      [→ network on their mean spectrum → dense, behind it: (batch, 2 · embedding_dim)]
      → head: logits (batch, classes)

`classes` says what a class is:

    ids             machine IDs: Giri et al., "Self-Supervised Classification for Detecting Anomalous Sounds" (2020)
    attributes      machine IDs together with a clip's attributes: speed, load and so on
    augmentations   machine IDs together with the crop's transformation (models.layers.augmentations): use these where
                    there is a single machine ID

In scoring a clip's ID is known, and the score says how badly the clip fits its class. Its attributes need not be known:
for every clip, the best class of its ID counts. All augmentations of a crop are scored, and their scores averaged.

A score is one of these, or a density of the embeddings' directions. p is the probability of the class:

    log_odds   log(1 - p) - log p from the logits, without p: a difference between two clips does not get lost where p
               comes close to 1. The mean over crops is the score of the DCASE 2021 Task 2 baseline
    softmax    1 - p, as in the DCASE 2020 student entry: it orders crops like log_odds, but their mean differs
    cosine     1 - cos of the angle between the embedding and the nearest centre of the class
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional

from features.errors import UnservedError
from features.settings import Effects
from features.windows.excerpts import Batch
from models.anomaly_model import AnomalyModel
from models.labels import Labels
from models.layers.augmentations import TRANSFORMATIONS, transformed
from models.layers.backbones import (
    SMALL,
    SmallResNet,
    SpectrumNetwork,
    TimmNetwork,
    backbone_of,
    require_backbone,
    require_weights,
    settle_quickly,
)
from models.layers.margins import AdaCos, ArcFace, CrossEntropy, Head, Targets
from models.layers.scale import Scale
from models.settings import CropSettings, DensitySettings, FamilySettings

_ADACOS = ("adacos", "subcluster_adacos")


class Settings(CropSettings, DensitySettings):
    """A classifier of machine IDs, attributes or augmentations on crops."""

    family: Literal["classifier"] = "classifier"
    frames: Annotated[int, Field(ge=1)] | Literal["square"] = Field(
        64, description="frames in one crop; square: as many as a frame has bins"
    )
    classes: Literal["ids", "attributes", "augmentations"] = Field("ids", description="what is classified")
    backbone: str = Field(SMALL, description="small, or any network of timm's by name: resnet50, mobilenetv2_100, …")
    pretrained: bool = Field(False, description="begin with timm's published weights; small has none")
    embedding_dim: int = Field(128, ge=1, description="values of the embedding; of each branch, if there are two")
    spectrum: bool = Field(False, description="a second branch, on the mean spectrum of a crop")
    loss: Literal["cross_entropy", "arcface", "adacos", "subcluster_adacos"] = Field(
        "cross_entropy", description="of classes by their logits, or by angles from their centres"
    )
    margin: float = Field(0.5, ge=0, le=1.5, description="arcface: added to the angle of the right class, in radians")
    logit_scale: float = Field(30.0, gt=0, le=1000, description="arcface: of cosines")
    adacos_scale: Literal["fixed", "dynamic"] = Field(
        "dynamic", description="adacos: of cosines, by the number of centres or by how training goes"
    )
    subclusters: int = Field(16, ge=1, description="subcluster_adacos: centres of each class")
    mixup: float = Field(
        0.0, ge=0, le=10, description="crops are mixed in pairs, by a share of Beta(mixup, mixup); 0: not at all"
    )
    score: Literal["log_odds", "softmax", "cosine", "mahalanobis", "gmm", "knn", "lof", "ocsvm", "exposure"] = Field(
        "log_odds", description="how badly a crop fits its class, or a density of its clip's embedding"
    )

    ONLY_BESIDE: ClassVar[Effects] = {
        "margin": {"loss": ["arcface"]},
        "logit_scale": {"loss": ["arcface"]},
        "adacos_scale": {"loss": _ADACOS},
        "subclusters": {"loss": ["subcluster_adacos"]},
    }

    @field_validator("backbone")
    @classmethod
    def _backbone_exists(cls, name: str) -> str:
        require_backbone(name)
        return name

    @model_validator(mode="after")
    def _weights_exist(self) -> Settings:
        if self.pretrained and self.backbone != SMALL:
            require_weights(self.backbone)
        return self

    @property
    def to_be_loaded(self) -> Settings:
        return self.model_copy(update={"pretrained": False})  # the saved weights replace timm's: none is downloaded

    @property
    def knows_ids(self) -> bool:
        return True

    @property
    def fewest_in_batch(self) -> int:
        return 2

    @property
    def versions(self) -> int:
        """The number of transformations of each crop that are classified."""
        return len(TRANSFORMATIONS) if self.classes == "augmentations" else 1

    def class_ids(self, labels: Labels) -> list[int]:
        """The machine ID of each class."""
        if self.classes == "attributes":
            return [labels.id_index(name) for name, _ in labels.attributes]
        return [index for index in range(len(labels.ids)) for _ in range(self.versions)]

    def require(self, labels: Labels, judged: Collection[str]) -> None:
        super().require(labels, judged)
        if self.classes == "attributes" and len(labels.attributes) == len(labels.ids) > 1:
            raise UnservedError(
                "model.classes: attributes takes a machine ID with several, but the training clips have none that "
                "differ (DCASE's names have them from 2021 on). Set model.classes: ids or model.classes: augmentations"
            )
        for part in [labels.of_id(name) for name in labels.ids] if self.per_id else [labels]:
            if len(self.class_ids(part)) < 2:
                raise UnservedError(
                    f"model.classes: {self.classes} takes two classes at least, but {part.ids[0]} is the only one"
                    f"{' of its model' if self.per_id else ''}. {self._remedy(labels, part)}"
                )

    def _remedy(self, labels: Labels, part: Labels) -> str:
        remedies = ["model.classes: attributes"] if len(part.attributes) > 1 else []
        remedies.append("model.classes: augmentations")
        if self.per_id and len(labels.ids) > 1:
            remedies.append("model.per_id: false")
        return f"Set {' or '.join(remedies)}, or train on more machine IDs (corpus.machines, corpus.train_on)"


class Model(AnomalyModel):
    """Classifies crops of healthy sound; a crop that it takes for another machine, or is unsure about, is anomalous."""

    own: Tensor  # (ids, versions, classes) bool: the classes that a crop of an ID may be of

    def __init__(self, settings: Settings, scale: Scale, labels: Labels) -> None:
        super().__init__()
        self.settings = settings
        self.scale = scale
        frames = settings.excerpt_frames(scale.bins)
        networks: list[SmallResNet | TimmNetwork | SpectrumNetwork] = [
            backbone_of(settings.backbone, bins=scale.bins, frames=frames, is_pretrained=settings.pretrained)
        ]
        if settings.spectrum:
            networks.append(SpectrumNetwork(scale.bins))
        dim = settings.embedding_dim
        self.branches = nn.ModuleList(
            nn.Sequential(network, nn.Linear(network.feature_count, dim)) for network in networks
        )
        class_ids = torch.tensor(settings.class_ids(labels))
        settle_quickly(self.branches)
        self.head = _head(settings, dim * len(networks), len(class_ids))
        of_id = class_ids == torch.arange(len(labels.ids))[:, None]
        of_version = torch.arange(len(class_ids)) % settings.versions == torch.arange(settings.versions)[:, None]
        self.register_buffer("own", of_id[:, None] & of_version, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        """The head's loss. Features are normalised over the batch in training: it needs at least two crops.

        Each crop is augmented in one way, drawn anew in each epoch; random numbers are the CPU's on every device.
        """
        crops, labels = self.scale(batch.inputs), self._labels(batch)
        if self.settings.versions > 1:
            which = torch.randint(self.settings.versions, (len(crops),)).to(crops.device)
            crops, labels = transformed(crops, which), labels * self.settings.versions + which
        targets: Targets = [(1.0, labels)]
        if self.settings.mixup > 0:
            share = float(Beta(self.settings.mixup, self.settings.mixup).sample())
            partners = torch.randperm(len(crops)).to(crops.device)
            crops = share * crops + (1 - share) * crops[partners]
            targets = [(share, labels), (1 - share, labels[partners])]
        embeddings = self._embedding(crops)
        with torch.autocast(embeddings.device.type, enabled=False):  # in bfloat16, a cosine near 1 has two digits
            loss: Tensor = self.head(embeddings, targets)
        return loss

    def score(self, batch: Batch) -> Tensor:
        """How badly each crop fits its class, (batch,), by `score`; log-odds where `score` names a density."""
        crops, own = self.scale(batch.inputs), self.own[batch.known_ids]
        transformations = TRANSFORMATIONS[: self.settings.versions]
        scores = [self._scores(transform(crops), own[:, version]) for version, transform in enumerate(transformations)]
        return torch.stack(scores).mean(dim=0)

    def scoring_by(self, settings: FamilySettings) -> Self:
        other = copy.copy(self)
        assert isinstance(settings, Settings)
        other.settings = settings
        return other

    def embed(self, batch: Batch) -> Tensor:
        """The embeddings' directions, of unit length, (batch, embedding_dim), twice as many with `spectrum`."""
        return functional.normalize(self._embedding(self.scale(batch.inputs)))

    def _scores(self, crops: Tensor, own: Tensor) -> Tensor:
        """The scores of crops; `own` (batch, classes) bool says which classes each crop may have."""
        embeddings = self._embedding(crops)
        if self.settings.score == "cosine":
            return 1 - self.head.cosines(embeddings).masked_fill(~own, -torch.inf).amax(dim=1)
        logits = self.head.logits(embeddings)
        odds = log_odds(logits, logits.masked_fill(~own, -torch.inf).argmax(dim=1))
        return odds.sigmoid() if self.settings.score == "softmax" else odds

    def _labels(self, batch: Batch) -> Tensor:
        """The labels of a batch, (batch,) int64: indices of IDs, or of attributes."""
        if self.settings.classes != "attributes":
            return batch.known_ids
        if batch.attributes is None:
            raise ValueError("a model that learns attributes was given a batch without them")
        return batch.attributes

    def _embedding(self, crops: Tensor) -> Tensor:
        return torch.cat([branch(crops) for branch in self.branches], dim=1).float()


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """log(1 - p) - log p, p being the softmax of each row at its class; (batch, classes), (batch,) int64 → (batch,)."""
    at = classes[:, None]
    return logits.scatter(1, at, -torch.inf).logsumexp(dim=1) - logits.gather(1, at)[:, 0]


def _head(settings: Settings, dim: int, classes: int) -> Head:
    if settings.loss == "cross_entropy":
        return CrossEntropy(dim, classes)
    if settings.loss == "arcface":
        return ArcFace(dim, classes, margin=settings.margin, scale=settings.logit_scale)
    subclusters = settings.subclusters if settings.loss == "subcluster_adacos" else 1
    return AdaCos(dim, classes, subclusters=subclusters, is_dynamic=settings.adacos_scale == "dynamic")
