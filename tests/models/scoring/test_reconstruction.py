"""Whole clips put together from windows or crops, of toy models whose reconstructions are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from features.frames.feature_settings import FeatureSettings
from features.frames.framing import Frames
from features.store.files import FrameStore
from features.windows.excerpts import Batch
from models.anomaly_model import AnomalyModel
from models.labels import Labels
from models.member import Member
from models.recordings import Recordings
from models.scoring import reconstruction
from models.scoring.reconstruction import reconstruction_of
from models.scoring.scorer import Single

FEATURES = FeatureSettings(n_mels=30)
LABELS = Labels.of([("fan/00", "")])

#: Frames of a crop, from one to the next, and of the clip; and the frames that are in no crop.
CROPS = [
    pytest.param(25, 5, 45, [], id="overlapping, the last hop a whole one"),
    pytest.param(25, 10, 48, [], id="overlapping, the last crop ends with the clip"),
    pytest.param(25, 1, 40, [], id="one for each frame"),
    pytest.param(25, 25, 75, [], id="side by side"),
    pytest.param(25, 25, 60, [], id="side by side, but for the last"),
    pytest.param(25, 25, 26, [], id="two that differ in one frame"),
    pytest.param(25, 30, 85, [*range(25, 30), *range(55, 60)], id="apart"),
    pytest.param(25, 30, 70, [*range(25, 30)], id="apart, but for the last"),
    pytest.param(25, 40, 58, [*range(25, 33)], id="apart, the last before its time"),
    pytest.param(25, 12, 25, [], id="one crop"),
]


class Echo(AnomalyModel):
    """Takes everything for what it is."""

    def __init__(self, *, answers: bool = True) -> None:
        super().__init__()
        self.answers = answers
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.trained_in: list[bool] = []
        self.sizes: list[int] = []

    def loss(self, batch: Batch) -> Tensor:
        return batch.inputs.sum() * self.weight

    def score(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch.inputs))

    def reconstruct(self, batch: Batch) -> Tensor | None:
        self.trained_in.append(self.training)
        self.sizes.append(len(batch.inputs))
        return self.changed(batch.inputs) if self.answers else None

    def changed(self, inputs: Tensor) -> Tensor:
        return inputs


class Places(Echo):
    """Takes each frame for its place in the window or crop."""

    def changed(self, inputs: Tensor) -> Tensor:
        if inputs.dim() == 4:
            return torch.arange(inputs.shape[3]).float().expand_as(inputs)
        context = inputs.shape[1] // FEATURES.bins
        return torch.arange(context).float().repeat_interleave(FEATURES.bins).expand_as(inputs)


class Calls(Echo):
    """Takes each crop for a number: how many came before it."""

    def changed(self, inputs: Tensor) -> Tensor:
        before = sum(self.sizes) - len(inputs)
        return (torch.arange(len(inputs)).float() + before).view(-1, 1, 1, 1).expand_as(inputs)


def frames_of(count: int, *, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).uniform(-90, 24, (count, FEATURES.bins)).astype(np.float32)


def clip_of(frames: Frames) -> Recordings:
    """The middle one of three clips of a store."""
    before, behind = frames_of(3, seed=1), frames_of(600, seed=2)
    offsets = np.cumsum([0, len(before), len(frames), len(behind)], dtype=np.int64)
    store = FrameStore(frames=np.concatenate([before, frames, behind]), offsets=offsets)
    return Recordings(lambda _: store, (1,), (Path("clip.wav"),), ("fan/00",), ("",), torch.device("cpu"))


def single_of(network: AnomalyModel, model: dict[str, Any], **training: Any) -> Single:
    member = Member.model_validate({"features": FEATURES, "model": model, "training": training})
    single = Single.fresh(member, LABELS, FEATURES.limits)
    single.model = network
    return single


def windows(context: int) -> dict[str, Any]:
    return {"family": "vae", "context": context, "h_dim": 1, "z_dim": 1}


def crops(frames: int, hop: int | None) -> dict[str, Any]:
    return {"family": "cae", "frames": frames, "crop_hop": hop, "width": 1, "z_dim": 1}


@pytest.mark.parametrize("context", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("more", [0, 1, 70])
def test_windows_that_are_taken_for_what_they_are_give_back_the_clip(context: int, more: int) -> None:
    frames = frames_of(context + more)
    np.testing.assert_array_equal(reconstruction_of(single_of(Echo(), windows(context)), clip_of(frames)), frames)


@pytest.mark.parametrize(
    ("context", "places"),
    [
        (1, [0, 0, 0, 0, 0, 0]),
        (2, [0, 1, 1, 1, 1, 1]),
        (3, [0, 1, 1, 1, 1, 2]),
        (5, [0, 1, 2, 2, 3, 4]),
        (6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_frame_is_taken_from_the_middle_of_a_window_where_it_is_of_any(context: int, places: list[int]) -> None:
    made = reconstruction_of(single_of(Places(), windows(context)), clip_of(frames_of(6)))
    assert made is not None
    np.testing.assert_array_equal(made, np.repeat(np.array(places)[:, None], FEATURES.bins, axis=1))


@pytest.mark.parametrize(("length", "hop", "count", "missing"), CROPS)
def test_crops_that_are_taken_for_what_they_are_give_back_the_clip(
    length: int, hop: int, count: int, missing: list[int]
) -> None:
    frames = frames_of(count)
    made = reconstruction_of(single_of(Echo(), crops(length, hop)), clip_of(frames))
    assert made is not None
    assert made.dtype == np.float32
    expected = frames.copy()
    expected[missing] = np.nan  # rather than a level that nobody heard
    np.testing.assert_array_equal(made, expected)


@settings(max_examples=30, deadline=None, database=None)
@given(length=st.integers(25, 40), hop=st.integers(1, 60), more=st.integers(0, 80))
def test_of_any_crops_each_frame_comes_back_or_is_in_none(length: int, hop: int, more: int) -> None:
    frames = frames_of(length + more)
    made = reconstruction_of(single_of(Echo(), crops(length, hop)), clip_of(frames))
    assert made is not None
    is_heard = np.isfinite(made).all(axis=1)
    np.testing.assert_array_equal(made[is_heard], frames[is_heard])
    assert is_heard.all() or hop > length
    assert np.isfinite(made[:length]).all()
    assert np.isfinite(made[-length:]).all()


def test_half_a_crop_is_the_hop_of_crops_that_say_none() -> None:
    made = reconstruction_of(single_of(Calls(), crops(30, None)), clip_of(frames_of(60)))
    assert made is not None
    np.testing.assert_array_equal(made[:, 0], np.repeat([0, 0.5, 1.5, 2], 15))


def test_a_frame_is_the_mean_of_the_crops_that_it_is_in() -> None:
    # Crops 0, 1 and 2 begin with frames 0, 20 and, as the clip has 55, 30; each is taken for its number.
    made = reconstruction_of(single_of(Calls(), crops(25, 20)), clip_of(frames_of(55)))
    assert made is not None
    np.testing.assert_array_equal(made[:, 0], [0] * 20 + [0.5] * 5 + [1] * 5 + [1.5] * 15 + [2] * 10)
    assert (made == made[:, :1]).all()


def test_what_is_at_which_place_in_a_crop_is_so_in_the_clip() -> None:
    made = reconstruction_of(single_of(Places(), crops(25, 25)), clip_of(frames_of(50)))
    assert made is not None
    np.testing.assert_array_equal(made[:, 0], [*range(25), *range(25)])


@pytest.mark.parametrize(
    ("model", "excerpts"),
    [pytest.param(windows(3), 198, id="windows"), pytest.param(crops(25, 1), 176, id="crops")],
)
def test_a_long_clip_is_reconstructed_in_batches(model: dict[str, Any], excerpts: int) -> None:
    echo, frames = Echo(), frames_of(200)
    np.testing.assert_array_equal(reconstruction_of(single_of(echo, model), clip_of(frames)), frames)
    assert sum(echo.sizes) == excerpts
    assert max(echo.sizes) <= reconstruction._BATCH + 1


@pytest.mark.parametrize("model", [windows(3), crops(25, 5)], ids=["windows", "crops"])
def test_a_family_that_reconstructs_nothing_has_none_and_is_asked_once(model: dict[str, Any]) -> None:
    echo = Echo(answers=False)
    assert reconstruction_of(single_of(echo, model), clip_of(frames_of(200))) is None
    assert len(echo.sizes) == 1


def test_a_model_in_training_reconstructs_as_it_scores() -> None:
    echo = Echo().train()
    reconstruction_of(single_of(echo, windows(1)), clip_of(frames_of(5)))
    assert echo.trained_in == [False]


@pytest.mark.parametrize("model", [windows(2), crops(25, 10)], ids=["windows", "crops"])
def test_numbers_of_another_type_become_float32(model: dict[str, Any]) -> None:
    class Halved(Echo):
        def changed(self, inputs: Tensor) -> Tensor:
            return inputs.bfloat16()

    frames = frames_of(30)
    made = reconstruction_of(single_of(Halved(), model), clip_of(frames))
    assert made is not None
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, frames, rtol=2**-8)


def test_a_family_s_own_reconstruction_is_in_the_features_units() -> None:
    torch.manual_seed(0)
    member = Member.model_validate({"features": FEATURES, "model": crops(25, 10)})
    single, frames = Single.fresh(member, LABELS, FEATURES.limits), frames_of(25)
    made = reconstruction_of(single, clip_of(frames))
    assert made is not None
    assert made.shape == frames.shape
    batch = Batch(torch.from_numpy(frames.T.copy())[None, None], torch.zeros(1, dtype=torch.int64))
    heard, taken_for = (np.clip((values + 90) / 114, 0, 1) for values in (frames, made))
    assert single.model.score(batch).item() == pytest.approx(np.mean((heard - taken_for) ** 2), rel=1e-4)
