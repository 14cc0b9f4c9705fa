"""How a model computes while it trains: rows end to end, adapters by one kernel, decoder layers compiled.

None of it changes a result beyond rounding, and all of it is undone afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from tunesmith.errors import ResourceError
from tunesmith.kernels import NO_COMPILER, code_cache, find_compiler, native_kernels, why_not_native
from tunesmith.model.dropout import seeded_layers
from tunesmith.model.fusion import fused_adapters
from tunesmith.model.joined import joined_layers
from tunesmith.model.lanes import Lanes
from tunesmith.model.packing import base_of, packing
from tunesmith.model.precision import computes_bfloat16

# Operations from which compiling repays itself. On one core with avx512_bf16 it took 10 s for 30 layers and gained
# about 4 % of a step with LoRA on 135 M parameters. The number for CUDA is not measured: faster work repays it later.
_WORTH_COMPILING = {"cpu": 1e15, "cuda": 1e17}

_COMPILED = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def accelerated(model: nn.Module, *, compiled: bool, native: bool, lanes: Lanes) -> Iterator[None]:
    """Inside, `model` trains as fast as is known to be exact.

    Args:
        compiled: each decoder layer by torch.compile, once for every length; kept on disk for the next run.
        native: by kernels in C++ where they compute what is asked, as `choose_native` decided.
        lanes: open inside.
    """
    layers = decoder_layers(model) if compiled else []
    on_disk = _kept_on_disk() if layers else nullcontext()
    # the backward pass is compiled with the forward pass, under the compiler's lock: passes run side by side
    eager_backward = torch._functorch.config.patch(force_non_lazy_backward_lowering=True)
    one_operation = joined_layers(model, compiled=compiled)
    with (
        native_kernels(wanted=native),
        packing(model),
        fused_adapters(model),
        seeded_layers(model),
        one_operation,
        eager_backward,
        on_disk,
        lanes,
    ):
        for layer in layers:
            layer.compile(dynamic=True)
        try:
            yield
        finally:
            for layer in layers:
                layer._compiled_call_impl = None


@contextmanager
def _kept_on_disk() -> Iterator[None]:
    """Inside, what is compiled is kept for the next run; torch's own default is a folder in /tmp."""
    own = os.environ.get(_COMPILED)
    os.environ[_COMPILED] = own or str(code_cache("compiled"))
    try:
        yield
    finally:
        del os.environ[_COMPILED]
        if own is not None:
            os.environ[_COMPILED] = own


def choose_compile(device: torch.device, *, parameters: int, tokens: int) -> tuple[bool, str]:
    """Whether to compile the layers for a run over `tokens` tokens, with a sentence that says why.

    The cost of a run is taken as 6 operations for each parameter and token (Kaplan et al. 2020, arXiv:2001.08361).
    """
    if find_compiler() is None:
        return False, NO_COMPILER
    cost = 6.0 * parameters * tokens
    worth = _WORTH_COMPILING.get(device.type)
    if worth is None:
        return False, f"compiling is not tried on {device.type}"
    if cost < worth:
        return False, f"the run is too short to repay it ({cost:.1e} of {worth:.0e} operations)"
    return True, f"the run is long enough to repay it ({cost:.1e} operations)"


def choose_native(requested: str, device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Resolve auto, on or off for a model that computes in `dtype`, with a sentence that says why.

    Where the answer is yes the kernels are compiled, which takes seconds once on a machine.

    Raises:
        ResourceError: they are asked for and cannot be had.
    """
    if requested == "off":
        return False, "as set"
    why = _why_not_native(device, dtype)
    if why is None:
        return True, "as set" if requested == "on" else "this CPU has avx512_bf16, and there is a C++ compiler"
    if requested == "on":
        install = "install g++, or " if why == NO_COMPILER else ""
        raise ResourceError(
            f"train.native is on, and there are no kernels in C++ here: {why}",
            fix=f"{install}set train.native to auto; to resume a run that has them: --train.native off --allow-drift",
        )
    return False, f"{why}; with g++ this CPU would train faster" if why == NO_COMPILER else why


def _why_not_native(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"they are for CPUs, and the model is on {device.type}"
    if dtype != torch.bfloat16:
        return f"the model computes in {str(dtype).removeprefix('torch.')}"
    return NO_COMPILER if computes_bfloat16(device) and find_compiler() is None else why_not_native()


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of the architecture, by the class names that it declares as not to be split."""
    base = base_of(model)
    names = set(base._no_split_modules or ())
    blocks = [child for module in base.modules() if isinstance(module, nn.ModuleList) for child in module]
    # of any class that it inherits from: dividing the weights gives a block one of its own
    return [block for block in blocks if names & {kind.__name__ for kind in type(block).__mro__}]
