"""Device and number format: what is chosen, and the reason that is told."""

from __future__ import annotations

import pytest
import torch

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.model import autocast, choose_device, choose_dtype, precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
LARGE, TINY = 10**8, 10**5


def set_flags(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))


@pytest.mark.parametrize(
    ("flags", "parameters", "dtype", "reason"),
    [
        (["avx2", "avx512_bf16"], LARGE, torch.bfloat16, "bfloat16: this CPU has avx512_bf16"),
        (["avx512_bf16", "amx_bf16"], LARGE, torch.bfloat16, "bfloat16: this CPU has amx_bf16"),
        (["avx512_bf16"], TINY, torch.float32, "float32: a model of 100K parameters gains nothing from bfloat16"),
        (["avx2"], LARGE, torch.float32, "float32: this CPU has no fast bfloat16 (neither amx_bf16 nor avx512_bf16)"),
    ],
)
def test_auto_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], parameters: int, dtype: torch.dtype, reason: str
) -> None:
    set_flags(monkeypatch, *flags)
    assert choose_dtype("auto", CPU, total_parameters=parameters) == (dtype, reason)


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    chosen, reason = choose_dtype("auto", CUDA, total_parameters=LARGE)
    assert chosen == dtype
    assert "this GPU" in reason


def test_auto_on_mps() -> None:
    assert choose_dtype("auto", MPS, total_parameters=LARGE)[0] == torch.float32


def test_a_format_that_was_set_is_kept() -> None:
    assert choose_dtype("bfloat16", CPU, total_parameters=TINY) == (torch.bfloat16, "bfloat16: as set")


@pytest.mark.parametrize(("dtype", "words"), [("float16", "bfloat16 or float32"), ("int8", "float16")])
def test_formats_that_are_refused(dtype: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        choose_dtype(dtype, CPU, total_parameters=LARGE)
    assert words in str(caught.value)


def test_auto_takes_the_first_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == MPS
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == CUDA
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="torch finds only: cpu") as caught:
        choose_device(name)
    assert "model.device" in str(caught.value.fix)


def test_an_unknown_device() -> None:
    with pytest.raises(SettingsError, match="auto, cuda, mps, cpu"):
        choose_device("tpu")


def test_flags_are_those_of_the_kernel() -> None:
    flags = precision.cpu_flags()
    assert all(flag == flag.strip() and " " not in flag for flag in flags)


def test_autocast_changes_products_only_when_asked() -> None:
    left = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (left @ left).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (left @ left).dtype == torch.float32


def test_bfloat16_is_warned_of_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    set_flags(monkeypatch, "avx2")
    (found,) = precision.slow_format(torch.bfloat16, CPU)
    assert (found.level, found.code) == ("warning", "slow_bfloat16")
    assert precision.slow_format(torch.float32, CPU) == []
    assert precision.slow_format(torch.bfloat16, torch.device("cuda")) == []
    set_flags(monkeypatch, "avx512_bf16")
    assert precision.slow_format(torch.bfloat16, CPU) == []
