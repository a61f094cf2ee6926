"""Families whose network may be told machine IDs: what is told, what changes by it, and where it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from features.errors import UnservedError
from features.frames.feature_settings import FeatureSettings
from features.windows.excerpts import Batch
from models.anomaly_model import AnomalyModel
from models.families import build, settings_of
from models.labels import Labels
from models.layers.conditioning import ConditionalSettings, id_inputs, with_ids
from search.errors import StudyFileError
from search.study.study_file import study_of_tree

BINS, CONTEXT = 8, 2
LABELS = Labels.of([("fan/00", ""), ("fan/02", ""), ("fan/04", "")])
LIMITS = FeatureSettings(n_mels=BINS, n_fft=1024).limits
FAMILIES = ["vae", "ae"]


def settings_for(family: str, **content: Any) -> ConditionalSettings:
    settings = settings_of(family).model_validate(
        {"family": family, "context": CONTEXT, "h_dim": 12, "z_dim": 4, **content}
    )
    assert isinstance(settings, ConditionalSettings)
    return settings


def model_of(family: str, *, conditional: bool) -> AnomalyModel:
    torch.manual_seed(0)
    return build(settings_for(family, conditional=conditional), LIMITS, LABELS).eval()


def windows(*, ids: list[int] | None) -> Batch:
    """Five windows of levels within the range that models hear."""
    inputs = np.random.default_rng(0).uniform(-90, 24, (5, CONTEXT * BINS)).astype(np.float32)
    return Batch(
        inputs=torch.from_numpy(inputs),
        clips=torch.arange(5),
        ids=None if ids is None else torch.tensor(ids),
    )


def test_an_id_is_told_as_a_one_behind_the_values() -> None:
    values = torch.tensor([[0.25, 0.5], [0.75, 1.0]])
    batch = Batch(inputs=values, clips=torch.arange(2), ids=torch.tensor([2, 0]))
    expected = torch.tensor([[0.25, 0.5, 0, 0, 1], [0.75, 1.0, 1, 0, 0]])
    assert torch.equal(with_ids(values, batch, 3), expected)
    assert with_ids(values.bfloat16(), batch, 3).dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("conditional", "ids"), [(False, 0), (True, 3)])
def test_a_conditional_network_knows_the_ids_that_it_was_trained_on(family: str, conditional: bool, ids: int) -> None:
    settings = settings_for(family, conditional=conditional)
    assert settings.knows_ids is conditional
    assert id_inputs(settings, LABELS) == ids


@pytest.mark.parametrize("family", FAMILIES)
def test_each_id_is_a_weight_more_for_every_unit_of_the_first_layer_on_both_sides(family: str) -> None:
    with_them, without = (
        sum(weights.numel() for weights in model_of(family, conditional=conditional).parameters())
        for conditional in (True, False)
    )
    assert with_them - without == 2 * 3 * 12


def outputs(model: AnomalyModel, batch: Batch) -> list[Tensor]:
    reconstruction = model.reconstruct(batch)
    assert reconstruction is not None
    return [model.score(batch), model.embed(batch), reconstruction]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_a_conditional_one_answers_otherwise_when_told_another_id(family: str) -> None:
    one, other = windows(ids=[0, 1, 2, 0, 1]), windows(ids=[0, 2, 2, 0, 2])
    changed = torch.tensor([False, True, False, False, True])

    model = model_of(family, conditional=True)
    for first, second in zip(outputs(model, one), outputs(model, other), strict=True):
        assert torch.equal((first != second).view(5, -1).any(dim=1), changed)

    model = model_of(family, conditional=False)
    for first, second in zip(outputs(model, one), outputs(model, windows(ids=None)), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conditional_one_needs_batches_with_ids(family: str) -> None:
    model = model_of(family, conditional=True)
    with pytest.raises(ValueError, match="a conditional model got a batch without machine IDs"):
        model.score(windows(ids=None))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_is_told_too(family: str) -> None:
    # The same latent vector is taken for another window under another ID.
    model = model_of(family, conditional=True)
    state = model.state_dict()
    state["encoder.0.weight"][:, CONTEXT * BINS :] = 0  # the encoder does not listen

    one, other = windows(ids=[0] * 5), windows(ids=[1] * 5)
    assert torch.equal(model.embed(one), model.embed(other))
    assert (model.score(one) != model.score(other)).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("conditional", [False, True])
def test_a_reconstruction_is_in_the_unit_of_the_inputs(family: str, conditional: bool) -> None:
    model, batch = model_of(family, conditional=conditional), windows(ids=[0, 1, 2, 0, 1])
    reconstruction = model.reconstruct(batch)
    assert reconstruction is not None
    # The score is the mean squared error on the unit interval, which is 114 dB.
    errors = ((reconstruction - batch.inputs) / 114).square().mean(dim=1)
    torch.testing.assert_close(errors, model.score(batch), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conditional_one_refuses_clips_of_an_id_it_is_not_trained_on_and_shares_nothing(family: str) -> None:
    settings = settings_for(family, conditional=True, unknown_id="shared")
    settings.require(LABELS, ["fan/00"])
    with pytest.raises(UnservedError) as refused:
        settings.require(LABELS, ["fan/00", "fan/06"])
    assert str(refused.value) == (
        f"model.family {family} cannot score fan/06: no training clip of it. "
        "Train on it (corpus.train_on, corpus.machines)"
    )
    settings_for(family).require(LABELS, ["fan/06"])


@pytest.mark.parametrize("family", FAMILIES)
def test_telling_a_model_of_one_id_its_id_is_not_searched(family: str) -> None:
    tree: dict[str, Any] = {"study": "told", "model": {"family": family, "conditional": {"choices": [False, True]}}}
    assert study_of_tree(tree, origin="here").space.settings
    tree["model"]["per_id"] = True
    with pytest.raises(StudyFileError, match="would be searched for nothing: it counts with model.per_id: False"):
        study_of_tree(tree, origin="here")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("opened", "score"),
    [({"neighbours": {"low": 1, "high": 4}}, "knn or lof"), ({"components": {"low": 1, "high": 4}}, "gmm")],
)
def test_settings_of_densities_are_searched_only_beside_them(family: str, opened: dict[str, Any], score: str) -> None:
    tree: dict[str, Any] = {"study": "told", "model": {"family": family, **opened}}
    with pytest.raises(StudyFileError, match=f"would be searched for nothing: it counts with model.score: {score}"):
        study_of_tree(tree, origin="here")
    tree["model"]["score"] = score.split()[0]
    assert study_of_tree(tree, origin="here").space.settings
