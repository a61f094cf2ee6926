"""Which precision a device computes natively. The devices are faked: no host has all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.precision import native_precision


@pytest.mark.parametrize(
    ("instructions", "precision"),
    [
        ({}, "float32"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_f": True, "avx512_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_tile": True, "amx_bf16": True}, "bfloat16"),
        ({"amx_tile": True, "amx_int8": True}, "float32"),
        ({"architecture": "aarch64", "bf16": True}, "float32"),
    ],
)
def test_a_cpu_goes_by_its_instructions(
    instructions: dict[str, object], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: instructions, raising=False)

    assert native_precision(torch.device("cpu")) == precision


def test_a_torch_that_does_not_report_a_cpu_s_instructions_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)

    assert native_precision(torch.device("cpu")) == "float32"


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((7, 0), "float32"), ((7, 5), "float32"), ((8, 0), "bfloat16"), ((8, 9), "bfloat16"), ((10, 0), "bfloat16")],
)
def test_a_gpu_goes_by_its_compute_capability_whatever_the_cpu_has(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    of_device = {torch.device("cuda:1"): capability}
    monkeypatch.setattr(torch.cuda, "get_device_capability", of_device.__getitem__)

    assert native_precision(torch.device("cuda:1")) == precision


def test_a_device_of_another_kind_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}, raising=False)

    assert native_precision(torch.device("meta")) == "float32"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the system does not list the CPU's instructions")
def test_the_installed_torch_names_this_cpu_s_instructions_as_the_system_does() -> None:
    program = (
        "import torch; from models.precision import native_precision; print(native_precision(torch.device('cpu')))"
    )
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert asked.stdout.strip() == ("bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32")
