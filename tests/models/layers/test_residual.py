"""How badly each bin is reconstructed, against a few lines of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from features.frames.feature_settings import FeatureSettings
from features.windows.excerpts import Batch
from models.anomaly_model import ReconstructingModel
from models.families import build, settings_of
from models.labels import Labels

FEATURES = FeatureSettings(n_mels=32)
LABELS = Labels.of([("pump/00", "")])
CONTEXT = 4

#: Families that reconstruct, each with small settings and the shape of its inputs.
RECONSTRUCT: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "ae": ({"context": CONTEXT, "h_dim": 8}, (6, CONTEXT * 32)),
    "vae": ({"context": CONTEXT, "h_dim": 8}, (6, CONTEXT * 32)),
    "cae": ({"frames": 32, "width": 2}, (6, 1, 32, 32)),
}


@pytest.mark.parametrize("family", RECONSTRUCT)
def test_a_residual_is_the_log_mean_squared_error_of_each_bin(family: str) -> None:
    block, shape = RECONSTRUCT[family]
    model = build(settings_of(family).model_validate({"family": family, **block}), FEATURES.limits, LABELS).eval()
    assert isinstance(model, ReconstructingModel)
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 60 - 80  # dB
    batch = Batch(inputs=inputs, clips=torch.zeros(len(inputs), dtype=torch.int64))
    low, high = (limit[0] for limit in FEATURES.limits)

    with torch.inference_mode():
        residual, reconstruction = model.residual(batch).numpy(), model.reconstruct(batch)

    assert reconstruction is not None
    error = ((reconstruction - inputs) / (high - low)).double().numpy()
    by_frame = error[:, 0].transpose(0, 2, 1) if family == "cae" else error.reshape(6, CONTEXT, 32)
    np.testing.assert_allclose(residual, np.log((by_frame**2).mean(axis=1)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.exp(residual).mean(axis=1), model.score(batch).detach().numpy(), rtol=1e-3)
