"""Which device computes, in which number format, and why. Knows nothing of a particular model but its size."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.model.size import format_count
from tunesmith.types import Finding

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# CPU instructions that multiply bfloat16 directly; without one of them it is slower than float32.
FAST_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
# Measured with LoRA on one core with avx512_bf16: a step of 1.8 M parameters takes 38 ms instead of 47, of 6.8 M
# 119 instead of 186, of 33 M 362 instead of 714. Below this size the gain is not worth the coarser numbers.
SMALLEST_BFLOAT16_MODEL = 2_000_000


def choose_device(requested: str) -> torch.device:
    """Resolve auto, cpu, cuda or mps; auto takes CUDA, MPS, then CPU.

    Raises:
        SettingsError: an unknown name.
        ResourceError: the device asked for is not in this machine.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if requested == "auto":
        return torch.device(next(name for name, here in present.items() if here))
    if requested not in present:
        raise SettingsError(
            f"unknown device {requested!r}; allowed: auto, {', '.join(present)}", fix="set model.device to one of these"
        )
    if not present[requested]:
        found = ", ".join(name for name, here in present.items() if here)
        built = "this torch was built without CUDA" if requested == "cuda" and torch.version.cuda is None else None
        raise ResourceError(
            f"device {requested!r} was asked for, but torch finds only: {found}",
            cause=built,
            fix="set model.device to auto, or install the driver and a torch build for that device",
        )
    return torch.device(requested)


def choose_dtype(requested: str, device: torch.device, *, total_parameters: int) -> tuple[torch.dtype, str]:
    """Resolve auto, float32, bfloat16 or float16, with a sentence that says why.

    Raises:
        SettingsError: an unknown name, or float16 on a CPU.
    """
    if requested == "auto":
        return _choose_dtype_for(device, total_parameters)
    if requested not in DTYPES:
        raise SettingsError(
            f"unknown dtype {requested!r}; allowed: auto, {', '.join(DTYPES)}", fix="set model.dtype to one of these"
        )
    if requested == "float16" and device.type == "cpu":
        raise SettingsError(
            "float16 was asked for on a CPU, which has no float16 arithmetic and overflows above 65504",
            fix="set model.dtype to auto, bfloat16 or float32",
        )
    return DTYPES[requested], f"{requested}: as set"


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself, at least as fast as float32; not on every version of MPS."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(_fast_bfloat16())


def slow_format(dtype: torch.dtype, device: torch.device) -> list[Finding]:
    """What is wrong with a number format that was asked for: correct there, but at a fraction of the speed."""
    if dtype is not torch.bfloat16 or device.type != "cpu" or computes_bfloat16(device):
        return []
    # 0.29 against 178 GFLOP/s on two cores of an EPYC of Zen 3 (bench/worker.py measures both)
    message = "this CPU has no bfloat16 arithmetic: a step can take hundreds of times as long as in float32"
    return [Finding("warning", "slow_bfloat16", message, fix="leave model.dtype at auto")]


def _fast_bfloat16() -> list[str]:
    return [flag for flag in FAST_BFLOAT16_FLAGS if flag in cpu_flags()]


def _choose_dtype_for(device: torch.device, total_parameters: int) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        if computes_bfloat16(device):
            return torch.bfloat16, "bfloat16: this GPU computes in it"
        return torch.float16, "float16: this GPU does not compute in bfloat16"
    if device.type == "mps":
        return torch.float32, "float32: bfloat16 is not available on every version of MPS"
    fast = _fast_bfloat16()
    if not fast:
        return torch.float32, "float32: this CPU has no fast bfloat16 (neither amx_bf16 nor avx512_bf16)"
    if total_parameters < SMALLEST_BFLOAT16_MODEL:
        size = format_count(total_parameters)
        return torch.float32, f"float32: a model of {size} parameters gains nothing from bfloat16"
    return torch.bfloat16, f"bfloat16: this CPU has {fast[0]}"


def loss_scale(dtype: torch.dtype) -> float:
    """What a mean loss is multiplied by before its backward pass, and gradients are divided by after it, to begin with.

    float16 has no numbers below 6e-8 and rounds those below 6e-5, where the gradients lie that a single token has of a
    mean over thousands (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2). Of gradients of 1 it leaves room for
    64 times as large ones. A power of two changes no digit.
    """
    return 1024.0 if dtype == torch.float16 else 1.0


def cpu_flags() -> frozenset[str]:
    """Instruction set names Linux reports for the first CPU; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Compute in `dtype` while trainable weights stay float32; nothing to do for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
