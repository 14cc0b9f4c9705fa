"""Muon: matrices moved along the orthogonal matrix nearest to their momentum (Jordan et al. 2024,
kellerjordan.github.io/posts/muon).

The step is that of torch.optim.Muon with "match_rms_adamw". That one computes in bfloat16 everywhere: on a core of an
EPYC of Zen 1, which has no such arithmetic, a matrix of 512 x 1024 took 5.3 s, in float32 0.21 s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tunesmith.model import computes_bfloat16

_MOMENTUM = 0.95
# The polynomial a x + b x^3 + c x^5 of one iteration, steepest at 0: singular values end between 0.5 and 1.5, not at 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(Optimizer):
    """Nesterov momentum, made orthogonal, at the size that AdamW's updates have in the mean square (Liu et al. 2025,
    arXiv:2502.16982, section 2.2), so that one learning rate serves both. Starts at rate 0.

    Args:
        groups: of matrices (rows, columns), each with its `weight_decay`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})
        fast = computes_bfloat16(self.param_groups[0]["params"][0].device)
        self._dtype = torch.bfloat16 if fast else torch.float32  # five iterations need no finer numbers

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            rate, decay = group["lr"], group["weight_decay"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = state["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM)
                direction = _orthogonal(gradient.lerp(momentum, _MOMENTUM).to(self._dtype))
                parameter.mul_(1 - rate * decay)
                parameter.add_(direction, alpha=-rate * 0.2 * max(parameter.shape) ** 0.5)


def _orthogonal(matrix: Tensor) -> Tensor:
    """U S V.T of a matrix U D V.T (rows, columns), the numbers in S near 1, by Newton and Schulz's iteration."""
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]  # the products of the shorter side are the cheaper ones
    out = matrix.T if is_tall else matrix
    out = out / out.norm().clamp(min=1e-7)  # no singular value is larger than the root of the sum of their squares
    for _ in range(_ITERATIONS):
        gram = out @ out.T
        out = torch.addmm(out, torch.addmm(gram, gram, gram, beta=b, alpha=c), out, beta=a)
    return out.T if is_tall else out
