from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from features.frames.feature_settings import FeatureSettings
from features.windows.excerpts import Batch
from models import group_made, made
from models.families import build
from models.labels import Labels
from models.layers.masked import LEAST_DEVIATION, MaskedModel, MaskedNetwork, MaskedSettings, log_densities
from models.settings import FamilySettings

Array = npt.NDArray[np.float64]

BINS, CONTEXT = 4, 3
LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])

MADE = made.Settings(context=CONTEXT, h_dim=16, orderings=3)
GROUP_MADE = group_made.Settings(context=CONTEXT, h_dim=16)
CASES: list[FamilySettings] = [
    MADE,
    MADE.model_copy(update={"components": 3, "conditional": True, "layers": 3}),
    GROUP_MADE,
    GROUP_MADE.model_copy(update={"components": 2, "conditional": True, "layers": 1}),
    GROUP_MADE.model_copy(update={"score": "last_frame", "orderings": "middle_last"}),
]
of_each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{CASES.index(case)}")


def network_of(
    orderings: list[list[int]], *, size: int = 1, h_dim: int = 12, layers: int = 2, components: int = 1, ids: int = 0
) -> MaskedNetwork:
    torch.manual_seed(0)
    settings_of_it = MaskedSettings(family="masked", h_dim=h_dim, layers=layers, components=components)
    return MaskedNetwork(settings_of_it, torch.tensor(orderings), size, ids)


def all_positive(network: torch.nn.Module) -> None:
    """Every unit answers, and no two paths cancel out."""
    with torch.no_grad():
        for weights in network.parameters():
            weights.abs_().add_(0.1)


def dependencies(network: MaskedNetwork, ordering: int, values: Tensor) -> npt.NDArray[np.bool_]:
    """Which densities change with which values, (densities' values, values)."""

    def parameters(window: Tensor) -> Tensor:
        return network(window[None], ordering, None)[0]  # type: ignore[no-any-return]

    jacobian = torch.func.jacrev(parameters)(values)  # (2 or 3, components, D, D)
    return np.asarray((jacobian != 0).any(dim=0).any(dim=0).numpy())


def allowed(ordering: list[int], size: int) -> npt.NDArray[np.bool_]:
    """By the definition: those of the groups that come earlier."""
    count = len(ordering) * size
    return np.array(
        [
            [ordering.index(earlier // size) < ordering.index(later // size) for earlier in range(count)]
            for later in range(count)
        ]
    )


ORDERINGS = {
    "one group": [[0]],
    "in time": [[0, 1, 2, 3]],
    "backwards and mixed": [[3, 2, 1, 0], [2, 0, 3, 1]],
    "many": [[1, 2, 3, 4, 0], [2, 3, 4, 0, 1], [3, 4, 0, 1, 2], [4, 0, 1, 2, 3], [0, 1, 2, 3, 4]],
}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("layers", "components"), [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("orderings", ORDERINGS.values(), ids=ORDERINGS.keys())
def test_a_density_depends_on_all_values_of_earlier_groups_and_on_no_others(
    orderings: list[list[int]], layers: int, components: int, size: int
) -> None:
    network = network_of(orderings, size=size, layers=layers, components=components)
    all_positive(network)
    values = torch.rand(len(orderings[0]) * size)
    for index, ordering in enumerate(orderings):
        np.testing.assert_array_equal(dependencies(network, index, values), allowed(ordering, size))


@pytest.mark.parametrize("h_dim", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_of_any_size_let_no_later_value_through(h_dim: int, layers: int) -> None:
    orderings = ORDERINGS["many"]
    network = network_of(orderings, size=2, h_dim=h_dim, layers=layers)
    for index, ordering in enumerate(orderings):
        found = dependencies(network, index, torch.randn(10))
        assert not (found & ~allowed(ordering, 2)).any()
        all_positive(network)
        found = dependencies(network, index, torch.rand(10))
        assert found.any()
        assert not (found & ~allowed(ordering, 2)).any()


@settings(max_examples=30, deadline=None, database=None)
@given(
    ordering=st.integers(2, 6).flatmap(lambda groups: st.permutations(range(groups))),
    size=st.integers(1, 3),
    place=st.integers(0, 5),
    change=st.floats(-100, 100),
)
def test_what_changes_in_a_group_changes_no_density_of_it_or_of_those_before(
    ordering: list[int], size: int, place: int, change: float
) -> None:
    network = network_of([ordering], size=size)
    group = ordering[place % len(ordering)]
    before = torch.randn(2, len(ordering) * size)
    after = before.clone()
    after[:, group * size : (group + 1) * size] += change
    ahead = torch.from_numpy(~allowed(ordering, size)[:, group * size])
    assert torch.equal(network(before, 0, None)[..., ahead], network(after, 0, None)[..., ahead])


def test_each_hidden_layer_has_as_many_units_of_each_number() -> None:
    network = network_of([list(range(5))], h_dim=12)
    assert np.bincount(network.numbers.numpy()).tolist() == [3, 3, 3, 3]


def test_three_values_by_hand() -> None:
    # In the order 2, 0, 1. Unit 0 hears of value 2, unit 1 of 2 and 0; density 2 of none, 0 of unit 0, 1 of both.
    # What stands in for a masked weight is 9.
    network = network_of([[2, 0, 1]], h_dim=2, layers=1)
    with torch.no_grad():
        network.first.weight.copy_(torch.tensor([[9.0, 9.0, 0.5], [-1.0, 9.0, 1.0]]))
        network.first.bias.copy_(torch.tensor([[0.25, -0.5]]))
        means = [[0.4, 9.0], [-0.8, 0.2], [9.0, 9.0]]
        spreads = [[0.8, 9.0], [-0.4, 0.5], [9.0, 9.0]]
        network.last.weight.copy_(torch.tensor([*means, *spreads]))
        network.last.bias.copy_(torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.0, -1.0]]))
    values = torch.tensor([[0.5, -1.0, 2.0]])
    # Unit 0: 0.5 · 2 + 0.25 = 1.25. Unit 1: -1 · 0.5 + 1 · 2 - 0.5 = 1.
    # Means: 0.1 + 0.4 · 1.25 = 0.6; 0.2 - 0.8 · 1.25 + 0.2 · 1 = -0.6; 0.3. Spreads: 1; -0.5 + 0.5 = 0; -1.
    parameters = network(values, 0, None)
    np.testing.assert_allclose(parameters[0, :, 0].detach(), [[0.6, -0.6, 0.3], [1.0, 0.0, -1.0]], atol=1e-6)
    expected = [
        -0.5 * (math.log(2 * math.pi) + math.log(math.exp(spread) + 0.08**2) + error**2 / (math.exp(spread) + 0.08**2))
        for spread, error in [(1, 0.5 - 0.6), (0, -1 + 0.6), (-1, 2 - 0.3)]
    ]
    np.testing.assert_allclose(log_densities(values, parameters)[0].detach(), expected, rtol=1e-5)


@pytest.mark.parametrize("components", [1, 2, 5])
def test_densities_are_those_of_torch_s_distributions(components: int) -> None:
    torch.manual_seed(0)
    values, parameters = torch.randn(6, 7), torch.randn(6, 2 if components == 1 else 3, components, 7)
    means, spreads = parameters[:, 0], parameters[:, 1]
    gaussians = torch.distributions.Normal(means, (spreads.exp() + LEAST_DEVIATION**2).sqrt())
    logits = parameters[:, 2] if components > 1 else torch.zeros_like(means)
    mixtures = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits.transpose(1, 2)),
        torch.distributions.Normal(gaussians.loc.transpose(1, 2), gaussians.scale.transpose(1, 2)),
    )
    torch.testing.assert_close(log_densities(values, parameters), mixtures.log_prob(values))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("ordering", [[0, 1], [1, 0]])
def test_the_density_of_two_values_integrates_to_one(ordering: list[int], components: int) -> None:
    network = network_of([ordering], components=components, layers=1)
    with torch.no_grad():
        network.last.weight.mul_(2)  # so that the second one depends much on the first
    axis = torch.linspace(-9, 9, 300)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = log_densities(grid, network(grid, 0, None)).sum(dim=1).exp()
    assert float(density.sum()) * float(axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)


@settings(max_examples=30, deadline=None, database=None)
@given(value=st.floats(-4, 4, width=32), mean=st.floats(-1e3, 1e3, width=32), spread=st.floats(-1e4, 60, width=32))
def test_no_density_is_higher_than_that_of_the_least_deviation(value: float, mean: float, spread: float) -> None:
    density = log_densities(torch.tensor([[value]]), torch.tensor([[[[mean]], [[spread]]]]))
    highest = -math.log(LEAST_DEVIATION * math.sqrt(2 * math.pi))
    assert torch.isfinite(density).all()
    assert float(density) <= highest + 1e-6


class InNumpy:
    """A masked network's densities once more, from their definition, value by value, in float64."""

    def __init__(self, model: MaskedModel, settings_of_it: MaskedSettings, ordering: int) -> None:
        self.weights = {name: w.double().numpy() for name, w in model.network.state_dict().items()}
        self.layers, self.components = settings_of_it.layers, settings_of_it.components
        self.ordering = ordering

    def layer(self, name: str, inputs: Array, senders: Array, receivers: Array, *, strict: bool) -> Array:
        weight = self.weights[f"{name}.weight"]
        masked = np.zeros_like(weight)
        for row in range(weight.shape[0]):
            for column in range(weight.shape[1]):
                sender, receiver = senders[column], receivers[row % len(receivers)]
                if sender < receiver or (sender == receiver and not strict):
                    masked[row, column] = weight[row, column]
        return np.asarray(inputs @ masked.T + self.weights[f"{name}.bias"][self.ordering])

    def likelihoods(self, values: Array, ids: npt.NDArray[np.int64] | None) -> Array:
        places, numbers = self.weights["places"][self.ordering], self.weights["numbers"]
        units = self.layer("first", values, places, numbers, strict=False)
        units = np.maximum(units if ids is None else units + self.weights["first_of_id.weight"].T[ids], 0)
        for index in range(self.layers - 1):
            units = np.maximum(self.layer(f"hidden.{index}", units, numbers, numbers, strict=False), 0)
        outputs = self.layer("last", units, numbers, places, strict=True)
        outputs = outputs if ids is None else outputs + self.weights["last_of_id.weight"].T[ids]
        parameters = outputs.reshape(len(values), -1, self.components, values.shape[1])
        variances = np.exp(parameters[:, 1]) + LEAST_DEVIATION**2
        densities = np.exp(-((values[:, None] - parameters[:, 0]) ** 2) / (2 * variances))
        densities /= np.sqrt(2 * np.pi * variances)
        if self.components == 1:
            return np.log(densities[:, 0])
        shares = np.exp(parameters[:, 2])
        return np.asarray(np.log((densities * shares / shares.sum(axis=1, keepdims=True)).sum(axis=1)))


def model_of(case: FamilySettings, *, seed: int = 0) -> MaskedModel:
    torch.manual_seed(seed)
    model = build(case, FeatureSettings(n_mels=BINS).limits, LABELS)
    assert isinstance(model, MaskedModel)
    return model


def levels(windows: int, *, seed: int = 0) -> Batch:
    """Windows of levels from -120 to 40 dB: some lie outside of the range that the model hears."""
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-120, 40, (windows, CONTEXT * BINS)).astype(np.float32)
    ids = torch.from_numpy(rng.integers(0, 2, windows))
    return Batch(inputs=torch.from_numpy(inputs), clips=torch.zeros(windows, dtype=torch.int64), ids=ids)


def part_of(batch: Batch, rows: slice) -> Batch:
    assert batch.ids is not None
    return Batch(batch.inputs[rows], batch.clips[rows], batch.ids[rows])


@of_each_case
def test_the_score_is_the_mean_negative_log_likelihood_over_values_and_orderings(case: MaskedSettings) -> None:
    model, batch = model_of(case), levels(5)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.3 * torch.randn_like(weights))  # those of IDs begin at 0
    assert batch.ids is not None
    ids = batch.ids.numpy() if case.conditional else None
    values = (np.clip((batch.inputs.double().numpy() + 90) / 114, 0, 1) - 0.5) * 8
    scores = []
    for ordering in model.orderings:
        likelihoods = InNumpy(model, case, ordering).likelihoods(values, ids)
        if isinstance(case, group_made.Settings) and case.score == "last_frame":
            likelihoods = likelihoods[:, BINS : 2 * BINS]  # of three frames the middle one
        scores.append(-likelihoods.mean(axis=1))
    np.testing.assert_allclose(model.score(batch).detach(), np.mean(scores, axis=0), rtol=1e-4)


@pytest.mark.parametrize("windows", [1, 2, 3, 8])
def test_the_loss_takes_equal_shares_of_a_batch_under_each_ordering(windows: int) -> None:
    model, batch = model_of(MADE), levels(windows)
    torch.manual_seed(5)
    first = int(torch.randint(3, ()))
    expected = []
    for turn, rows in enumerate(np.array_split(np.arange(windows), 3)):
        expected += model.likelihoods(batch, (first + turn) % 3)[rows].flatten().tolist()
    torch.manual_seed(5)
    assert model.loss(batch).item() == pytest.approx(-np.mean(expected), rel=1e-5)


def test_a_window_alone_meets_every_ordering_in_time() -> None:
    model, batch = model_of(MADE), levels(1)
    under_each = [-model.likelihoods(batch, ordering).mean().item() for ordering in model.orderings]
    met = {round(model.loss(batch).item(), 4) for _ in range(40)}
    assert met == {round(loss, 4) for loss in under_each}


@of_each_case
def test_gradients_reach_every_weight_that_is_not_masked_under_all_orderings(case: MaskedSettings) -> None:
    model = model_of(case)
    all_positive(model)
    torch.autograd.backward(model.loss(levels(60)))
    network = model.network
    places, numbers = network.places, network.numbers
    outputs = network.last.weight.shape[0] // places.shape[1]
    used = {
        "first.weight": (places[:, None] <= numbers[:, None]).any(dim=0),
        "last.weight": (numbers < places[..., None]).any(dim=0).repeat(outputs, 1),
        **{f"hidden.{i}.weight": numbers <= numbers[:, None] for i in range(case.layers - 1)},
    }
    for name, weights in network.named_parameters():
        assert weights.grad is not None
        expected = used.get(name, torch.ones_like(weights, dtype=torch.bool))
        assert torch.equal(weights.grad != 0, expected), name


@of_each_case
def test_one_seed_gives_the_same_weights_and_orderings(case: MaskedSettings) -> None:
    one, other = model_of(case, seed=3).state_dict(), model_of(case, seed=3).state_dict()
    assert all(torch.equal(weights, other[name]) for name, weights in one.items())


@of_each_case
def test_a_saved_model_scores_the_same_wherever_it_is_loaded(case: MaskedSettings) -> None:
    model, other, batch = model_of(case, seed=0), model_of(case, seed=1), levels(7)
    assert not torch.equal(model.score(batch), other.score(batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.score(batch), other.score(batch))


@of_each_case
def test_scoring_draws_no_random_numbers(case: MaskedSettings) -> None:
    model, batch = model_of(case), levels(7)
    before = torch.get_rng_state()
    model.score(batch)
    assert torch.equal(torch.get_rng_state(), before)


@of_each_case
@pytest.mark.parametrize("batch_size", [1, 7])
def test_how_windows_are_divided_into_batches_changes_no_score(case: MaskedSettings, batch_size: int) -> None:
    model, batch = model_of(case), levels(20)
    divided = [model.score(part_of(batch, slice(start, start + batch_size))) for start in range(0, 20, batch_size)]
    np.testing.assert_allclose(torch.cat(divided).detach(), model.score(batch).detach(), rtol=1e-4)


@of_each_case
def test_bfloat16_leaves_scores_float32_and_close(case: MaskedSettings) -> None:
    model, batch = model_of(case), levels(20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, scores = model.loss(batch), model.score(batch)
    torch.autograd.backward(loss)
    assert scores.dtype == loss.dtype == torch.float32
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in model.parameters())
    np.testing.assert_allclose(scores.detach(), model.score(batch).detach(), rtol=0.05)


def train(model: MaskedModel, batch: Batch) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(30):
        optimiser.zero_grad()
        torch.autograd.backward(model.loss(batch))
        optimiser.step()


def ten_windows(*, levels_of_ids: tuple[float, float] = (-40.0, -40.0)) -> Batch:
    """Alike but for some decibels; of two machine IDs."""
    ids = torch.arange(10) % 2
    noise = torch.randn(10, CONTEXT * BINS, generator=torch.Generator().manual_seed(0))
    inputs = torch.tensor(levels_of_ids)[ids, None] + 3 * noise
    return Batch(inputs=inputs, clips=torch.arange(10), ids=ids)


@of_each_case
def test_ten_windows_are_learnt_and_an_obvious_anomaly_stands_out(case: MaskedSettings) -> None:
    model, batch = model_of(case), ten_windows()
    untrained = model.score(batch).mean().item()
    train(model, batch)
    learnt = model.score(batch).detach()
    assert learnt.mean().item() < untrained - 0.4
    loud, silent, scrambled = batch.inputs[:1] + 30, 0 * batch.inputs[:1] - 90, batch.inputs[:1].clone()
    scrambled[:, ::2] += 25
    faulty = Batch(torch.cat([loud, silent, scrambled]), torch.zeros(3, dtype=torch.int64), torch.zeros(3).long())
    assert model.score(faulty).min() > learnt.max()


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("decibels", [0.0, 1.0, 114.0])
def test_a_model_that_is_sure_of_silence_is_so_within_a_decibel(components: int, decibels: float) -> None:
    model = model_of(GROUP_MADE.model_copy(update={"components": components}))
    means, spreads = model.network.last.bias.detach().view(CONTEXT, -1, components * CONTEXT * BINS)[:, :2].unbind(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        means.fill_(-4)  # the lowest level, -90 dB, by four standard deviations below 0
        spreads.fill_(-1e4)
    batch = Batch(torch.full((1, CONTEXT * BINS), -90 + decibels), torch.zeros(1, dtype=torch.int64))
    deviations = decibels * 8 / 114 / LEAST_DEVIATION
    expected = 0.5 * deviations**2 + math.log(LEAST_DEVIATION * math.sqrt(2 * math.pi))
    assert model.score(batch).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case.knows_ids], ids=lambda case: case.family)
def test_a_conditional_model_learns_what_is_usual_of_each_machine_id(case: MaskedSettings) -> None:
    # A frame alone is predicted from nothing: what it is told of the ID must reach its density directly.
    model, batch = model_of(case), ten_windows(levels_of_ids=(-60.0, -20.0))
    train(model, batch)
    assert batch.ids is not None
    swapped = Batch(batch.inputs, batch.clips, 1 - batch.ids)
    first_places = [model.network.places[ordering] == 0 for ordering in model.orderings]
    for ordering, first in enumerate(first_places):
        own, others = (model.likelihoods(told, ordering)[:, first].mean() for told in (batch, swapped))
        assert own > others + 1
    assert (model.score(swapped) > model.score(batch)).all()


@pytest.mark.parametrize("family", ["made", "group_made"])
@pytest.mark.parametrize("conditional", [False, True])
def test_only_a_conditional_model_needs_ids(family: str, conditional: bool) -> None:
    content: dict[str, Any] = {"context": CONTEXT, "h_dim": 16, "conditional": conditional}
    module = {"made": made, "group_made": group_made}[family]
    case = module.Settings.model_validate(content)
    model, batch = model_of(case), levels(3)
    without = Batch(batch.inputs, batch.clips)
    assert case.knows_ids is conditional
    if conditional:
        with pytest.raises(ValueError, match="without machine IDs"):
            model.score(without)
    else:
        assert torch.equal(model.score(without), model.score(batch))


@of_each_case
def test_the_batch_is_left_as_it_is(case: MaskedSettings) -> None:
    model, batch = model_of(case), levels(5)
    model.loss(batch)
    model.score(batch)
    assert torch.equal(batch.inputs, levels(5).inputs)
