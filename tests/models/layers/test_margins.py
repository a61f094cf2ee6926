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

from models.layers.margins import AdaCos, ArcFace, CrossEntropy, Head

Array = npt.NDArray[np.float64]

DIM, CLASSES, ROWS = 6, 4, 9
THREE_CLASSES = math.sqrt(2) * math.log(2)

HEADS = ["cross_entropy", "arcface", "adacos", "subcluster_adacos"]


def head_of(name: str, *, seed: int = 0, dynamic: bool = False) -> Head:
    torch.manual_seed(seed)
    if name == "cross_entropy":
        return CrossEntropy(DIM, CLASSES)
    if name == "arcface":
        return ArcFace(DIM, CLASSES, margin=0.5, scale=30)
    return AdaCos(DIM, CLASSES, subclusters=3 if name == "subcluster_adacos" else 1, is_dynamic=dynamic)


def some(rows: int = ROWS, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings and labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, DIM, generator=generator), torch.randint(CLASSES, (rows,), generator=generator)


def in_numpy(array: Tensor) -> Array:
    return np.asarray(array.detach().double().numpy())


def unit(array: Array) -> Array:
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True))


def cosines_of(head: Any, embeddings: Tensor) -> Array:
    """(rows, centres), those of a class one after another."""
    return np.asarray(unit(in_numpy(embeddings)) @ unit(in_numpy(head.centres)).reshape(-1, DIM).T)


def negative_log_softmax(logits: Array, labels: Tensor) -> Array:
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.asarray(-np.log(probabilities[np.arange(len(labels)), labels.numpy()]))


def test_arcface_is_cross_entropy_on_cosines_with_the_right_angle_enlarged() -> None:
    head, (embeddings, labels) = head_of("arcface"), some()
    angles = np.arccos(cosines_of(head, embeddings))
    rows = np.arange(ROWS)
    assert (angles[rows, labels] < math.pi - 0.5).all()
    angles[rows, labels] += 0.5  # Deng et al. 2019, equation 3

    expected = negative_log_softmax(30 * np.cos(angles), labels)
    np.testing.assert_allclose(in_numpy(head.losses(embeddings, labels)), expected, rtol=1e-4)
    assert head(embeddings, [(1.0, labels)]).item() == pytest.approx(expected.mean(), rel=1e-4)


def test_arcface_scores_without_its_margin() -> None:
    head, (embeddings, _) = head_of("arcface"), some()
    np.testing.assert_allclose(in_numpy(head.logits(embeddings)), 30 * cosines_of(head, embeddings), atol=1e-4)


@pytest.mark.parametrize("length", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_arcface_has_slopes_on_a_centre_and_opposite_to_it(sign: int, length: float) -> None:
    head = head_of("arcface")
    assert isinstance(head, ArcFace)
    embeddings = (sign * length * head.centres.detach()).requires_grad_()
    loss = head(embeddings, [(1.0, torch.arange(CLASSES))])
    loss.backward()

    assert torch.isfinite(loss)
    assert embeddings.grad is not None and head.centres.grad is not None
    assert torch.isfinite(embeddings.grad).all() and torch.isfinite(head.centres.grad).all()


@settings(max_examples=30, deadline=None, database=None)
@given(margin=st.floats(0, 1.5), nearer=st.floats(0, math.pi), further=st.floats(0, math.pi))
def test_arcface_never_likes_a_larger_angle_better(margin: float, nearer: float, further: float) -> None:
    head = ArcFace(2, 2, margin=margin, scale=1)
    head.centres.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    near, far = sorted((nearer, further))
    angles = torch.tensor([near, far])
    with_margin = head._with_margin(angles.cos()[:, None])[:, 0]
    assert with_margin[1] <= with_margin[0] + 1e-3
    assert (with_margin <= angles.cos() + 1e-6).all()


@pytest.mark.parametrize(
    ("classes", "subclusters", "scale"),
    [
        (3, 1, THREE_CLASSES),  # √2·log(C - 1): Zhang et al. 2019, equation 10
        (10, 1, math.sqrt(2) * math.log(9)),
        (10, 16, math.sqrt(2) * math.log(159)),  # and with C·S for C: Wilkinghoff 2021
        (2, 2, math.sqrt(2) * math.log(3)),
        (2, 1, THREE_CLASSES),  # where the formula gives 0
        (1, 1, THREE_CLASSES),
    ],
)
def test_the_fixed_scale_of_adacos_follows_from_the_number_of_centres(
    classes: int, subclusters: int, scale: float
) -> None:
    head = AdaCos(DIM, classes, subclusters=subclusters, is_dynamic=False)
    embeddings, labels = some()
    head.train()(embeddings, [(1.0, labels % classes)])
    assert head.logit_scale.item() == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("name", ["adacos", "subcluster_adacos"])
def test_adacos_adds_the_probabilities_of_a_class_s_centres(name: str) -> None:
    head, (embeddings, labels) = head_of(name), some()
    cosines = cosines_of(head, embeddings)
    centres = cosines.shape[1]
    exponentials = np.exp(math.sqrt(2) * math.log(centres - 1) * cosines)
    of_class = exponentials.reshape(ROWS, CLASSES, -1).sum(axis=2) / exponentials.sum(axis=1, keepdims=True)

    expected = -np.log(of_class[np.arange(ROWS), labels])
    np.testing.assert_allclose(in_numpy(head.losses(embeddings, labels)), expected, rtol=1e-5)
    np.testing.assert_allclose(in_numpy(head.logits(embeddings).softmax(dim=1)), of_class, rtol=1e-5)


@pytest.mark.parametrize("name", ["adacos", "subcluster_adacos"])
def test_the_dynamic_scale_of_adacos_follows_the_batch(name: str) -> None:
    head, (embeddings, labels) = head_of(name, dynamic=True), some()
    assert isinstance(head, AdaCos)
    before = head.logit_scale.item()
    head(embeddings, [(1.0, labels)])

    cosines = cosines_of(head, embeddings).reshape(ROWS, CLASSES, -1)
    others = np.arange(CLASSES) != labels.numpy()[:, None]
    b = (np.exp(before * cosines) * others[:, :, None]).sum(axis=(1, 2)).mean()
    angles = np.arccos(cosines.max(axis=2))[np.arange(ROWS), labels]
    expected = math.log(b) / math.cos(min(math.pi / 4, np.median(angles)))  # Zhang et al. 2019, equation 14
    assert expected != pytest.approx(before, rel=0.01)
    assert head.logit_scale.item() == pytest.approx(expected, rel=1e-4)


def test_the_dynamic_scale_of_adacos_rests_in_scoring_and_travels_with_the_weights() -> None:
    head, (embeddings, labels) = head_of("adacos", dynamic=True), some()
    head(embeddings, [(1.0, labels)])
    assert isinstance(head, AdaCos)
    scale = head.logit_scale.clone()
    head.eval()(embeddings, [(1.0, labels)])
    loaded = head_of("adacos", seed=1, dynamic=True)
    loaded.load_state_dict(head.state_dict())

    assert torch.equal(head.logit_scale, scale)
    assert torch.equal(loaded.logits(embeddings), head.logits(embeddings))


def test_the_dynamic_scale_of_adacos_stays_within_bounds() -> None:
    collapsed = AdaCos(DIM, CLASSES, subclusters=1, is_dynamic=True)
    embeddings = collapsed.centres.detach()[0, :1].repeat(CLASSES, 1)
    parted = AdaCos(DIM, 2, subclusters=1, is_dynamic=True)
    parted.centres.data[1] = -parted.centres.data[0]
    for _ in range(60):
        collapsed(embeddings, [(1.0, torch.arange(CLASSES))])
        parted(parted.centres.detach()[:, 0], [(1.0, torch.arange(2))])

    assert collapsed.logit_scale.item() == 64  # where it would grow without end
    assert parted.logit_scale.item() == pytest.approx(THREE_CLASSES)  # where it would be below 0


def test_a_centre_belongs_to_the_class_whose_number_comes_first() -> None:
    torch.manual_seed(0)
    head = AdaCos(40, 3, subclusters=4, is_dynamic=False)
    for label in range(3):
        for subcluster in range(4):
            on_centre = head.centres.detach()[label, subcluster][None]
            assert head.logits(on_centre).argmax().item() == label
            assert head.cosines(on_centre)[0, label].item() == pytest.approx(1)
            assert head.losses(on_centre, torch.tensor([label])) < head.losses(on_centre, torch.tensor([label - 1]) % 3)


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_of_mixed_rows_is_the_mean_of_their_labels_by_their_shares(name: str) -> None:
    head, (embeddings, labels) = head_of(name), some()
    others = labels.roll(1)
    first, second = head.losses(embeddings, labels), head.losses(embeddings, others)
    expected = 0.3 * first.mean().item() + 0.7 * second.mean().item()
    assert head(embeddings, [(0.3, labels), (0.7, others)]).item() == pytest.approx(expected, rel=1e-5)


def test_of_a_mixed_row_both_classes_are_its_own_for_the_dynamic_scale() -> None:
    head, (embeddings, labels) = head_of("adacos", dynamic=True), some()
    assert isinstance(head, AdaCos)
    before, others = head.logit_scale.item(), (labels + 1) % CLASSES
    head(embeddings, [(0.25, labels), (0.75, others)])

    cosines, rows = cosines_of(head, embeddings), np.arange(ROWS)
    angles = 0.25 * np.arccos(cosines[rows, labels]) + 0.75 * np.arccos(cosines[rows, others])
    exponentials = np.exp(before * cosines)
    exponentials[rows, labels] = exponentials[rows, others] = 0
    expected = math.log(exponentials.sum(axis=1).mean()) / math.cos(min(math.pi / 4, np.median(angles)))
    assert head.logit_scale.item() == pytest.approx(max(expected, THREE_CLASSES), rel=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_s_loss_reaches_every_parameter_and_the_embeddings(name: str) -> None:
    head, (embeddings, labels) = head_of(name, dynamic=True), some()
    embeddings.requires_grad_()
    head(embeddings, [(1.0, labels)]).backward()
    reached = [embeddings, *head.parameters()]
    assert all(array.grad is not None and array.grad.any() for array in reached)


@pytest.mark.parametrize("name", HEADS)
def test_cosines_do_not_depend_on_the_length_of_an_embedding(name: str) -> None:
    head, (embeddings, _) = head_of(name), some()
    cosines = head.cosines(embeddings)
    assert cosines.shape == (ROWS, CLASSES)
    torch.testing.assert_close(head.cosines(7 * embeddings), cosines)
    assert cosines.abs().max() <= 1 + 1e-6


def test_the_centres_of_a_dense_layer_are_its_rows() -> None:
    head, (embeddings, _) = head_of("cross_entropy"), some()
    assert isinstance(head, CrossEntropy)
    expected = unit(in_numpy(embeddings)) @ unit(in_numpy(head.dense.weight)).T
    np.testing.assert_allclose(in_numpy(head.cosines(embeddings)), expected, atol=1e-6)
