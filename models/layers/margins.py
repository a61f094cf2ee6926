"""Heads on a classifier's embedding: logits, and losses that demand a margin between classes.

embeddings : (batch, dim) float32, of any length unless the class says otherwise
targets    : pairs of a share and labels (batch,) int64, the shares of each row adding up to 1: one pair, or the two
             that mixup has mixed. A loss is the mean over rows of the losses of their labels, by these shares
logits     : (batch, classes), without any margin: what a class has in scoring
cosines    : (batch, classes), of the embedding and the nearest centre of each class

    cross_entropy       logits by a dense layer, whose rows are the centres
    arcface             s·cos θ, and s·cos(θ + m) for the label in training: Deng et al., "ArcFace: Additive Angular
                        Margin Loss for Deep Face Recognition" (2019)
    adacos              s·cos θ, s by the number of classes or by how training goes: Zhang et al., "AdaCos: Adaptively
                        Scaling Cosine Logits for Effectively Learning Deep Face Representations" (2019)
    subcluster_adacos   the same with several centres for each class, whose probabilities are added: Wilkinghoff,
                        "Sub-Cluster AdaCos: Learning Representations for Anomalous Sound Detection" (2021)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Targets = Sequence[tuple[float, Tensor]]

#: The least value of 1 - cos²θ: at 0 the slope of its root is infinite.
_LEAST_SQUARED_SINE = 1e-7

#: The range of AdaCos's scale. The least is its scale for three classes: for two it is 0, and nothing would be learnt.
#: The most is ArcFace's: embeddings that collapse on a wrong centre would raise it at each step without limit.
_LEAST_SCALE, _MOST_SCALE = math.sqrt(2) * math.log(2), 64.0


class Head(nn.Module, ABC):
    """Turns embeddings into classes."""

    def forward(self, embeddings: Tensor, targets: Targets) -> Tensor:
        """The loss, a scalar."""
        parts = [share * self.losses(embeddings, labels).mean() for share, labels in targets]
        return torch.stack(parts).sum()

    @abstractmethod
    def losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row with its label, (batch,)."""

    @abstractmethod
    def logits(self, embeddings: Tensor) -> Tensor:
        """(batch, classes)."""

    @abstractmethod
    def cosines(self, embeddings: Tensor) -> Tensor:
        """(batch, classes)."""


class CrossEntropy(Head):
    """A dense layer and a softmax."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, classes)

    def losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(embeddings), labels, reduction="none")

    def logits(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.dense(embeddings)
        return logits

    def cosines(self, embeddings: Tensor) -> Tensor:
        return functional.linear(functional.normalize(embeddings), functional.normalize(self.dense.weight))


class ArcFace(Head):
    """One centre for each class; training adds `margin` (radians) to the angle of the label."""

    def __init__(self, dim: int, classes: int, *, margin: float, scale: float) -> None:
        super().__init__()
        self.centres = _centres(classes, dim)
        self.margin = margin
        self.scale = scale

    def losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosines = self.cosines(embeddings)
        at = labels[:, None]
        return functional.cross_entropy(
            self.scale * cosines.scatter(1, at, self._with_margin(cosines.gather(1, at))), labels, reduction="none"
        )

    def logits(self, embeddings: Tensor) -> Tensor:
        return self.scale * self.cosines(embeddings)

    def cosines(self, embeddings: Tensor) -> Tensor:
        return functional.linear(functional.normalize(embeddings), functional.normalize(self.centres))

    def _with_margin(self, cosines: Tensor) -> Tensor:
        """cos(θ + m) by the sum of angles: the slope of the arc cosine is infinite where θ is 0 or π."""
        sines = (1 - cosines.square()).clamp_min(_LEAST_SQUARED_SINE).sqrt()
        shifted = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        # Where θ + m exceeds π the cosine would rise again: a line replaces it, as in the authors' code.
        return torch.where(cosines > -math.cos(self.margin), shifted, cosines - self.margin * math.sin(self.margin))


class AdaCos(Head):
    """`subclusters` centres for each class, and a scale that nobody has to choose.

    The fixed scale is √2·log(n - 1), where n is the number of centres. The dynamic scale starts there, and each step of
    training sets it to log(B) / cos(min(π/4, θ)). B is the sum of exp(s·cos) over all centres of other classes, mean
    over the batch; θ is the angle between a row and the nearest centre of its own class, median over the batch. A row
    that mixup has mixed belongs to both of its classes, and its θ is the mean of their angles by their shares.
    """

    logit_scale: Tensor  # ()

    def __init__(self, dim: int, classes: int, *, subclusters: int, is_dynamic: bool) -> None:
        super().__init__()
        # Subclusters have an axis of their own, so that no centre can be taken for another class's.
        self.centres = _centres(classes, subclusters, dim)
        self.is_dynamic = is_dynamic
        fixed = math.sqrt(2) * math.log(max(classes * subclusters - 1, 1))
        self.register_buffer("logit_scale", torch.tensor(fixed).clamp(_LEAST_SCALE, _MOST_SCALE))

    def forward(self, embeddings: Tensor, targets: Targets) -> Tensor:
        if self.is_dynamic and self.training:
            self._adapt(embeddings, targets)
        return super().forward(embeddings, targets)

    def losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(embeddings), labels, reduction="none")

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logarithms of the sums of exp(s·cos) over the centres of each class."""
        return (self.logit_scale * self._all_cosines(embeddings)).logsumexp(dim=2)

    def cosines(self, embeddings: Tensor) -> Tensor:
        return self._all_cosines(embeddings).amax(dim=2)

    def _all_cosines(self, embeddings: Tensor) -> Tensor:
        """(batch, classes, subclusters)."""
        flat = functional.linear(
            functional.normalize(embeddings), functional.normalize(self.centres.flatten(0, 1), dim=1)
        )
        return flat.view(-1, *self.centres.shape[:2])

    @torch.no_grad()
    def _adapt(self, embeddings: Tensor, targets: Targets) -> None:
        logits = self.logits(embeddings)
        angles = self.cosines(embeddings).clamp(-1, 1).acos()
        own_angles = torch.zeros_like(logits[:, 0])
        for share, labels in targets:
            logits = logits.scatter(1, labels[:, None], -math.inf)
            own_angles = own_angles + share * angles.gather(1, labels[:, None])[:, 0]
        mean_of_others = logits.flatten().logsumexp(dim=0) - math.log(len(logits))
        cosine = own_angles.median().clamp_max(math.pi / 4).cos()
        self.logit_scale.copy_((mean_of_others / cosine).clamp(_LEAST_SCALE, _MOST_SCALE))


def _centres(*shape: int) -> nn.Parameter:
    """Random centres of about unit length: the shorter a centre is, the further a step turns it."""
    return nn.Parameter(torch.randn(shape) / math.sqrt(shape[-1]))
