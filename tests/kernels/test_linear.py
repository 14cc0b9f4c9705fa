"""quick_linear against float64, on both of its ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tunesmith.kernels import linear, quick_linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what went to oneDNN, as on a processor where it is quicker."""
    monkeypatch.setattr(linear, "_MKL_IS_SLOW", True)
    seen: list[tuple[int, ...]] = []
    plain: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise

    def spy(inputs: torch.Tensor, *others: object) -> torch.Tensor:
        seen.append(tuple(inputs.shape))
        return plain(inputs, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", spy)
    return seen


@needs_onednn
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_as_exact_as_float32(calls: list[tuple[int, ...]], transposed: bool, with_bias: bool) -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(3, 40, 300), torch.randn(200, 300)
    weight = weight.T.contiguous().T if transposed else weight
    bias = torch.randn(200) if with_bias else None
    expected = F.linear(inputs.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(quick_linear(inputs, weight, bias).double(), expected, rtol=1e-5, atol=1e-4)
    assert calls == [(3, 40, 300)]


@needs_onednn
@pytest.mark.parametrize(
    ("rows", "features", "dtype"),
    [(7, 64, torch.float32), (8, 63, torch.float32), (8, 64, torch.float64), (8, 64, torch.bfloat16)],
)
def test_what_gains_nothing_goes_the_plain_way(
    calls: list[tuple[int, ...]], rows: int, features: int, dtype: torch.dtype
) -> None:
    inputs, weight = torch.randn(rows, 70, dtype=dtype), torch.randn(features, 70, dtype=dtype)
    assert torch.equal(quick_linear(inputs, weight), F.linear(inputs, weight))
    assert calls == []


@needs_onednn
def test_a_gradient_that_is_recorded_goes_the_plain_way(calls: list[tuple[int, ...]]) -> None:
    inputs, weight = torch.randn(8, 70, requires_grad=True), torch.randn(64, 70)
    quick_linear(inputs, weight).sum().backward()
    torch.testing.assert_close(inputs.grad, weight.sum(0).expand(8, 70))
    assert calls == []


def test_autocast_decides_the_format() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quick_linear(torch.randn(8, 64), torch.randn(64, 64)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("cpuinfo", "vendor"),
    [
        ("processor : 0\nvendor_id\t: AuthenticAMD\nflags : avx2\n", "AuthenticAMD"),
        ("processor : 0\nBogoMIPS : 48.00\n", ""),  # a Raspberry Pi
        (None, ""),  # macOS
    ],
)
def test_the_maker_of_the_processor(cpuinfo: str | None, vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> str:
        if cpuinfo is None:
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr(linear.Path, "read_text", read)
    assert linear._vendor() == vendor
