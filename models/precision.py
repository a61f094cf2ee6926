"""The precision that a device computes fast: what `training.precision: auto` stands for.

bfloat16 is worth its coarser numbers only where the hardware multiplies it. Elsewhere torch converts it to float32 and
back, which gives the same kind of result more slowly.

    GPU   bfloat16 from CUDA's compute capability 8.0 on
    CPU   bfloat16 with AVX512_BF16 or AMX-BF16

torch reports a CPU's instructions by `torch.cpu.get_capabilities`, the public function. Releases that lack it tell this
by private functions alone, whose names changed: with them a CPU trains in float32 unless a study file says bfloat16.
The function reports what the CPU has; it does not see that an environment variable of oneDNN forbids an instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.settings import ClosedPrecision

#: The first compute capability with bfloat16 in its matrix units.
_FIRST_CAPABILITY = (8, 0)

#: torch's names of the CPU instructions that multiply bfloat16.
_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def native_precision(device: torch.device) -> ClosedPrecision:
    """bfloat16 if the device computes it natively, else float32."""
    if device.type == "cuda":
        is_native = torch.cuda.get_device_capability(device) >= _FIRST_CAPABILITY
    else:
        is_native = device.type == "cpu" and any(_cpu_capabilities().get(name) for name in _CPU_INSTRUCTIONS)
    return "bfloat16" if is_native else "float32"


def _cpu_capabilities() -> Mapping[str, Any]:
    report = getattr(torch.cpu, "get_capabilities", None)
    return {} if report is None else report()
