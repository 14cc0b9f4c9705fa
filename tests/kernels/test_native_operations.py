"""LoRA, norms, gates, GELU, rotary positions and losses in C++ against the formulas in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.kernels import LoraLayer, draws_from, gelu, lora_linear, native, rms_norm, selected_nll, silu_product
from tunesmith.kernels.native import native_kernels, why_not_native
from tunesmith.kernels.native.lora import add_adapters
from tunesmith.kernels.native.pointwise import rotate

# Of a norm: twice what rounding every number once to bfloat16 costs.
ROUNDED = 2 * 2.0**-9


@pytest.fixture(autouse=True, params=["as the CPU can", "without AMX"])
def switched_on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if problem := why_not_native():
        pytest.skip(problem)
    if request.param == "without AMX":
        monkeypatch.setattr(native, "_has_amx", lambda: False)
    torch.manual_seed(0)
    with native_kernels(wanted=True):
        yield


def normal(*shape: int, gradient: bool = False) -> Tensor:
    return torch.randn(shape).bfloat16().requires_grad_(gradient)


def difference(found: Tensor, wanted: Tensor) -> float:
    """Of all numbers together, in parts of what is wanted."""
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def assert_computes(
    compute: Callable[..., Tensor], formula: Callable[..., Tensor], *leaves: Tensor, within: float = ROUNDED
) -> None:
    """In values, and in gradients of the leaves that have one."""
    doubles = [leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in leaves]
    found, wanted = compute(*leaves), formula(*doubles)
    assert difference(found, wanted) < within
    incoming = torch.randn(found.shape).to(found.dtype)
    trained = [leaf for leaf in leaves if leaf.requires_grad]
    gradients = torch.autograd.grad(found, trained, incoming)
    references = torch.autograd.grad(wanted, [leaf for leaf in doubles if leaf.requires_grad], incoming.double())
    for gradient, reference in zip(gradients, references, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert difference(gradient, reference) < within


def bits_of(words: Tensor, count: int) -> Tensor:
    """(N, W) of 32 bits each -> (N, count) bool."""
    bits = words.view(torch.int32)[:, :, None] >> torch.arange(32) & 1
    return bits.flatten(1)[:, :count].bool()


def layer_of(inputs: int, outputs: int, rank: int, *, bias: bool = True, scale: float = 0.5) -> LoraLayer:
    down, up = normal(rank, inputs, gradient=True), normal(outputs, rank, gradient=True)
    return LoraLayer(normal(outputs, inputs), normal(outputs) if bias else None, down, up, scale)


def dropped_by(layers: Sequence[LoraLayer], x: Tensor, share: float, seed: int = 1) -> list[Tensor]:
    """Of each layer, (N, I) bool."""
    outs, downs, ups = ([*tensors] for tensors in zip(*((x @ a.weight.T, a.down, a.up) for a in layers), strict=True))
    with draws_from(torch.Generator().manual_seed(seed)):
        _, words = add_adapters(outs, x, downs, ups, [1.0] * len(layers), share)
    return [bits_of(marks, x.shape[1]) if share else torch.zeros(x.shape).bool() for marks in words]


# positions, inputs, and outputs and rank of each layer that reads them
LORA_SIZES = [
    (1, 9, [(1, 1)]),
    (5, 50, [(20, 3)]),
    (64, 32, [(128, 16)]),
    (77, 96, [(70, 40)]),
    (200, 576, [(576, 16), (192, 16), (192, 16)]),
    (130, 200, [(9, 3), (300, 40), (64, 16)]),
    (70, 64, [(96, 8), (96, 8)]),
]


@pytest.mark.parametrize(("positions", "inputs", "sizes"), LORA_SIZES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_lora(positions: int, inputs: int, sizes: list[tuple[int, int]], dropout: float) -> None:
    x = normal(positions, inputs, gradient=True)
    layers = [layer_of(inputs, *size, scale=0.5 + number) for number, size in enumerate(sizes)]
    dropped = dropped_by(layers, x.detach(), dropout)
    assert all(0 < marks.double().mean() < 1 for marks in dropped if dropout and inputs > 20)
    assert not dropout or len(layers) == 1 or not torch.equal(dropped[0], dropped[1])

    def formula(x: Tensor, *adapters: Tensor) -> Tensor:
        outs = []
        for layer, marks, down, up in zip(layers, dropped, adapters[::2], adapters[1::2], strict=True):
            assert layer.bias is not None
            adapter = layer.scale * (x * ~marks / (1 - dropout)) @ down.T @ up.T
            outs.append(x @ layer.weight.double().T + layer.bias.double() + adapter)
        return torch.cat(outs, dim=1)

    def compute(x: Tensor, *adapters: Tensor) -> Tensor:
        pairs = zip(layers, adapters[::2], adapters[1::2], strict=True)
        with draws_from(torch.Generator().manual_seed(1)):
            return torch.cat(lora_linear(x, *(a._replace(down=d, up=u) for a, d, u in pairs), dropout=dropout), dim=1)

    # the frozen product, the adapter's middle and their sum are rounded one after the other
    adapters = [weight for layer in layers for weight in (layer.down, layer.up)]
    assert_computes(compute, formula, x, *adapters, within=2 * ROUNDED)


def test_the_operators_are_well_formed() -> None:
    x, down, up, out = normal(9, 40), normal(4, 40), normal(48, 4), normal(9, 48)
    operators = torch.ops.tunesmith
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operators.native_add_adapter.default, (out, x, down, up, 0.5, 1.0), test_utils=checks)
    (middle,), (dropped,) = add_adapters([out], x, [down], [up], [0.5], 1.0)
    gradient = (x.clone(), out, x, down, up, 1.0, middle, dropped)
    torch.library.opcheck(operators.native_add_gradient.default, gradient, test_utils=checks)


def test_an_input_without_gradient_costs_none() -> None:
    x, layer = normal(9, 32), layer_of(32, 48, 4)
    lora_linear(x, layer)[0].sum().backward()
    assert x.grad is None
    assert layer.down.grad is not None
    assert layer.up.grad is not None


def test_of_no_positions() -> None:
    x, layer = normal(2, 0, 32, gradient=True), layer_of(32, 48, 4)
    (out,) = lora_linear(x, layer, dropout=0.1)
    out.sum().backward()
    assert out.shape == (2, 0, 48)
    assert layer.down.grad is not None
    assert not layer.down.grad.any()


def test_what_is_dropped_has_its_share_and_follows_from_the_seed_alone() -> None:
    def drop(seed: int, share: float = 0.05) -> Tensor:
        return dropped_by([layer], x, share, seed)[0]

    x, layer = normal(2000, 1000), layer_of(1000, 8, 4)
    dropped = drop(1)
    sigma = (0.05 * 0.95 / dropped.numel()) ** 0.5
    assert abs(dropped.double().mean().item() - 0.05) < 5 * sigma
    assert torch.equal(dropped, drop(1))
    assert not torch.equal(dropped, drop(2))
    # no number knows of its neighbours, of the row a block later, or of the next pass
    for other in (dropped.roll(1, 0), dropped.roll(1, 1), dropped.roll(32, 1), dropped.roll(64, 0), drop(2)):
        assert abs((dropped & other).double().mean().item() - 0.05**2) < 5 * (0.05**2 / dropped.numel()) ** 0.5
    rows, columns = dropped.double().mean(1), dropped.double().mean(0)
    assert (rows - 0.05).abs().max() < 6 * (0.05 * 0.95 / 1000) ** 0.5
    assert (columns - 0.05).abs().max() < 6 * (0.05 * 0.95 / 2000) ** 0.5
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - before if before < 3 else 1)
        assert torch.equal(dropped, drop(1))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(7, 50), (2, 33, 576)])
def test_norm(shape: tuple[int, ...]) -> None:
    weight = normal(shape[-1])

    def formula(x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()

    assert_computes(lambda x: rms_norm(x, weight, 1e-5), formula, normal(*shape, gradient=True))


def test_a_weight_that_is_trained_gets_its_gradient() -> None:
    weight = normal(64, gradient=True)
    rms_norm(normal(5, 64), weight, 1e-5).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("count", [1, 40, 1003])
def test_gate(count: int) -> None:
    gate, up = normal(3, count, gradient=True), normal(3, count, gradient=True)
    assert_computes(silu_product, lambda gate, up: F.silu(gate) * up, gate, up, within=2 * ROUNDED)


def test_a_gate_far_from_zero_is_open_or_shut() -> None:
    out = silu_product(torch.tensor([-200.0, -90.0, 0.0, 90.0, 200.0]).bfloat16(), torch.ones(5).bfloat16())
    assert out.tolist() == pytest.approx([0, 0, 0, 90, 200], abs=1e-30)


@pytest.mark.parametrize("shape", [(3, 1), (2, 5, 40), (3, 1003)])
def test_gelu(shape: tuple[int, ...]) -> None:
    assert_computes(gelu, lambda x: F.gelu(x, approximate="tanh"), normal(*shape, gradient=True))


def test_gelu_far_from_zero_is_open_or_shut() -> None:
    x = torch.tensor([-200.0, -90.0, 0.0, 90.0, 200.0]).bfloat16().requires_grad_()
    out = gelu(x)
    out.sum().backward()
    assert x.grad is not None
    assert out.tolist() == pytest.approx([0, 0, 0, 90, 200], abs=1e-30)
    assert x.grad.tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-30)


@pytest.mark.parametrize("width", [8, 20, 64])
@pytest.mark.parametrize("by_head", [True, False])
def test_rotary_positions(width: int, by_head: bool) -> None:
    cosine, sine = normal(40, width), normal(40, width)
    x = normal(3, 40, width, gradient=True) if by_head else normal(40, 3, width, gradient=True)

    def by_token(x: Tensor) -> Tensor:
        return x.transpose(0, 1) if by_head else x

    def formula(x: Tensor) -> Tensor:
        first, second = by_token(x).chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        return by_token(x) * cosine.double()[:, None] + turned * sine.double()[:, None]

    assert_computes(lambda x: rotate(by_token(x), cosine, sine), formula, x)


@pytest.mark.parametrize("head_trains", [True, False])
@pytest.mark.parametrize("vocabulary", [3, 1000])
def test_loss(head_trains: bool, vocabulary: int) -> None:
    hidden, weight = normal(30, 64, gradient=True), normal(vocabulary, 64, gradient=head_trains)
    targets = torch.randint(vocabulary, (30,))

    def formula(hidden: Tensor, weight: Tensor) -> Tensor:
        exact = hidden @ weight.T
        logits = exact + (exact.bfloat16().double() - exact).detach()  # they are rounded, whoever takes the softmax
        return F.cross_entropy(logits, targets, reduction="none")

    def compute(hidden: Tensor, weight: Tensor) -> Tensor:
        return selected_nll(hidden, weight, None, targets)

    assert_computes(compute, formula, hidden, weight, within=4 * ROUNDED)


def test_a_number_that_is_none_stays_one() -> None:
    nan = normal(40, 64)
    nan[3, 5] = torch.nan
    rows = torch.arange(40) == 3
    targets, weight = torch.zeros(40, dtype=torch.int64), normal(10, 64)
    (lora,) = lora_linear(nan, layer_of(64, 10, 4))
    for out in (rms_norm(nan, normal(64), 1e-5), lora, selected_nll(nan, weight, None, targets)[:, None]):
        assert torch.equal(out.isnan().any(1), rows)
    assert torch.equal(silu_product(nan, nan).isnan(), nan.isnan())
    assert torch.equal(gelu(nan).isnan(), nan.isnan())
    with torch.no_grad():
        assert selected_nll(nan, weight, None, targets)[3].isnan()
