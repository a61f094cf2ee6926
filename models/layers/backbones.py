"""Networks that turn crops into features: a small one of our own, any of timm's, and one on the mean spectrum.

crops    : (batch, 1, bins, frames) in [0, 1]
features : (batch, n)

timm takes seconds to load: it is imported when a study names one of its networks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from features.did_you_mean import did_you_mean
from features.errors import OffkeyError, UnservedError, first_line

SMALL = "small"

_SPECTRUM_UNITS = 128

#: About the mean and the deviation of a crop's values: filters learn faster on inputs around 0.
_MEAN, _DEVIATION = 0.5, 0.2


class BackboneError(OffkeyError):
    """A network's published weights cannot be obtained."""


class SmallResNet(nn.Module):
    """ResNet-18 (He et al., "Deep Residual Learning for Image Recognition", 2016) a quarter as wide, with a smaller
    first filter: 700,144 parameters.

    (batch, 1, bins, frames) → 16 channels, a quarter of the size → 16 → 32, half of that → 64 → 128 → mean (batch, 128)
    """

    feature_count = 128

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 16, 32, 64, 128)
        layers: list[nn.Module] = [
            nn.Conv2d(1, widths[0], 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [_Residual(inputs, outputs, stride=2 if stage else 1), _Residual(outputs, outputs, stride=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, crops: Tensor) -> Tensor:
        maps: Tensor = self.layers((crops - _MEAN) / _DEVIATION)
        return maps.mean(dim=(2, 3))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        added: Tensor = self.body(maps) + self.shortcut(maps)
        return added.relu()


class SpectrumNetwork(nn.Module):
    """A network on the crop's mean spectrum: the level of each bin, averaged over the frames.

    Wilkinghoff, "Design Choices for Learning Embeddings from Auxiliary Tasks for Domain Generalization in Anomalous
    Sound Detection" (2023), gives a second network the Fourier transform of the whole waveform, which resolves
    tones a tenth of a hertz apart. A model here has frames alone, and their mean is as coarse as their bins, though it
    distinguishes steady sounds too. `features.kind: logspectrum` has the finest bins.
    """

    feature_count = _SPECTRUM_UNITS

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(bins, _SPECTRUM_UNITS, bias=False),
            nn.BatchNorm1d(_SPECTRUM_UNITS),
            nn.ReLU(),
            nn.Linear(_SPECTRUM_UNITS, _SPECTRUM_UNITS, bias=False),
            nn.BatchNorm1d(_SPECTRUM_UNITS),
            nn.ReLU(),
        )

    def forward(self, crops: Tensor) -> Tensor:
        features: Tensor = self.layers((crops[:, 0].mean(dim=2) - _MEAN) / _DEVIATION)
        return features


class TimmNetwork(nn.Module):
    """A network of timm's with one input channel and without its own classes."""

    def __init__(self, name: str, *, bins: int, frames: int, is_pretrained: bool) -> None:
        """Raises UnservedError if it cannot take crops of this size, BackboneError if weights cannot be obtained."""
        super().__init__()
        self.network = _created(name, bins=bins, frames=frames, is_pretrained=is_pretrained)
        known_of: Any = self.network.pretrained_cfg
        # Mean and deviation, over all colours, of the photographs that pretrained weights were learnt from.
        self.mean, self.deviation = (sum(known_of[key]) / len(known_of[key]) for key in ("mean", "std"))
        self.feature_count = self._tried(name, bins=bins, frames=frames)

    def forward(self, crops: Tensor) -> Tensor:
        features: Tensor = self.network((crops - self.mean) / self.deviation)
        return features

    @torch.no_grad()
    def _tried(self, name: str, *, bins: int, frames: int) -> int:
        """The number of features of a crop, by a forward pass: not all networks of timm's report it without classes."""
        self.eval()
        try:
            features = self(torch.zeros(1, 1, bins, frames))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _refused(name, bins, frames, error) from error
        self.train()
        return int(features.shape[1])


def settle_quickly(network: nn.Module) -> None:
    """Make running means and variances averages over all batches so far, until moving averages change more slowly.

    They begin with 0 and 1; moving averages take dozens of steps to come near the true values. On a small corpus these
    steps are several epochs, and the pruner would compare trials by scores that the running averages still distort.
    """
    for norm in network.modules():
        if isinstance(norm, _BatchNorm) and norm.momentum is not None:
            norm.register_forward_pre_hook(_Settling(norm.momentum))


class _Settling:
    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.is_over = False

    def __call__(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        if norm.training and not self.is_over:
            assert norm.num_batches_tracked is not None
            norm.momentum = max(self.momentum, 1 / (int(norm.num_batches_tracked) + 1))
            # Reading the counter waits for the GPU: stop once there is no more need.
            self.is_over = norm.momentum == self.momentum


def require_backbone(name: str) -> None:
    """Raises ValueError, naming the nearest name, unless a network has this name."""
    if name == SMALL:
        return
    import timm

    # A name with a dot also says which weights (resnet50.a1_in1k): such names are those of pretrained networks.
    known = timm.list_models(pretrained="." in name)
    if name not in known:
        near = did_you_mean(name, [SMALL, *known])
        raise ValueError(f"must be {SMALL} or the name of a network in timm, but got {name!r}{near}")


def require_weights(name: str) -> None:
    """Raises ValueError unless pretrained weights are published for a network of timm's."""
    import timm

    if not timm.is_model_pretrained(name):
        raise ValueError(f"pretrained: timm knows no weights for {name}; set it to false or choose another backbone")


def backbone_of(name: str, *, bins: int, frames: int, is_pretrained: bool) -> SmallResNet | TimmNetwork:
    """A fresh network; its weights come from torch's random state unless they are pretrained.

    Raises UnservedError if it cannot take crops of this size, BackboneError if weights cannot be obtained.
    """
    if name == SMALL:
        return SmallResNet()
    return TimmNetwork(name, bins=bins, frames=frames, is_pretrained=is_pretrained)


def _created(name: str, *, bins: int, frames: int, is_pretrained: bool) -> nn.Module:
    import timm

    options: dict[str, Any] = {}
    if timm.models.get_pretrained_cfg_value(name, "fixed_input_size"):
        options["img_size"] = (bins, frames)
    try:
        return timm.create_model(name, pretrained=is_pretrained, in_chans=1, num_classes=0, **options)
    except OSError as error:  # the hub raises it for any failed download
        raise BackboneError(
            f"the weights of {name} are neither on this machine nor to be had from the hub. Connect it to the network "
            f"once, or set model.pretrained: false ({first_line(error)})"
        ) from error
    except (AssertionError, TypeError, ValueError) as error:
        raise _refused(name, bins, frames, error) from error


def _refused(name: str, bins: int, frames: int, error: Exception) -> UnservedError:
    return UnservedError(
        f"model.backbone {name} cannot take crops of {bins} bins and {frames} frames ({first_line(error)}). "
        "Change model.frames or the number of bins, or choose another backbone"
    )
