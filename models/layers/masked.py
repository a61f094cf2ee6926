"""Networks that predict each value of a window from some of the others, and the densities that they predict.

    values    (batch, D), D = groups · size: each group is that many values in a row, predicted at once
    ordering  the groups, one after another: a value is predicted from the groups before its own, never from its own

Every unit has a number, and weights are masked by these numbers. An input's and a density's is its group's place in
the ordering, 0 … groups - 1; a hidden unit's is the last place that it depends on, 0 … groups - 2:

    input → hidden     where place ≤ number
    hidden → hidden    where number ≤ number
    hidden → density   where number < place

One network serves several orderings. They differ in their masks, and in the biases, by which the network knows the
ordering. Germain, Gregor, Murray and Larochelle, "MADE: Masked Autoencoder for Distribution Estimation" (2015) use
weights of the mask itself instead; for a fixed set of orderings both carry the same information.

Values are scaled so that 1 is a standard deviation of a bin (features.normalize: bin), or an eighth of its range.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from features.frames.feature_settings import DEVIATIONS
from features.windows.excerpts import Batch
from models.anomaly_model import AnomalyModel
from models.labels import Labels
from models.layers.conditioning import ConditionalSettings, id_inputs
from models.layers.scale import Scale
from models.settings import WindowSettings

#: The length that the unit interval of `models.layers.scale` is stretched to, around 0. Unstretched, a network learns
#: the levels of a recording, which fill a small part of the interval, many times more slowly.
_RANGE = 2 * DEVIATIONS

#: No density is narrower, in standard deviations: about 1 dB of log-mel's range. A bin that never changes, as in
#: silence or where it is clipped, would have an infinite density otherwise, and decide a score alone.
LEAST_DEVIATION = 0.08


class MaskedSettings(WindowSettings, ConditionalSettings):
    """The settings that masked networks share."""

    h_dim: int = Field(400, ge=1, description="units in each hidden layer")
    layers: int = Field(2, ge=1, description="hidden layers")
    components: int = Field(1, ge=1, description="Gaussians in the density of each value")


class MaskedLinear(nn.Module):
    """A dense layer of which each ordering leaves some weights out, and has biases of its own."""

    def __init__(self, inputs: int, outputs: int, orderings: int) -> None:
        super().__init__()
        fresh = nn.Linear(inputs, outputs)
        self.weight = nn.Parameter(fresh.weight.detach())
        self.bias = nn.Parameter(fresh.bias.detach().repeat(orderings, 1))  # (orderings, outputs)

    def forward(self, inputs: Tensor, ordering: int, mask: Tensor) -> Tensor:
        """`mask`: bool, (outputs, inputs), or (outputs / n, inputs) for n blocks of outputs alike."""
        weight = self.weight.view(-1, *mask.shape) * mask
        outputs: Tensor = functional.linear(inputs, weight.view_as(self.weight), self.bias[ordering])
        return outputs


class MaskedNetwork(nn.Module):
    """Predicts the Gaussian of each value, or a mixture of them, from the groups before its own."""

    places: Tensor  # (orderings, D) int64: in each ordering, the place of each value's group
    numbers: Tensor  # (h_dim,) int64: the last place that each unit of a hidden layer depends on

    def __init__(self, settings: MaskedSettings, orderings: Tensor, group_size: int, id_count: int) -> None:
        """`orderings`: (orderings, groups) int64, the groups in order; `id_count`: 0 for none as inputs."""
        super().__init__()
        count, groups = orderings.shape
        hidden, self.components = settings.h_dim, settings.components
        self.register_buffer("places", orderings.argsort(dim=1).repeat_interleave(group_size, dim=1))
        # Each number is as frequent as any other: with enough units, every allowed dependence is possible.
        self.register_buffer("numbers", torch.arange(hidden) * max(groups - 1, 1) // hidden)
        values = groups * group_size
        # A mean and a spread each; for several Gaussians also their weights.
        outputs = values * (2 if self.components == 1 else 3 * self.components)
        self.first = MaskedLinear(values, hidden, count)
        self.hidden = nn.ModuleList(MaskedLinear(hidden, hidden, count) for _ in range(settings.layers - 1))
        self.last = MaskedLinear(hidden, outputs, count)
        self.id_count = id_count
        if id_count:
            self.first_of_id = nn.Linear(id_count, hidden, bias=False)
            self.last_of_id = nn.Linear(id_count, outputs, bias=False)
            nn.init.zeros_(self.last_of_id.weight)

    def forward(self, values: Tensor, ordering: int, ids: Tensor | None) -> Tensor:
        """Parameters of the densities of values (batch, D) under one of the orderings, of clips of ids (batch,).

        Returns (batch, 2 or 3, components, D): means, spreads and, of several Gaussians, the logits of their weights.
        """
        places, numbers = self.places[ordering], self.numbers
        one_hot = None if ids is None else functional.one_hot(ids, self.id_count).to(values.dtype)
        units = self.first(values, ordering, places <= numbers[:, None])
        units = functional.relu(units if one_hot is None else units + self.first_of_id(one_hot))
        for layer in self.hidden:
            units = functional.relu(layer(units, ordering, numbers <= numbers[:, None]))
        outputs: Tensor = self.last(units, ordering, numbers < places[:, None])
        # The first group depends on no hidden unit: an ID must reach the densities directly, too.
        outputs = outputs if one_hot is None else outputs + self.last_of_id(one_hot)
        return outputs.view(values.shape[0], -1, self.components, places.shape[0])


def log_densities(values: Tensor, parameters: Tensor) -> Tensor:
    """Log-likelihood of each value, (batch, D) float32, nats, from the network's outputs.

    They are computed in float32 always: bfloat16 has no digits left for a square over a small variance.
    """
    means, spreads, *logits = parameters.float().unbind(dim=1)
    # The variance is softly bounded from below by the least one: unlike a clamp, this has gradients everywhere.
    least = 2 * math.log(LEAST_DEVIATION)
    log_variances = least + functional.softplus(spreads - least)
    squares = (values.float().unsqueeze(1) - means).square()
    densities = -0.5 * (math.log(2 * math.pi) + log_variances + squares * torch.exp(-log_variances))
    if not logits:
        return densities.squeeze(1)
    return torch.logsumexp(densities + functional.log_softmax(logits[0], dim=1), dim=1)


class MaskedModel(AnomalyModel):
    """Learns the density of healthy windows; an unlikely window is anomalous."""

    def __init__(
        self, settings: MaskedSettings, orderings: Tensor, group_size: int, scale: Scale, labels: Labels
    ) -> None:
        super().__init__()
        self.scale = scale
        self.network = MaskedNetwork(settings, orderings, group_size, id_inputs(settings, labels))

    def loss(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of a value, nats.

        Each window counts under one ordering, and each ordering gets an equal share of the windows: a window meets the
        others in other epochs. The first ordering is drawn, because a batch may have fewer windows than orderings.
        """
        count = len(self.orderings)
        first = int(torch.randint(count, ()))
        values, ids = self._network_inputs(batch)
        ids_of_parts = [None] * count if ids is None else ids.tensor_split(count)
        likelihoods = []
        for turn, (part, ids_of_part) in enumerate(zip(values.tensor_split(count), ids_of_parts, strict=True)):
            if len(part):
                parameters = self.network(part, (first + turn) % count, ids_of_part)
                likelihoods.append(log_densities(part, parameters))
        return -torch.cat(likelihoods).mean()

    def score(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of a window's values, nats, mean over the orderings."""
        return -torch.stack([self.likelihoods(batch, ordering).mean(dim=1) for ordering in self.orderings]).mean(dim=0)

    @property
    def orderings(self) -> range:
        """The indices of the orderings."""
        return range(len(self.network.places))

    def likelihoods(self, batch: Batch, ordering: int) -> Tensor:
        """Log-likelihood of each value under one of the orderings, (batch, D) float32, nats."""
        values, ids = self._network_inputs(batch)
        return log_densities(values, self.network(values, ordering, ids))

    def _network_inputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The inputs of the network: values of windows (batch, D); if it is conditional, their IDs (batch,)."""
        return (self.scale(batch.inputs) - 0.5) * _RANGE, batch.known_ids if self.network.id_count else None
