from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from features.clips.synthetic_corpus import synthesize
from features.frames.feature_settings import FeatureSettings
from features.store.files import FrameStore
from features.windows.context_windows import ContextWindows
from features.windows.excerpts import Batch
from features.windows.stored_clips import StoredClips
from models.labels import Labels
from models.layers.scale import Scale
from models.scoring.pooling import pool
from models.vae import Model, Settings

Array = npt.NDArray[np.float64]

SMALL = Settings(context=2, h_dim=12, z_dim=4)
BINS = 8


LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])


def scale_of(bins: int) -> Scale:
    """That of log-mel levels."""
    return Scale(FeatureSettings(n_mels=bins, n_fft=1024).limits)


def model_of(settings: Settings = SMALL, *, seed: int = 0, bins: int = BINS) -> Model:
    torch.manual_seed(seed)
    return Model(settings, scale_of(bins), LABELS)


def levels(windows: int, *, seed: int = 0, width: int = SMALL.context * BINS) -> Batch:
    """Windows of levels from -120 to 40 dB: some lie outside of the range that the model hears."""
    inputs = np.random.default_rng(seed).uniform(-120, 40, (windows, width)).astype(np.float32)
    return Batch(inputs=torch.from_numpy(inputs), clips=torch.zeros(windows, dtype=torch.int64))


class InNumpy:
    """The model once more, from its formulas, in float64."""

    def __init__(self, model: Model) -> None:
        self.weights = {name: weights.double().numpy() for name, weights in model.state_dict().items()}

    def linear(self, name: str, inputs: Array) -> Array:
        return np.asarray(inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"])

    def hidden(self, name: str, inputs: Array) -> Array:
        first = np.maximum(self.linear(f"{name}.0", inputs), 0)
        return np.maximum(self.linear(f"{name}.2", first), 0)

    def normalised(self, batch: Batch) -> Array:
        # (x + 90) / 114, clipped to [0, 1]: the DCASE 2020 student entry
        return np.asarray(np.clip((batch.inputs.double().numpy() + 90) / 114, 0, 1))

    def latents(self, batch: Batch) -> tuple[Array, Array]:
        hidden = self.hidden("encoder", self.normalised(batch))
        return self.linear("mean", hidden), self.linear("log_variance", hidden)

    def reconstruction(self, latent: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-self.linear("decoder.4", self.hidden("decoder", latent)))))

    def divergence(self, batch: Batch) -> float:
        mean, log_variance = self.latents(batch)
        return float((-0.5 * (1 + log_variance - mean**2 - np.exp(log_variance))).sum(axis=1).mean())

    def squared_error(self, batch: Batch, noise: Array) -> float:
        mean, log_variance = self.latents(batch)
        reconstruction = self.reconstruction(mean + np.exp(log_variance / 2) * noise)
        return float(((reconstruction - self.normalised(batch)) ** 2).sum(axis=1).mean())

    def scores(self, batch: Batch) -> Array:
        reconstruction = self.reconstruction(self.latents(batch)[0])
        return np.asarray(((reconstruction - self.normalised(batch)) ** 2).mean(axis=1))


def loss_of(model: Model, batch: Batch, *, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return model.loss(batch)


def test_the_entrys_vae_has_858280_parameters() -> None:
    # 5 × 128 inputs, h 400, z 20: the count published with the DCASE 2020 student entry
    model = Model(Settings(context=5, h_dim=400, z_dim=20), scale_of(128), LABELS)
    assert sum(weights.numel() for weights in model.parameters()) == 858_280


def test_its_defaults_are_the_entrys() -> None:
    settings = Settings()
    assert (settings.context, settings.h_dim, settings.z_dim, settings.kld_weight) == (5, 400, 20, 0.01)
    assert (settings.layers, settings.score, settings.conditional) == (2, "reconstruction", False)


def test_its_weights_are_drawn_layer_after_layer() -> None:
    # The entry's network, written out: a seed gives the weights that it has always given.
    model = model_of(Settings(context=5, h_dim=400, z_dim=20), seed=3, bins=128)
    torch.manual_seed(3)
    sizes = [(640, 400), (400, 400), (400, 20), (400, 20), (20, 400), (400, 400), (400, 640)]
    drawn = [weights for inputs, outputs in sizes for weights in nn.Linear(inputs, outputs).parameters()]
    for weights, expected in zip(model.parameters(), drawn, strict=True):
        assert torch.equal(weights, expected)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_layers_are_hidden_ones_on_each_side(layers: int) -> None:
    model = model_of(Settings(context=2, layers=layers, h_dim=12, z_dim=4))
    sizes = [(part.in_features, part.out_features) for part in model.modules() if isinstance(part, nn.Linear)]
    inner = [(12, 12)] * (layers - 1)
    assert sizes == [(16, 12), *inner, (12, 4), (12, 4), (4, 12), *inner, (12, 16)]


def test_it_embeds_a_window_as_its_mean() -> None:
    model, batch = model_of(), levels(9)
    np.testing.assert_allclose(model.embed(batch).detach().numpy(), InNumpy(model).latents(batch)[0], rtol=1e-4)


@pytest.mark.parametrize("kld_weight", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("windows", [1, 5])
def test_the_loss_is_summed_squared_error_and_weighted_divergence_averaged_over_windows(
    windows: int, kld_weight: float
) -> None:
    model, batch = model_of(SMALL.model_copy(update={"kld_weight": kld_weight})), levels(windows)
    torch.manual_seed(7)
    noise = torch.randn(windows, SMALL.z_dim).double().numpy()
    reference = InNumpy(model)
    expected = reference.squared_error(batch, noise) + kld_weight * reference.divergence(batch)
    assert loss_of(model, batch, seed=7).item() == pytest.approx(expected, rel=1e-5)


def test_the_score_is_the_mean_squared_error_of_a_window_reconstructed_from_the_mean() -> None:
    model, batch = model_of(), levels(9)
    np.testing.assert_allclose(model.score(batch).detach().numpy(), InNumpy(model).scores(batch), rtol=1e-5)


def a_perfect_model() -> Model:
    """Reconstructs every window of levels that are a quarter or three quarters up the range.

    All layers hand on what they get but the last, which scales it to the logits: log(1/3) and log(3).
    """
    model = model_of(Settings(context=1, h_dim=6, z_dim=6, kld_weight=0), bins=6)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.eye_(layer.weight)
                layer.bias.zero_()
        model.log_variance.weight.zero_()
        model.log_variance.bias.fill_(-80)  # no noise
        last = model.decoder[4]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(4 * math.log(3))
        last.bias.fill_(-2 * math.log(3))
    return model


def test_a_perfect_reconstruction_of_unlike_windows_has_no_error() -> None:
    # The entry's loss compared (B, 640) with (B, 1, 640), each window with all others: .166 for this.
    upper = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (20, 6)))
    batch = Batch(inputs=-90 + 114 * (0.25 + 0.5 * upper.float()), clips=torch.zeros(20, dtype=torch.int64))
    model = a_perfect_model()
    assert loss_of(model, batch).item() == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose(model.score(batch).detach(), 0, atol=1e-10)


def test_levels_outside_of_the_range_are_heard_as_its_ends() -> None:
    model = model_of()
    below, lowest, above, highest = (
        model.score(Batch(inputs=torch.full((1, 16), level), clips=torch.zeros(1, dtype=torch.int64)))
        for level in (-300.0, -90.0, 80.0, 24.0)
    )
    assert torch.equal(below, lowest)
    assert torch.equal(above, highest)
    assert not torch.equal(lowest, highest)


def test_the_batch_is_left_as_it_is() -> None:
    model, batch = model_of(), levels(5)
    model.loss(batch)
    model.score(batch)
    assert torch.equal(batch.inputs, levels(5).inputs)


def test_training_draws_noise_and_scoring_does_not() -> None:
    model, batch = model_of(), levels(5)
    assert loss_of(model, batch, seed=0).item() != loss_of(model, batch, seed=1).item()
    torch.manual_seed(0)
    first = model.score(batch)
    torch.manual_seed(1)
    assert torch.equal(model.score(batch), first)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_how_windows_are_divided_into_batches_changes_no_score(batch_size: int) -> None:
    model, batch = model_of(), levels(100)
    divided = [
        model.score(Batch(batch.inputs[start : start + batch_size], batch.clips[start : start + batch_size]))
        for start in range(0, 100, batch_size)
    ]
    np.testing.assert_allclose(torch.cat(divided).detach(), model.score(batch).detach(), rtol=1e-5)


def test_gradients_reach_every_weight_tensor() -> None:
    model = model_of()
    torch.autograd.backward(model.loss(levels(50)))
    without = [name for name, weights in model.named_parameters() if weights.grad is None or not weights.grad.any()]
    assert without == []


def test_the_same_seed_gives_the_same_weights_and_the_same_loss() -> None:
    one, other, another = model_of(seed=3), model_of(seed=3), model_of(seed=4)
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, other.state_dict()[name])
    assert loss_of(one, levels(20)).item() == loss_of(other, levels(20)).item()
    assert loss_of(one, levels(20)).item() != loss_of(another, levels(20)).item()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"hdim": 400}, "Extra inputs are not permitted"),
        ({"h_dim": "400"}, "should be a valid integer"),
        ({"z_dim": 0}, "greater than or equal to 1"),
        ({"layers": 0}, "greater than or equal to 1"),
        (
            {"score": "likelihood"},
            "should be 'reconstruction', 'mahalanobis', 'gmm', 'knn', 'lof', 'ocsvm' or 'exposure'",
        ),
        ({"conditional": 1}, "should be a valid boolean"),
        ({"context": 0}, "greater than or equal to 1"),
        ({"kld_weight": -0.1}, "greater than or equal to 0"),
        ({"kld_weight": float("nan")}, "should be a finite number"),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Settings.model_validate(content)


HEARD = FeatureSettings(n_mels=32)
QUICK = Settings(context=3, h_dim=64, z_dim=8)


def windows_of(sounds: list[Array]) -> ContextWindows:
    frames = [HEARD.frames(sound.astype(np.float32)) for sound in sounds]
    store = FrameStore(frames=np.concatenate(frames), offsets=np.cumsum([0, *map(len, frames)], dtype=np.int64))
    paths = [Path(f"{number}.wav") for number in range(len(sounds))]
    clips = StoredClips(store, range(len(sounds)), paths)
    return ContextWindows(clips, context=QUICK.context, setting="model.context", device=torch.device("cpu"))


def healthy(*, clips: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [synthesize("00", rng, seconds=1.0) for _ in range(clips)]


def mean_loss(model: Model, windows: ContextWindows) -> float:
    (whole,) = windows.in_order(batch_size=len(windows))
    with torch.no_grad():
        return loss_of(model, whole).item()


@torch.no_grad()
def clip_scores(model: Model, windows: ContextWindows, *, batch_size: int = 100) -> list[float]:
    scored = [(model.score(batch), batch.clips) for batch in windows.in_order(batch_size)]
    scores, clips = (torch.cat(parts) for parts in zip(*scored, strict=True))
    return pool(scores, clips, clip_count=windows.clip_count, pooling="mean").tolist()


@pytest.fixture(scope="module")
def training() -> ContextWindows:
    return windows_of(healthy(clips=10, seed=0))


@pytest.fixture(scope="module")
def trained(training: ContextWindows) -> Model:
    """A model after 60 steps on ten clips."""
    model = model_of(QUICK, bins=HEARD.bins)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(10):
        for batch in training.shuffled(50, order):
            optimiser.zero_grad()
            torch.autograd.backward(model.loss(batch))
            optimiser.step()
    return model


def test_a_few_steps_on_ten_clips_halve_the_loss(trained: Model, training: ContextWindows) -> None:
    untrained = model_of(QUICK, bins=HEARD.bins)
    assert mean_loss(trained, training) < 0.5 * mean_loss(untrained, training)


def test_obvious_anomalies_score_higher_than_every_healthy_clip(trained: Model) -> None:
    well = healthy(clips=8, seed=1)
    noise = np.random.default_rng(2).normal(0, 0.1, len(well[0]))
    siren = 0.3 * np.sin(np.arange(len(well[0])))
    faulty = [well[0] + noise, well[1] + siren, 0 * well[2]]
    assert min(clip_scores(trained, windows_of(faulty))) > max(clip_scores(trained, windows_of(well)))


@pytest.mark.parametrize("batch_size", [1, 64])
def test_the_batch_size_changes_no_clips_score(trained: Model, training: ContextWindows, batch_size: int) -> None:
    whole = clip_scores(trained, training, batch_size=10_000)
    assert clip_scores(trained, training, batch_size=batch_size) == pytest.approx(whole, rel=1e-5)
