from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from features.frames.feature_settings import FeatureSettings
from features.windows.excerpts import Batch
from models.ae import Model, Settings
from models.labels import Labels
from models.layers.scale import Scale

Array = npt.NDArray[np.float64]

BINS = 8
SMALL = Settings(context=2, layers=2, h_dim=12, z_dim=4)
LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])


def model_of(settings: Settings = SMALL, *, seed: int = 0, bins: int = BINS) -> Model:
    torch.manual_seed(seed)
    return Model(settings, Scale(FeatureSettings(n_mels=bins, n_fft=1024).limits), LABELS)


def levels(windows: int, *, seed: int = 0) -> Batch:
    """Windows of levels from -120 to 40 dB: some lie outside of the range that the model hears."""
    inputs = np.random.default_rng(seed).uniform(-120, 40, (windows, SMALL.context * BINS)).astype(np.float32)
    return Batch(inputs=torch.from_numpy(inputs), clips=torch.zeros(windows, dtype=torch.int64))


@pytest.fixture(scope="module")
def after_sixty_steps() -> Model:
    model = model_of()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        optimiser.zero_grad()
        torch.autograd.backward(model.loss(levels(32, seed=step % 3)))
        optimiser.step()
    return model


@pytest.fixture
def trained(after_sixty_steps: Model) -> Model:
    """One whose running averages have moved."""
    return copy.deepcopy(after_sixty_steps)


class InNumpy:
    """The model once more, from its formulas, in float64."""

    def __init__(self, model: Model, *, training: bool) -> None:
        self.weights = {name: weights.double().numpy() for name, weights in model.state_dict().items()}
        self.training = training

    def linear(self, name: str, inputs: Array) -> Array:
        return np.asarray(inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"])

    def block(self, part: str, number: int, inputs: Array) -> Array:
        name = f"{part}.{3 * number + 1}"
        values = self.linear(f"{part}.{3 * number}", inputs)
        mean, variance = self.weights[f"{name}.running_mean"], self.weights[f"{name}.running_var"]
        if self.training:
            mean, variance = values.mean(axis=0), values.var(axis=0)
        # Keras's BatchNormalization: epsilon 1e-3
        normalised = (values - mean) / np.sqrt(variance + 1e-3)
        scaled = normalised * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return np.asarray(np.maximum(scaled, 0))

    def target(self, batch: Batch) -> Array:
        return np.asarray(np.clip((batch.inputs.double().numpy() + 90) / 114, 0, 1))

    def bottleneck(self, batch: Batch) -> Array:
        values: Array = self.target(batch)
        for number in range(SMALL.layers + 1):
            values = self.block("encoder", number, values)
        return values

    def errors(self, batch: Batch) -> Array:
        values = self.bottleneck(batch)
        for number in range(SMALL.layers):
            values = self.block("decoder", number, values)
        reconstruction = self.linear(f"decoder.{3 * SMALL.layers}", values)
        return np.asarray(((reconstruction - self.target(batch)) ** 2).mean(axis=1))


def test_the_challenges_baseline_has_269992_numbers_of_which_267928_are_trained() -> None:
    # 640-128×4-8-128×4-640, as Keras counts the baseline's model: weights and biases of ten dense layers, and of each
    # unit of nine of them a gain, an offset, a running mean and a running variance.
    model = model_of(Settings(context=5), bins=128)
    units = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    dense = sum((inputs + 1) * outputs for inputs, outputs in pairwise(units))
    normalised = sum(units[1:-1])
    averages = [array for name, array in model.named_buffers() if "running" in name]

    assert (dense, normalised) == (265_864, 1_032)
    assert sum(array.numel() for array in model.parameters()) == dense + 2 * normalised == 267_928
    assert sum(array.numel() for array in averages) + 267_928 == dense + 4 * normalised == 269_992


def test_its_defaults_are_the_challenges() -> None:
    # Koizumi et al. 2020; keras_model.py of the baseline: h 128 four times, 8, h 128 four times
    settings = Settings()
    assert (settings.context, settings.layers, settings.h_dim, settings.z_dim) == (5, 4, 128, 8)
    assert (settings.score, settings.conditional) == ("reconstruction", False)


@pytest.mark.parametrize("layers", [1, 3])
def test_every_dense_layer_but_the_last_is_normalised_and_rectified(layers: int) -> None:
    model = model_of(Settings(context=2, layers=layers, h_dim=12, z_dim=4))
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(part) for part in model.encoder] == block * (layers + 1)
    assert [type(part) for part in model.decoder] == [*(block * layers), nn.Linear]


def test_the_loss_is_the_mean_squared_error_with_units_normalised_over_the_batch(trained: Model) -> None:
    model, batch = trained.train(), levels(20)
    expected = InNumpy(model, training=True).errors(batch).mean()
    assert model.loss(batch).item() == pytest.approx(expected, rel=1e-4)


def test_the_score_is_the_mean_squared_error_of_a_window_normalised_by_running_averages(trained: Model) -> None:
    model, batch = trained.eval(), levels(9)
    np.testing.assert_allclose(
        model.score(batch).detach().numpy(), InNumpy(model, training=False).errors(batch), rtol=1e-4
    )


def test_it_embeds_a_window_as_its_rectified_bottleneck(trained: Model) -> None:
    model, batch = trained.eval(), levels(9)
    embeddings = model.embed(batch).detach().numpy()
    np.testing.assert_allclose(embeddings, InNumpy(model, training=False).bottleneck(batch), rtol=1e-3, atol=1e-5)
    assert embeddings.shape == (9, 4)
    assert (embeddings >= 0).all()


def test_running_averages_take_a_hundredth_of_each_batch() -> None:
    # Keras's momentum .99
    model, batch = model_of().train(), levels(20)
    first = InNumpy(model, training=True).linear("encoder.0", InNumpy(model, training=True).target(batch))
    model.loss(batch)
    state = model.state_dict()
    np.testing.assert_allclose(state["encoder.1.running_mean"].numpy(), 0.01 * first.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(state["encoder.1.running_var"].numpy(), 0.99 + 0.01 * first.var(axis=0, ddof=1))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_how_windows_are_divided_into_batches_changes_no_score(trained: Model, batch_size: int) -> None:
    model, batch = trained.eval(), levels(30)
    divided = [
        model.score(Batch(batch.inputs[start : start + batch_size], batch.clips[start : start + batch_size]))
        for start in range(0, 30, batch_size)
    ]
    np.testing.assert_allclose(torch.cat(divided).detach(), model.score(batch).detach(), rtol=1e-5)


def test_scoring_leaves_the_model_and_the_batch_as_they_are(trained: Model) -> None:
    model, batch = trained.eval(), levels(5)
    before = {name: array.clone() for name, array in model.state_dict().items()}
    first = model.score(batch)
    assert torch.equal(model.score(batch), first)
    assert all(torch.equal(array, before[name]) for name, array in model.state_dict().items())
    assert torch.equal(batch.inputs, levels(5).inputs)


def test_training_lowers_the_loss(trained: Model) -> None:
    loss = trained.train().loss(levels(32)).item()
    assert loss < 0.5 * model_of().train().loss(levels(32)).item()


def test_the_same_seed_gives_the_same_weights() -> None:
    one, other, another = (torch.cat([w.flatten() for w in model_of(seed=seed).parameters()]) for seed in (3, 3, 4))
    assert torch.equal(one, other)
    assert not torch.equal(one, another)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"width": 128}, "Extra inputs are not permitted"),
        ({"layers": 0}, "greater than or equal to 1"),
        ({"h_dim": 0}, "greater than or equal to 1"),
        ({"z_dim": 8.0}, "should be a valid integer"),
        (
            {"score": "likelihood"},
            "should be 'reconstruction', 'mahalanobis', 'gmm', 'knn', 'lof', 'ocsvm' or 'exposure'",
        ),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Settings.model_validate(content)
