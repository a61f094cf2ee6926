"""The convolutional autoencoder of the DCASE 2020 student entry.

    inputs (batch, 1, bins, frames), scaled to [0, 1]
      → 5×5 convolution, width → 5×5, 2·width → 3×3, 4·width → 3×3, 8·width, each of stride 2
      → 3×3 convolution of stride 1 → latent (batch, z_dim, rows, columns)
      → the same backwards, transposed → reconstruction (batch, 1, bins, frames) in (0, 1)

    crop         maps' sides       latent, z_dim 40   numbers in a crop for each in the latent
     64 ×  64    32, 16, 7, 3      40 ×  1 ×  1       102
    128 × 128    64, 32, 15, 7     40 ×  5 ×  5       16
    256 × 256    128, 64, 31, 15   40 × 13 × 13       9.7

Each hidden layer is followed by ReLU and dropout. The 5×5 kernels are padded by 2, the 3×3 ones are not. With width 32
and z_dim 40 that is 1,026,601 parameters, the entry's own count. Its report gives only this count and the sizes of the
latents. Among mirrored kernels from 2×2 to 7×7, with or without batch normalisation, one other set matches both: 5, 5,
3, 2, then 5. Other paddings match them too. The entry has dropout of .2 and of .3, but its report does not say in which
layers: here all layers have the same share.

A spatial latent grows with the crop: crops of different sizes differ in compression, too. A global latent does not: the
deepest map is averaged down to 3×3 before the last convolution, and the output of the first transposed convolution is
stretched to that map's size. Layers and parameters are the same for both latents; for a crop of 64 × 64 both give the
same model. Maps of fewer than 3 rows or columns, from crops below 57, are convolved whole.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from features.errors import UnservedError
from features.windows.excerpts import Batch
from models.anomaly_model import ReconstructingModel
from models.labels import Labels
from models.layers.residual import log_error_of_bins
from models.layers.scale import Scale
from models.settings import CropSettings, ReconstructionSettings

#: Kernel and padding of the convolutions of stride 2.
_CONVOLUTIONS = ((5, 2), (5, 2), (3, 0), (3, 0))

#: Side of the last convolution's kernel.
_LAST = 3

#: The least number of bins or frames: these convolutions reduce it to one.
_LEAST = 25

Size = tuple[int, int]  # bins, frames


class Settings(CropSettings, ReconstructionSettings):
    """A convolutional autoencoder on crops."""

    family: Literal["cae"] = "cae"
    width: int = Field(32, ge=1, description="channels of the first convolution, doubled in each of the next three")
    z_dim: int = Field(40, ge=1, description="channels of the latent")
    latent: Literal["spatial", "global"] = Field(
        "spatial", description="spatial: a map that grows with the crop; global: z_dim numbers for any crop"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="share of hidden values left out in training")
    score: Literal["reconstruction", "mahalanobis", "gmm", "knn", "lof", "ocsvm", "exposure"] = Field(
        "reconstruction", description="a crop's reconstruction error, or a density of its clip's latent"
    )


class Model(ReconstructingModel):
    """Reconstructs crops of healthy sound; what it reconstructs badly is anomalous."""

    def __init__(self, settings: Settings, scale: Scale, labels: Labels) -> None:
        """Raises UnservedError for crops too small for the convolutions."""
        super().__init__()
        self.scale = scale
        crop = scale.bins, settings.excerpt_frames(scale.bins)
        _require(crop)
        sizes = _sizes(crop)
        deepest = sizes[-1]
        kernel = min(_LAST, deepest[0]), min(_LAST, deepest[1])
        channels = [1, *(settings.width * 2**level for level in range(len(_CONVOLUTIONS)))]
        is_global = settings.latent == "global"
        self.encoder = nn.Sequential()
        for (inputs, outputs), (side, padding) in zip(pairwise(channels), _CONVOLUTIONS, strict=True):
            self.encoder.append(nn.Conv2d(inputs, outputs, side, stride=2, padding=padding))
            self.encoder.extend(_activated(settings.dropout))
        if is_global:
            self.encoder.append(nn.AdaptiveAvgPool2d(kernel))
        self.encoder.append(nn.Conv2d(channels[-1], settings.z_dim, kernel))

        self.decoder = nn.Sequential(nn.ConvTranspose2d(settings.z_dim, channels[-1], kernel))
        if is_global:
            self.decoder.append(nn.Upsample(size=deepest, mode="bilinear"))
        backwards = zip(pairwise(reversed(channels)), pairwise(reversed(sizes)), reversed(_CONVOLUTIONS), strict=True)
        for (inputs, outputs), (smaller, larger), (side, padding) in backwards:
            self.decoder.extend(_activated(settings.dropout))
            missing = _missing(smaller, larger, side, padding)
            self.decoder.append(
                nn.ConvTranspose2d(inputs, outputs, side, stride=2, padding=padding, output_padding=missing)
            )

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error, with dropout in training."""
        target: Tensor = self.scale(batch.inputs)
        return functional.mse_loss(self._reconstruction(target), target)

    def score(self, batch: Batch) -> Tensor:
        """Mean squared error of each crop."""
        target: Tensor = self.scale(batch.inputs)
        return (self._reconstruction(target) - target).square().mean(dim=(1, 2, 3))

    def embed(self, batch: Batch) -> Tensor:
        """The latent of each crop, (batch, z_dim): the mean of a map, so that the crop's size does not show."""
        latent: Tensor = self.encoder(self.scale(batch.inputs))
        return latent.mean(dim=(2, 3))

    def residual(self, batch: Batch) -> Tensor:
        target: Tensor = self.scale(batch.inputs)
        error = self._reconstruction(target) - target
        return log_error_of_bins(error[:, 0].transpose(1, 2))

    def reconstruct(self, batch: Batch) -> Tensor:
        """The crops in the feature's units."""
        return self.scale.inverse(self._reconstruction(self.scale(batch.inputs)))

    def _reconstruction(self, target: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(target)).sigmoid()
        return reconstruction


def _require(crop: Size) -> None:
    bins, frames = crop
    if bins < _LEAST:
        raise UnservedError(
            f"model.family cae needs frames of at least {_LEAST} bins, but these features have {bins}. "
            "Raise features.n_mels, or choose features.kind: logmel"
        )
    if frames < _LEAST:
        raise UnservedError(f"model.frames ≥ {_LEAST} must hold for model.family cae, but got {frames}")


def _sizes(crop: Size) -> list[Size]:
    """The sizes of the crop and of the map behind each convolution of stride 2."""
    sizes = [crop]
    for side, padding in _CONVOLUTIONS:
        rows, columns = ((length + 2 * padding - side) // 2 + 1 for length in sizes[-1])
        sizes.append((rows, columns))
    return sizes


def _missing(smaller: Size, larger: Size, side: int, padding: int) -> Size:
    """Rows and columns, 0 or 1, to add to a transposed convolution's output: with stride 2, two sizes give one map."""
    rows, columns = (
        after - (2 * (before - 1) + side - 2 * padding) for before, after in zip(smaller, larger, strict=True)
    )
    return rows, columns


def _activated(dropout: float) -> list[nn.Module]:
    return [nn.ReLU(), nn.Dropout(dropout)]
