from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from torch import nn

from features.errors import UnservedError
from models.layers.backbones import (
    BackboneError,
    SmallResNet,
    SpectrumNetwork,
    backbone_of,
    require_backbone,
    require_weights,
    settle_quickly,
)


def test_the_small_network_has_as_many_parameters_as_it_says() -> None:
    assert sum(parameter.numel() for parameter in SmallResNet().parameters()) == 700_144


@pytest.mark.parametrize(("bins", "frames"), [(128, 64), (128, 128), (513, 16), (12, 50), (1, 7), (1, 1)])
def test_the_small_network_takes_crops_of_any_size(bins: int, frames: int) -> None:
    network = backbone_of("small", bins=bins, frames=frames, is_pretrained=False)
    assert network(torch.rand(2, 1, bins, frames)).shape == (2, network.feature_count)


@pytest.mark.parametrize("name", ["mobilenetv2_050", "resnet50"])
def test_a_network_of_timm_s_takes_spectrograms_and_all_of_it_is_trained(name: str) -> None:
    network = backbone_of(name, bins=32, frames=64, is_pretrained=False)
    features = network(torch.rand(3, 1, 32, 64))
    assert features.shape == (3, network.feature_count)
    features.sum().backward()
    assert network.training
    # Not yet other than 0 in a residual branch of timm's ResNets, whose last factor begins with 0.
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_network_of_one_input_size_is_built_for_the_crops() -> None:
    network = backbone_of("vit_tiny_patch16_224", bins=32, frames=48, is_pretrained=False)
    assert network(torch.rand(2, 1, 32, 48)).shape == (2, 192)


def test_crops_that_a_network_cannot_take_are_refused() -> None:
    with pytest.raises(UnservedError, match=r"vit_tiny_patch16_224 cannot take crops of 8 bins and 12 frames \(.+\)"):
        backbone_of("vit_tiny_patch16_224", bins=8, frames=12, is_pretrained=False)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("smal", "small"),
        ("resnet5", "resnet50"),
        ("ResNet50", "resnet50"),
        ("mobilenetv2050", "mobilenetv2_050"),
        ("resnet50.a1_in2k", "resnet50.a1_in1k"),
    ],
)
def test_a_network_that_does_not_exist_is_refused_with_the_nearest_there_is(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"network in timm, but got '{name}'; did you mean {meant}"):
        require_backbone(name)


@pytest.mark.parametrize("name", ["small", "resnet50", "mobilenetv2_100", "mobilenetv2_050", "resnet50.a1_in1k"])
def test_a_network_that_exists_is_accepted(name: str) -> None:
    require_backbone(name)


def test_weights_that_nobody_has_published_are_refused() -> None:
    require_weights("resnet50")
    with pytest.raises(ValueError, match="timm knows no weights for botnet50ts_256"):
        require_weights("botnet50ts_256")


def test_weights_that_cannot_be_had_are_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match="weights of resnet10t are neither on this machine nor .*pretrained: false"):
        backbone_of("resnet10t", bins=32, frames=32, is_pretrained=True)


def test_the_spectrum_network_hears_levels_bin_by_bin_and_no_order_of_frames() -> None:
    torch.manual_seed(0)
    network = SpectrumNetwork(bins=12).eval()
    crops = torch.rand(5, 1, 12, 20)
    features = network(crops)
    assert features.shape == (5, network.feature_count)
    torch.testing.assert_close(network(crops[..., torch.randperm(20)]), features)
    assert not torch.allclose(network(crops.flip(2)), features)


def test_running_statistics_are_those_of_all_batches_at_first_and_a_moving_average_then() -> None:
    norm = nn.BatchNorm2d(2, momentum=0.25)
    settle_quickly(nn.Sequential(norm))
    batches = torch.randn(7, 5, 2, 3, 3, generator=torch.Generator().manual_seed(0)) + 4
    means = batches.mean(dim=(1, 3, 4))  # (batch, channel)
    expected: list[torch.Tensor] = []
    for number, mean in enumerate(means, start=1):
        share = max(0.25, 1 / number)
        expected.append(mean if number == 1 else (1 - share) * expected[-1] + share * mean)
    torch.testing.assert_close(expected[3], means[:4].mean(dim=0))

    for batch, running_mean in zip(batches, expected, strict=True):
        norm(batch)
        torch.testing.assert_close(norm.running_mean, running_mean)


def test_running_statistics_go_on_where_they_were_saved() -> None:
    def fresh() -> nn.BatchNorm1d:
        norm = nn.BatchNorm1d(2)
        settle_quickly(norm)
        return norm

    batches = torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(0))
    for saved_after in (1, 5, 12):
        undisturbed, interrupted, resumed = fresh(), fresh(), fresh()
        for batch in batches:
            undisturbed(batch)
        for batch in batches[:saved_after]:
            interrupted(batch)
        resumed.load_state_dict(interrupted.state_dict())
        for batch in batches[saved_after:]:
            resumed(batch)
        assert torch.equal(resumed.running_mean, undisturbed.running_mean)  # type: ignore[arg-type]


def test_networks_of_timm_s_settle_too() -> None:
    network = nn.Sequential(backbone_of("mobilenetv2_050", bins=16, frames=16, is_pretrained=False))
    settle_quickly(network)
    heard: list[torch.Tensor] = []
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[-1].register_forward_hook(lambda norm, inputs, output: heard.append(inputs[0]))
    network(torch.rand(4, 1, 16, 16))
    assert len(norms) > 50
    torch.testing.assert_close(norms[-1].running_mean, heard[0].mean(dim=(0, 2, 3)))
