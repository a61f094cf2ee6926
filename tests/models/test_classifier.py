from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from features.errors import UnservedError
from features.frames.feature_settings import FeatureSettings
from features.windows.excerpts import Batch
from models.classifier import Model, Settings, log_odds
from models.labels import Labels
from models.layers.augmentations import TRANSFORMATIONS
from models.layers.margins import CrossEntropy
from models.layers.scale import Scale
from search.errors import StudyFileError
from search.study.study_file import study_of_tree

BINS, FRAMES = 16, 16
LABELS = Labels.of([("fan/00", "slow"), ("fan/00", "fast"), ("fan/02", "slow"), ("fan/04", "")])
ONE_ID = Labels.of([("fan/00", "")])
WITHOUT_ATTRIBUTES = Labels.of([("fan/00", ""), ("fan/02", "")])
LOSSES = ["cross_entropy", "arcface", "adacos", "subcluster_adacos"]
CLASSES = ["ids", "attributes", "augmentations"]
SCORES = ["log_odds", "softmax", "cosine"]

#: All that training may do at once.
BUSY: dict[str, Any] = {"mixup": 0.5, "spectrum": True}


def settings_of(**content: Any) -> Settings:
    return Settings.model_validate({"frames": FRAMES, "embedding_dim": 8, "subclusters": 2, **content})


def model_of(*, seed: int = 0, labels: Labels = LABELS, **content: Any) -> Model:
    torch.manual_seed(seed)
    return Model(settings_of(**content), Scale(FeatureSettings(n_mels=BINS, n_fft=1024).limits), labels)


def levels(crops: int = 12, *, seed: int = 0) -> Batch:
    """Crops in dB, each of an ID with a band of its own, twelve of them with each attribute thrice."""
    rng = np.random.default_rng(seed)
    attributes = np.arange(crops) % len(LABELS.attributes)
    ids = np.array([LABELS.id_index(LABELS.attributes[index][0]) for index in attributes])
    inputs = rng.uniform(-80, -40, (crops, 1, BINS, FRAMES)).astype(np.float32)
    for crop, band in enumerate(attributes):
        inputs[crop, 0, 4 * band : 4 * band + 3] += 40
    return Batch(
        inputs=torch.from_numpy(inputs),
        clips=torch.zeros(crops, dtype=torch.int64),
        ids=torch.from_numpy(ids),
        attributes=torch.from_numpy(attributes),
    )


def loss_of(model: Model, batch: Batch, *, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return model.loss(batch)


def trained(model: Model, batch: Batch, *, steps: int) -> Model:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    torch.manual_seed(1)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(model.loss(batch))
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("margin", [0.0, 1.0, 16.0, 16.7, 30.0, 90.0, 104.0, 200.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_log_odds_are_exact_at_any_margin(margin: float, sign: int) -> None:
    # Of two classes they are the margin; a third one that is as far away adds log 2.
    two, three = torch.tensor([[0.0, -sign * margin]]), torch.tensor([[5.0, 5 - sign * margin, 5 - sign * margin]])
    first = torch.tensor([0])
    assert log_odds(two, first).item() == pytest.approx(-sign * margin, rel=1e-6)
    assert log_odds(three, first).item() == pytest.approx(math.log(2) - sign * margin, rel=1e-6)


def test_log_odds_agree_with_probabilities_where_these_can_be_told() -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) * 3
    classes = torch.arange(20) % 5
    p = logits.double().softmax(dim=1)[torch.arange(20), classes]
    torch.testing.assert_close(log_odds(logits, classes).double(), (1 - p).log() - p.log(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("score", SCORES)
def test_the_score_is_about_the_class_of_the_crop_s_id(loss: str, score: str) -> None:
    model, batch = model_of(loss=loss, score=score).eval(), levels()
    embeddings, rows = model._embedding(model.scale(batch.inputs)), torch.arange(12)
    p = model.head.logits(embeddings).double().softmax(dim=1)[rows, batch.known_ids]
    expected = {
        "log_odds": ((1 - p) / p).log(),
        "softmax": 1 - p,
        "cosine": 1 - model.head.cosines(embeddings)[rows, batch.known_ids].double(),
    }
    torch.testing.assert_close(model.score(batch).double(), expected[score], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_minus_softmax_is_not_0_before_a_float_ends() -> None:
    model, batch = model_of(score="softmax").eval(), levels()
    assert isinstance(model.head, CrossEntropy)
    model.head.dense.weight.data.zero_()
    model.head.dense.bias.data = torch.tensor([60.0, 0.0, 0.0])
    scores = model.score(batch)
    at_0 = batch.known_ids == 0
    assert scores[at_0].tolist() == pytest.approx([2 * math.exp(-60)] * int(at_0.sum()), rel=1e-4, abs=0)
    assert (scores[~at_0] == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("score", SCORES)
def test_of_attributes_the_best_of_the_crop_s_id_counts_and_they_need_not_be_known(score: str) -> None:
    model, batch = model_of(classes="attributes", score=score).eval(), levels()
    embeddings, rows = model._embedding(model.scale(batch.inputs)), torch.arange(12)
    logits, cosines = model.head.logits(embeddings), model.head.cosines(embeddings)
    own = torch.tensor([[True, True, False, False], [False, False, True, False], [False, False, False, True]])
    best = logits.masked_fill(~own[batch.known_ids], -math.inf).argmax(dim=1)
    p = logits.double().softmax(dim=1)[rows, best]
    closest = cosines.double().masked_fill(~own[batch.known_ids], -math.inf).amax(dim=1)
    expected = {"log_odds": ((1 - p) / p).log(), "softmax": 1 - p, "cosine": 1 - closest}

    unknown = Batch(inputs=batch.inputs, clips=batch.clips, ids=batch.ids, attributes=torch.full((12,), -1))
    torch.testing.assert_close(model.score(unknown).double(), expected[score], rtol=1e-4, atol=1e-5)
    assert torch.equal(model.score(unknown), model.score(batch))


@torch.no_grad()
def test_of_augmentations_the_scores_of_all_are_averaged() -> None:
    model, batch = model_of(classes="augmentations").eval(), levels()
    count = len(TRANSFORMATIONS)
    expected = torch.stack(
        [
            log_odds(
                model.head.logits(model._embedding(transform(model.scale(batch.inputs)))),
                batch.known_ids * count + number,
            )
            for number, transform in enumerate(TRANSFORMATIONS)
        ]
    ).mean(dim=0)
    torch.testing.assert_close(model.score(batch), expected)


def test_embeddings_are_directions_and_those_of_the_spectrum_come_behind() -> None:
    batch = levels()
    with torch.no_grad():
        plain, both = model_of().eval().embed(batch), model_of(spectrum=True).eval().embed(batch)
    assert plain.shape == (12, 8) and both.shape == (12, 16)
    for embeddings in (plain, both):
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(12))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", CLASSES)
def test_the_loss_reaches_every_parameter(loss: str, classes: str) -> None:
    model = model_of(loss=loss, classes=classes, **BUSY)
    loss_of(model, levels()).backward()  # type: ignore[no-untyped-call]
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("content", [{}, BUSY])
def test_as_many_crops_as_it_asks_for_suffice(content: dict[str, Any]) -> None:
    fewest = settings_of(**content).fewest_in_batch
    assert torch.isfinite(loss_of(model_of(**content), levels(fewest)))
    with pytest.raises(ValueError, match="more than 1 value"):
        loss_of(model_of(**content), levels(fewest - 1))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_few_steps_tell_ten_crops_apart(loss: str) -> None:
    batch = levels(10)
    model = trained(model_of(seed=1, loss=loss, classes="attributes"), batch, steps=15)
    with torch.no_grad():
        told = model.head.logits(model._embedding(model.scale(batch.inputs))).argmax(dim=1)
        other = Batch(inputs=batch.inputs, clips=batch.clips, ids=(batch.known_ids + 1) % 3)
        scores, swapped = model.score(batch), model.score(other)
    assert torch.equal(told, batch.attributes)  # type: ignore[arg-type]
    assert scores.max() < swapped.min()  # a crop under another machine's name is an anomaly


def test_augmentations_of_one_machine_can_be_learnt() -> None:
    batch = levels(10)
    batch = Batch(
        inputs=batch.inputs[:1].repeat(10, 1, 1, 1), clips=batch.clips, ids=torch.zeros(10, dtype=torch.int64)
    )
    untrained = model_of(classes="augmentations", labels=ONE_ID).eval()
    model = trained(model_of(classes="augmentations", labels=ONE_ID), batch, steps=15)
    with torch.no_grad():
        assert model.score(batch).mean() < untrained.score(batch).mean() - 1


def test_mixup_mixes_crops_in_pairs_and_losses_likewise() -> None:
    model, batch = model_of(mixup=0.4).eval(), levels()
    loss = loss_of(model, batch, seed=3)

    torch.manual_seed(3)
    share = torch.distributions.Beta(0.4, 0.4).sample().item()
    partners = torch.randperm(12)
    assert 0.01 < share < 0.99
    crops = model.scale(batch.inputs)
    logits = model.head.logits(model._embedding(share * crops + (1 - share) * crops[partners]))
    soft = share * torch.eye(3)[batch.known_ids] + (1 - share) * torch.eye(3)[batch.known_ids[partners]]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, soft))


@pytest.mark.parametrize("mixup", [1e-6, 1e-3, 10.0])
def test_any_mixup_has_a_loss(mixup: float) -> None:
    model, batch = model_of(mixup=mixup).eval(), levels()
    assert all(torch.isfinite(loss_of(model, batch, seed=seed)) for seed in range(5))


def test_the_same_seed_is_the_same_model_and_loss() -> None:
    batch = levels()
    one, same, other = (model_of(seed=seed, classes="augmentations", **BUSY) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert loss_of(one, batch).item() == loss_of(same, batch).item()
    assert loss_of(one, batch).item() != loss_of(other, batch).item()


@torch.no_grad()
@pytest.mark.parametrize("classes", CLASSES)
def test_scoring_draws_nothing_and_no_division_into_batches_changes_it(classes: str) -> None:
    model, batch = model_of(classes=classes, score="log_odds", **BUSY), levels()
    loss_of(model, batch)
    model.eval()
    state = torch.random.get_rng_state()
    whole, embedded = model.score(batch), model.embed(batch)
    assert torch.equal(torch.random.get_rng_state(), state)
    parts = [
        Batch(inputs=inputs, clips=clips, ids=ids)
        for inputs, clips, ids in zip(
            *(torch.split(array, 5) for array in (batch.inputs, batch.clips, batch.known_ids)), strict=True
        )
    ]
    torch.testing.assert_close(torch.cat([model.score(part) for part in parts]), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([model.embed(part) for part in parts]), embedded, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loaded_model_scores_bit_for_bit_as_the_saved_one(loss: str) -> None:
    batch = levels()
    model, loaded = model_of(loss=loss, spectrum=True), model_of(seed=1, loss=loss, spectrum=True)
    loss_of(model, batch)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.eval().score(batch), model.eval().score(batch))


def test_the_head_keeps_its_precision_in_bfloat16() -> None:
    model, batch = model_of(loss="arcface", score="cosine").eval(), levels()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        loss = model.loss(batch)
    assert loss.dtype == torch.float32
    assert not torch.equal(loss, loss.bfloat16().float())


@pytest.mark.parametrize(
    ("content", "labels", "rule"),
    [
        ({}, ONE_ID, r"classes: ids takes two classes at least, but fan/00 is the only one\. "),
        ({}, ONE_ID, r"Set model.classes: augmentations, or train on more machine IDs"),
        ({"classes": "attributes"}, ONE_ID, r"classes: attributes takes two .*Set model.classes: augmentations, or"),
        ({}, LABELS.of_id("fan/00"), r"Set model.classes: attributes or model.classes: augmentations, or train"),
        ({"per_id": True}, LABELS, r"fan/00 is the only one of its model\. Set .* or model.per_id: false, or train"),
        ({"classes": "attributes"}, WITHOUT_ATTRIBUTES, r"none that differ .* Set model.classes: ids or"),
        ({"per_id": True, "classes": "attributes"}, LABELS, r"fan/02 is the only one of its model"),
    ],
)
def test_fewer_than_two_classes_are_refused_with_a_remedy(content: dict[str, Any], labels: Labels, rule: str) -> None:
    with pytest.raises(UnservedError, match=rule):
        settings_of(**content).require(labels, labels.ids)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({}, LABELS),
        ({"classes": "attributes"}, LABELS.of_id("fan/00")),
        ({"classes": "augmentations"}, ONE_ID),
        ({"classes": "augmentations", "per_id": True}, LABELS),
    ],
)
def test_two_classes_suffice(content: dict[str, Any], labels: Labels) -> None:
    settings_of(**content).require(labels, labels.ids)


@pytest.mark.parametrize("content", [{}, {"score": "knn", "unknown_id": "shared"}, {"classes": "augmentations"}])
def test_a_machine_id_never_trained_on_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(UnservedError, match="classifier cannot score fan/06: no training clip of it"):
        settings_of(**content).require(LABELS, [*LABELS.ids, "fan/06"])


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"backbone": "resnet5"}, "but got 'resnet5'; did you mean resnet50"),
        ({"backbone": "botnet50ts_256", "pretrained": True}, "timm knows no weights for botnet50ts_256"),
        ({"frames": 0}, "greater than or equal to 1"),
        ({"margin": 2.0}, "less than or equal to 1.5"),
        ({"logit_scale": 0.0}, "greater than 0"),
        ({"mixup": -0.1}, "greater than or equal to 0"),
        ({"subclusters": 0}, "greater than or equal to 1"),
        ({"embedding_dim": 0}, "greater than or equal to 1"),
        ({"loss": "softmax"}, "should be 'cross_entropy'"),
        ({"score": "vae"}, "should be 'log_odds'"),
    ],
)
def test_impossible_settings_are_refused(content: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Settings.model_validate(content)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ({"backbone": {"choices": ["small", "resnet5"]}}, "did you mean resnet50"),
        ({"margin": {"low": 0.1, "high": 0.5}}, "it counts with model.loss: arcface"),
        ({"loss": "adacos", "subclusters": {"low": 2, "high": 9}}, "it counts with model.loss: subcluster_adacos"),
        ({"score": "cosine", "neighbours": {"low": 2, "high": 9}}, "it counts with model.score: knn or lof"),
    ],
)
def test_a_study_that_asks_for_the_impossible_is_refused(model: dict[str, object], rule: str) -> None:
    with pytest.raises(StudyFileError, match=rule):
        study_of_tree({"study": "x", "model": {"family": "classifier", **model}}, origin="a study")
