from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from features.frames.feature_settings import FeatureSettings
from features.windows.excerpts import Batch
from models.labels import Labels
from models.layers.scale import Scale
from models.made import Model, Settings

BINS = 4
LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])


def model_of(settings: Settings, *, seed: int = 0, bins: int = BINS) -> Model:
    torch.manual_seed(seed)
    return Model(settings, Scale(FeatureSettings(n_mels=bins).limits), LABELS)


@pytest.mark.parametrize(("context", "orderings"), [(1, 1), (3, 4)])
def test_each_ordering_gives_every_value_a_place_of_its_own(context: int, orderings: int) -> None:
    places = model_of(Settings(context=context, h_dim=8, orderings=orderings)).network.places
    assert places.shape == (orderings, context * BINS)
    assert all(sorted(row) == list(range(context * BINS)) for row in places.tolist())


def test_orderings_are_unlike_each_other_and_drawn_by_the_seed() -> None:
    settings = Settings(context=5, h_dim=8, orderings=6)
    one, same, other = (model_of(settings, seed=seed).network.places for seed in (0, 0, 1))
    assert len({tuple(row) for row in one.tolist()}) == 6
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_its_parameters_are_those_of_a_dense_network_with_biases_for_each_ordering() -> None:
    # 640-400-400-1280 and 4 orderings: 640·400 + 400·400 + 400·1280 weights and 4·(400 + 400 + 1280) biases
    model = model_of(Settings(context=5, h_dim=400, layers=2, orderings=4), bins=128)
    assert sum(weights.numel() for weights in model.parameters()) == 936_320


@pytest.mark.parametrize("orderings", [1, 2])
def test_one_value_alone_has_a_density_of_its_own(orderings: int) -> None:
    # A window of one frame of one bin, as of root mean squares.
    model = model_of(Settings(context=1, h_dim=4, orderings=orderings), bins=1)
    batch = Batch(inputs=torch.full((6, 1), -40.0), clips=torch.zeros(6, dtype=torch.int64))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    before = model.score(batch).mean().item()
    for _ in range(50):
        optimiser.zero_grad()
        torch.autograd.backward(model.loss(batch))
        optimiser.step()
    assert model.score(batch).mean().item() < before - 0.5


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"orderings": 0}, "greater than or equal to 1"),
        ({"components": 0}, "greater than or equal to 1"),
        ({"layers": 0}, "greater than or equal to 1"),
        ({"h_dim": 0}, "greater than or equal to 1"),
        ({"context": 0}, "greater than or equal to 1"),
        ({"conditional": "yes"}, "valid boolean"),
        ({"score": "knn"}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Settings.model_validate(content)
