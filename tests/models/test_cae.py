from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from features.clips.synthetic_corpus import synthesize
from features.errors import UnservedError
from features.frames.feature_settings import FeatureSettings
from features.store.files import FrameStore
from features.windows.crops import Crops
from features.windows.excerpts import Batch
from features.windows.stored_clips import StoredClips
from models.cae import Model, Settings
from models.labels import Labels
from models.layers.scale import Scale
from models.scoring.pooling import pool

Array = npt.NDArray[np.float64]
Latent = Literal["spatial", "global"]

LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])

BINS, FRAMES = 30, 34
SMALL = Settings(frames=FRAMES, width=3, z_dim=5, dropout=0.25)

#: The DCASE 2020 student entry's parameter count and latents.
PARAMETERS = 1_026_601
LATENTS = {64: (40, 1, 1), 128: (40, 5, 5), 256: (40, 13, 13)}

#: Bins, frames, and the map of the spatial latent.
CROPS = [
    (64, 64, (1, 1)),
    (128, 128, (5, 5)),
    (256, 256, (13, 13)),
    (64, 128, (1, 5)),
    (128, 64, (5, 1)),
    (96, 80, (3, 2)),
    (100, 77, (3, 2)),
    (128, 313, (5, 17)),  # a whole clip of 10 s
    (57, 57, (1, 1)),
    (56, 57, (1, 1)),
    (32, 32, (1, 1)),
    (25, 25, (1, 1)),
]


def scale_of(bins: int) -> Scale:
    """That of log-mel levels."""
    return Scale(FeatureSettings(n_mels=bins, n_fft=1024).limits)


def model_of(settings: Settings = SMALL, *, seed: int = 0, bins: int = BINS, training: bool = False) -> Model:
    torch.manual_seed(seed)
    return Model(settings, scale_of(bins), LABELS).train(training)


def levels(crops: int, *, bins: int = BINS, frames: int = FRAMES, seed: int = 0) -> Batch:
    """Crops of levels from -120 to 40 dB: some lie outside of the range that the model hears."""
    inputs = np.random.default_rng(seed).uniform(-120, 40, (crops, 1, bins, frames)).astype(np.float32)
    return Batch(inputs=torch.from_numpy(inputs), clips=torch.zeros(crops, dtype=torch.int64))


def parameters_of(model: Model) -> int:
    return sum(weights.numel() for weights in model.parameters())


def latent_of(model: Model, batch: Batch) -> Tensor:
    latent: Tensor = model.encoder(model.scale(batch.inputs))
    return latent


@pytest.mark.parametrize("latent", ["spatial", "global"])
@pytest.mark.parametrize("side", LATENTS)
def test_the_entrys_cae_has_1026601_parameters_for_each_of_its_crops(side: int, latent: Latent) -> None:
    assert parameters_of(model_of(Settings(latent=latent), bins=side)) == PARAMETERS


@pytest.mark.parametrize(("side", "latent"), LATENTS.items())
def test_the_entrys_square_crops_have_its_latents(side: int, latent: tuple[int, int, int]) -> None:
    with torch.inference_mode():
        assert latent_of(model_of(Settings(), bins=side), levels(1, bins=side, frames=side)).shape == (1, *latent)


@pytest.mark.parametrize(("side", "compression"), [(64, 102), (128, 16), (256, 9.7)])
def test_the_entrys_crops_are_compressed_as_published(side: int, compression: float) -> None:
    assert side * side / np.prod(LATENTS[side]) == pytest.approx(compression, rel=0.03)


def test_its_defaults_are_the_entrys() -> None:
    chosen = Settings()
    assert (chosen.width, chosen.z_dim, chosen.latent, chosen.crops_per_clip) == (32, 40, "spatial", 10)
    assert chosen.excerpt_frames(128) == 128


@pytest.mark.parametrize("latent", ["spatial", "global"])
@pytest.mark.parametrize(("bins", "frames", "spatial"), CROPS)
def test_a_crop_comes_back_in_its_own_size_from_a_latent_of_the_stated_one(
    bins: int, frames: int, spatial: tuple[int, int], latent: Latent
) -> None:
    model = model_of(SMALL.model_copy(update={"frames": frames, "latent": latent}), bins=bins)
    batch = levels(2, bins=bins, frames=frames)
    with torch.inference_mode():
        assert latent_of(model, batch).shape == (2, 5, *(spatial if latent == "spatial" else (1, 1)))
        assert model.reconstruct(batch).shape == (2, 1, bins, frames)
        assert model.score(batch).shape == (2,)
        assert model.embed(batch).shape == (2, 5)


@settings(max_examples=30, deadline=None, database=None)
@given(bins=st.integers(25, 120), frames=st.integers(25, 120), latent=st.sampled_from(["spatial", "global"]))
def test_crops_of_any_size_from_25_on_come_back_in_it(bins: int, frames: int, latent: Latent) -> None:
    model = model_of(Settings(frames=frames, latent=latent, width=1, z_dim=1), bins=bins)
    with torch.inference_mode():
        assert model.reconstruct(levels(1, bins=bins, frames=frames)).shape == (1, 1, bins, frames)


@pytest.mark.parametrize("frames", [57, 64, 129, 313])
def test_a_global_latent_has_as_many_parameters_for_every_crop_from_57_on(frames: int) -> None:
    settings = SMALL.model_copy(update={"latent": "global"})
    counts = {
        parameters_of(model_of(settings.model_copy(update={"frames": length}), bins=bins))
        for length, bins in ((frames, 64), (64, frames))
    }
    assert counts == {parameters_of(model_of(settings.model_copy(update={"frames": 64}), bins=64))}


def test_for_a_crop_of_64_the_two_latents_are_one_model() -> None:
    spatial = model_of(SMALL.model_copy(update={"frames": 64}), bins=64)
    whole = model_of(SMALL.model_copy(update={"frames": 64, "latent": "global"}), bins=64, seed=1)
    for one, other in zip(whole.parameters(), spatial.parameters(), strict=True):
        one.data.copy_(other)
    batch = levels(3, bins=64, frames=64)
    torch.testing.assert_close(whole.reconstruct(batch), spatial.reconstruct(batch))


@pytest.mark.parametrize(
    ("bins", "frames", "message"),
    [
        (24, 64, r"model\.family cae needs frames of at least 25 bins, but these features have 24\. .*n_mels"),
        (12, "square", r"at least 25 bins, but these features have 12"),
        (64, 24, r"model\.frames ≥ 25 must hold for model\.family cae, but got 24"),
        (64, 1, r"model\.frames ≥ 25 must hold for model\.family cae, but got 1"),
    ],
)
def test_crops_too_small_for_the_convolutions_are_refused(
    bins: int, frames: int | Literal["square"], message: str
) -> None:
    with pytest.raises(UnservedError, match=message):
        model_of(Settings(frames=frames), bins=bins)


def errors_of(model: Model, batch: Batch) -> Array:
    """Squared errors of scaled crops, of what the model says it takes them for, (batch, bins, frames)."""
    scaled = np.clip((batch.inputs.double().numpy() + 90) / 114, 0, 1)  # the entry's range of levels
    reconstruction = (model.reconstruct(batch).detach().double().numpy() + 90) / 114
    return np.asarray((reconstruction - scaled) ** 2)[:, 0]


@pytest.mark.parametrize("latent", ["spatial", "global"])
def test_the_score_is_the_mean_squared_error_of_a_scaled_crop_and_the_loss_their_mean(latent: Latent) -> None:
    model, batch = model_of(SMALL.model_copy(update={"latent": latent})), levels(6)
    scores = errors_of(model, batch).mean(axis=(1, 2))
    np.testing.assert_allclose(model.score(batch).detach(), scores, rtol=1e-4)
    assert model.loss(batch).item() == pytest.approx(scores.mean(), rel=1e-4)
    assert scores.std() > 1e-4  # crops are told apart


def test_the_layers_are_the_stated_ones() -> None:
    # Once more from functions of torch, by the module's table: 5, 5, 3, 3 by stride 2, then 3, and backwards. A crop
    # of 57 × 73 needs no row or column more than the transposed convolutions give by themselves.
    model, batch = model_of(SMALL.model_copy(update={"frames": 73}), bins=57), levels(2, bins=57, frames=73)
    tensors = list(model.parameters())
    (*down, last), (first, *up) = (
        list(zip(tensors[start : start + 10 : 2], tensors[start + 1 : start + 10 : 2], strict=True))
        for start in (0, 10)
    )
    hidden = torch.clamp((batch.inputs + 90) / 114, 0, 1)
    for (weight, bias), padding in zip(down, (2, 2, 0, 0), strict=True):
        hidden = functional.relu(functional.conv2d(hidden, weight, bias, stride=2, padding=padding))
    latent = functional.conv2d(hidden, *last)
    hidden = functional.conv_transpose2d(latent, *first)
    for (weight, bias), padding in zip(up, (0, 0, 2, 2), strict=True):
        hidden = functional.conv_transpose2d(functional.relu(hidden), weight, bias, stride=2, padding=padding)

    assert [weight.shape[2] for weight, _ in (*down, last, first, *up)] == [5, 5, 3, 3, 3, 3, 3, 3, 5, 5]
    torch.testing.assert_close(model.embed(batch), latent.mean(dim=(2, 3)))
    torch.testing.assert_close(model.reconstruct(batch), 114 * torch.sigmoid(hidden) - 90, rtol=1e-5, atol=1e-3)


def test_levels_outside_of_the_range_are_heard_as_its_ends() -> None:
    model = model_of()
    below, lowest, above, highest = (
        model.score(Batch(torch.full((1, 1, BINS, FRAMES), level), torch.zeros(1, dtype=torch.int64)))
        for level in (-300.0, -90.0, 80.0, 24.0)
    )
    assert torch.equal(below, lowest)
    assert torch.equal(above, highest)
    assert not torch.equal(lowest, highest)


def test_the_batch_is_left_as_it_is() -> None:
    model, batch = model_of(training=True), levels(3)
    model.loss(batch)
    model.score(batch)
    model.embed(batch)
    model.reconstruct(batch)
    assert torch.equal(batch.inputs, levels(3).inputs)


def test_training_drops_out_and_scoring_does_not() -> None:
    model, batch = model_of(training=True), levels(3)

    def drawn(seed: int) -> tuple[float, Tensor]:
        torch.manual_seed(seed)
        return model.loss(batch).item(), model.score(batch)

    assert drawn(0)[0] != drawn(1)[0]
    model.eval()
    assert drawn(0)[0] == drawn(1)[0]
    assert torch.equal(drawn(0)[1], drawn(1)[1])


def test_without_dropout_training_draws_nothing() -> None:
    batch = levels(3)
    settings = SMALL.model_copy(update={"dropout": 0.0})
    assert model_of(settings, training=True).loss(batch).item() == model_of(settings).loss(batch).item()


@pytest.mark.parametrize("latent", ["spatial", "global"])
def test_gradients_reach_every_weight_tensor(latent: Latent) -> None:
    model = model_of(SMALL.model_copy(update={"latent": latent, "frames": 70}), bins=70, training=True)
    torch.autograd.backward(model.loss(levels(8, bins=70, frames=70)))
    without = [name for name, weights in model.named_parameters() if weights.grad is None or not weights.grad.any()]
    assert without == []


def test_the_same_seed_gives_the_same_weights() -> None:
    one, other, another = model_of(seed=3), model_of(seed=3), model_of(seed=4)
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, other.state_dict()[name])
    assert any(not torch.equal(weights, another.state_dict()[name]) for name, weights in one.state_dict().items())


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"zdim": 40}, "Extra inputs are not permitted"),
        ({"width": 0}, "greater than or equal to 1"),
        ({"z_dim": 0}, "greater than or equal to 1"),
        ({"z_dim": "40"}, "should be a valid integer"),
        ({"dropout": 1.0}, "less than 1"),
        ({"dropout": -0.1}, "greater than or equal to 0"),
        ({"latent": "flat"}, "should be 'spatial' or 'global'"),
        (
            {"score": "likelihood"},
            "should be 'reconstruction', 'mahalanobis', 'gmm', 'knn', 'lof', 'ocsvm' or 'exposure'",
        ),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Settings.model_validate(content)


@pytest.mark.parametrize(("score", "backend"), [("reconstruction", None), ("knn", "knn"), ("gmm", "gmm")])
def test_a_density_judges_its_latent_where_score_names_one(score: str, backend: str | None) -> None:
    assert Settings.model_validate({"score": score}).backend == backend


HEARD = FeatureSettings(n_mels=32, hop_length=256)
SEEN = 80  # frames of a crop: of so many the two latents differ


def crops_of(sounds: list[Array]) -> Crops:
    frames = [HEARD.frames(sound.astype(np.float32)) for sound in sounds]
    store = FrameStore(frames=np.concatenate(frames), offsets=np.cumsum([0, *map(len, frames)], dtype=np.int64))
    paths = [Path(f"{number}.wav") for number in range(len(sounds))]
    clips = StoredClips(store, range(len(sounds)), paths)
    return Crops(clips, frames=SEEN, hop=7, crops_per_clip=3, setting="model.frames", device=torch.device("cpu"))


def healthy(*, clips: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [synthesize("00", rng, seconds=1.5) for _ in range(clips)]


@torch.inference_mode()
def crop_scores(model: Model, crops: Crops, *, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    scored = [(model.score(batch), batch.clips) for batch in crops.in_order(batch_size)]
    scores, clips = (torch.cat(parts) for parts in zip(*scored, strict=True))
    return scores, clips


def clip_scores(model: Model, crops: Crops) -> list[float]:
    return pool(*crop_scores(model, crops), clip_count=crops.clip_count, pooling="mean").tolist()


def quick(latent: Latent) -> Model:
    return model_of(Settings(frames=SEEN, latent=latent, width=6, z_dim=8, dropout=0.1), bins=HEARD.bins)


@pytest.fixture(scope="module")
def training() -> Crops:
    return crops_of(healthy(clips=10, seed=0))


@pytest.fixture(scope="module", params=["spatial", "global"])
def trained(request: pytest.FixtureRequest, training: Crops) -> tuple[Latent, Model]:
    """A model after 30 steps on ten clips."""
    latent: Latent = request.param
    model = quick(latent).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(10):
        for batch in training.shuffled(10, order):
            optimiser.zero_grad()
            torch.autograd.backward(model.loss(batch))
            optimiser.step()
    return latent, model.eval()


def test_a_few_steps_on_ten_clips_bring_the_error_to_a_tenth(trained: tuple[Latent, Model], training: Crops) -> None:
    latent, model = trained
    before, after = (crop_scores(model, training)[0].mean().item() for model in (quick(latent), model))
    assert after < 0.1 * before


def test_obvious_anomalies_score_higher_than_every_healthy_clip(trained: tuple[Latent, Model]) -> None:
    well = healthy(clips=8, seed=1)
    noise = np.random.default_rng(2).normal(0, 0.1, len(well[0]))
    siren = 0.3 * np.sin(np.arange(len(well[0])))
    faulty = [well[0] + noise, well[1] + siren, 0 * well[2]]
    assert min(clip_scores(trained[1], crops_of(faulty))) > max(clip_scores(trained[1], crops_of(well)))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_how_crops_are_divided_into_batches_changes_no_score(
    trained: tuple[Latent, Model], training: Crops, batch_size: int
) -> None:
    whole, _ = crop_scores(trained[1], training)
    divided, _ = crop_scores(trained[1], training, batch_size=batch_size)
    torch.testing.assert_close(divided, whole, rtol=1e-5, atol=1e-6)


def test_saved_and_loaded_it_gives_the_same_scores_bit_for_bit(trained: tuple[Latent, Model], training: Crops) -> None:
    latent, model = trained
    loaded = quick(latent)
    loaded.load_state_dict(load(save(model.state_dict())))
    assert torch.equal(crop_scores(loaded, training)[0], crop_scores(model, training)[0])


def test_under_bfloat16_losses_and_scores_are_near_those_of_float32(
    trained: tuple[Latent, Model], training: Crops
) -> None:
    batch = training.batch(torch.arange(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, scores = trained[1].loss(batch), trained[1].score(batch)
    assert loss.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(scores, trained[1].score(batch), rtol=0.1, atol=1e-4)


def test_no_layer_keeps_statistics_of_batches(trained: tuple[Latent, Model]) -> None:
    assert {name for name, _ in trained[1].named_buffers()} == {"scale.lowest", "scale.span"}
