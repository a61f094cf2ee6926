"""A whole clip as a model takes it for, put together from its windows or crops."""

from __future__ import annotations

import numpy as np
import torch

from features.frames.framing import Frames
from models.recordings import Recordings
from models.scoring.scorer import Single
from models.settings import CropSettings

_BATCH = 64


@torch.inference_mode()
def reconstruction_of(single: Single, clip: Recordings) -> Frames | None:
    """The reconstruction of one clip, (frames, bins); None for a family that reconstructs nothing.

    In the feature's units. Of windows, each frame from the one that it is the middle of; of crops, the mean of those
    that it is in, and not a number where hops longer than a crop leave it in none.
    """
    single.model.eval()
    features, model = single.member.features, single.member.model
    parts: list[torch.Tensor] = []
    for batch in clip.excerpts(features, model, single.labels).in_order(_BATCH):
        reconstruction = single.model.reconstruct(batch)
        if reconstruction is None:
            return None
        parts.append(reconstruction.float().cpu())
    length, bins = model.excerpt_frames(features.bins), features.bins
    if isinstance(model, CropSettings):
        crops = torch.cat(parts)[:, 0].transpose(1, 2).numpy()  # (crops, frames, bins)
        return _mean_over_crops(crops, clip, single, hop=model.hop(bins))
    windows = torch.cat(parts).view(-1, length, bins).numpy()
    middle = length // 2
    # The first and last frames are the middle of none.
    return np.concatenate([windows[0, :middle], windows[:, middle], windows[-1, middle + 1 :]])


def _mean_over_crops(crops: Frames, clip: Recordings, single: Single, *, hop: int) -> Frames:
    frames = len(clip.store(single.member.features).of_clip(clip.positions[0]))
    length = crops.shape[1]
    total, count = np.zeros((frames, crops.shape[2])), np.zeros((frames, 1))
    for index, crop in enumerate(crops):
        start = min(index * hop, frames - length)  # the last one ends with the clip
        total[start : start + length] += crop
        count[start : start + length] += 1
    mean = np.full_like(total, np.nan)
    return np.divide(total, count, out=mean, where=count > 0).astype(np.float32)
