from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from features.frames.feature_settings import FeatureSettings
from features.windows.excerpts import Batch
from models.group_made import Model, Orderings, Settings, frame_orderings
from models.labels import Labels
from models.layers.scale import Scale

BINS = 4
LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])


def model_of(made_of: Settings, *, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(made_of, Scale(FeatureSettings(n_mels=BINS).limits), LABELS)


@pytest.mark.parametrize(
    ("orderings", "frames", "expected"),
    [
        ("each_last", 1, [[0]]),
        ("each_last", 3, [[1, 2, 0], [2, 0, 1], [0, 1, 2]]),
        ("middle_last", 5, [[3, 4, 0, 1, 2]]),
        ("middle_last", 4, [[3, 0, 1, 2]]),
        ("middle_last", 1, [[0]]),
        ("in_time", 3, [[0, 1, 2]]),
    ],
)
def test_orders_of_frames(orderings: Orderings, frames: int, expected: list[list[int]]) -> None:
    assert frame_orderings(orderings, frames).tolist() == expected


@settings(max_examples=30, deadline=None, database=None)
@given(frames=st.integers(1, 40))
def test_each_last_predicts_every_frame_from_every_number_of_others_once(frames: int) -> None:
    places = frame_orderings("each_last", frames).argsort(dim=1)
    assert all(sorted(of_frame) == list(range(frames)) for of_frame in places.T.tolist())


def test_all_bins_of_a_frame_have_its_place() -> None:
    places = model_of(Settings(context=3, orderings="in_time")).network.places
    assert places.tolist() == [[0] * BINS + [1] * BINS + [2] * BINS]


def windows() -> Batch:
    inputs = torch.randn(6, 5 * BINS, generator=torch.Generator().manual_seed(0)) * 20 - 40
    return Batch(inputs=inputs, clips=torch.zeros(6, dtype=torch.int64))


def changed(batch: Batch, frame: int) -> Batch:
    inputs = batch.inputs.clone()
    inputs[:, frame * BINS] += 5
    return Batch(inputs, batch.clips)


@pytest.mark.parametrize(("orderings", "scored"), [("middle_last", 2), ("in_time", 4)])
def test_the_last_frame_s_score_is_how_unlike_its_prediction_from_all_others_it_is(
    orderings: Orderings, scored: int
) -> None:
    model, batch = model_of(Settings(h_dim=32, orderings=orderings, score="last_frame")), windows()
    of_frame = slice(scored * BINS, (scored + 1) * BINS)
    torch.testing.assert_close(model.score(batch), -model.likelihoods(batch, 0)[:, of_frame].mean(dim=1))
    assert all(not torch.equal(model.score(changed(batch, frame)), model.score(batch)) for frame in range(5))


def test_with_each_frame_last_once_the_last_ones_scores_are_averaged() -> None:
    model, batch = model_of(Settings(h_dim=32, score="last_frame")), windows()
    of_frames = [model.likelihoods(batch, frame)[:, frame * BINS : (frame + 1) * BINS] for frame in range(5)]
    torch.testing.assert_close(model.score(batch), -torch.cat(of_frames, dim=1).mean(dim=1))


def test_what_is_scored_changes_neither_weights_nor_loss() -> None:
    models = [model_of(Settings(h_dim=8, score=score)) for score in ("window", "last_frame")]
    losses = []
    for model in models:
        torch.manual_seed(1)
        losses.append(model.loss(windows()).item())
    assert losses[0] == losses[1]
    assert not torch.equal(models[0].score(windows()), models[1].score(windows()))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"orderings": "first_last"}, "'each_last', 'middle_last' or 'in_time'"),
        ({"score": "knn"}, "'window' or 'last_frame'"),
        ({"components": 0}, "greater than or equal to 1"),
        ({"layers": 0}, "greater than or equal to 1"),
        ({"context": 0}, "greater than or equal to 1"),
        ({"neighbours": 2}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Settings.model_validate(content)
