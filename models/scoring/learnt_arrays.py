"""Arrays that are learnt from normal clips after a network's training, and saved with its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Learnt(nn.Module):
    """Keeps its arrays as buffers whose shapes depend on the clips, float64 or int64, on the CPU.

    A fresh one's are empty, and take the shapes of those that are loaded.
    """

    def keep(self, **arrays: Tensor) -> None:
        """Puts arrays in the places of those that were there."""
        for name, array in arrays.items():
            # Contiguous, as they will be when loaded: sums over other strides may differ in the last bits.
            setattr(self, name, array.detach().cpu().clone(memory_format=torch.contiguous_format))

    def _apply(self, fn: Any, recurse: bool = True) -> Learnt:
        # Neither moved to a device nor rounded to a type: clips are few, and a GPU adds in whatever order.
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name, buffer in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if buffer is not None and loaded is not None:
                setattr(self, name, torch.empty(loaded.shape, dtype=buffer.dtype))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
