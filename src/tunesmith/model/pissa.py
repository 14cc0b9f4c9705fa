"""PiSSA (arXiv:2404.02948): LoRA that starts from the principal directions of the weights, and its way back to LoRA.

W = R + s * B0 @ A0, where the strongest r directions are in A0 and B0; R is frozen, A and B train. What was learned is
s * (B @ A - B0 @ A0) = s * [B, -B0] @ [A; A0]: plain LoRA of rank 2r on the W that everybody has (PEFT calls it
`path_initial_model_for_weight_conversion`). A file of A and B alone would need R, which nobody has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor
from transformers.pytorch_utils import Conv1D

# Rounds of the randomised SVD (Halko et al. 2011, arXiv:0909.4061); PEFT's guide names 16 as near enough to the exact
# one, which takes minutes on large models. W = R + s * B0 @ A0 holds however near it is.
_ITERATIONS = 16
_START = "pissa_start"


@torch.no_grad()
def start_at_principal(model: PeftModel) -> None:
    """Move the principal directions of each adapted weight into its adapter, in place. The model computes the same.

    Draws random numbers: with the same seed the same start.
    """
    for _, layer in _layers(model):
        base: Any = layer.get_base_layer()
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # (r, in), (out, r)
        scale = layer.scaling["default"]
        is_transposed = isinstance(base, Conv1D)
        weight = (base.weight.T if is_transposed else base.weight).float()  # (out, in)
        left, values, right = torch.svd_lowrank(weight, q=down.shape[0], niter=_ITERATIONS)
        root = (values / scale).sqrt()
        down.copy_(root[:, None] * right.T)
        up.copy_(left * root)
        rest = weight - scale * (up @ down)
        base.weight.data = (rest.T if is_transposed else rest).to(base.weight.dtype).contiguous()
        # not saved: a resumed run finds the same ones again
        layer.register_buffer(f"{_START}_A", down.clone(), persistent=False)
        layer.register_buffer(f"{_START}_B", up.clone(), persistent=False)


def is_pissa(model: PeftModel) -> bool:
    """Whether the base of this model lacks its principal directions."""
    return any(hasattr(layer, f"{_START}_A") for _, layer in _layers(model))


def as_lora(model: PeftModel) -> dict[str, Tensor]:
    """The model's state with each A and B as those of plain LoRA of twice the rank on the untouched base."""
    state: dict[str, Tensor] = dict(model.state_dict())
    for path, layer in _layers(model):
        start_down, start_up = layer.get_buffer(f"{_START}_A"), layer.get_buffer(f"{_START}_B")
        down, up = f"{path}.lora_A.default.weight", f"{path}.lora_B.default.weight"
        state[down] = torch.cat([state[down], start_down.to(state[down].device)], dim=0)  # (2r, in)
        state[up] = torch.cat([state[up], -start_up.to(state[up].device)], dim=1)  # (out, 2r)
    return state


def _layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield path, module
