"""Elastic weight consolidation: weights that mattered to what was learned before are held back where they were.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks" (arXiv:1612.00796), equation 3:

    loss of the new rows + strength / 2 * sum over i of F_i * (w_i - anchor_i)^2

F is the diagonal of the Fisher information of the old rows at the anchor, per supervised token, as the loss is. To the
second order, half of F_i * (w_i - anchor_i)^2 is what the old loss rises by in nats per token, so strength 1 weighs
both tasks alike; further away, and with a model that is sure of its tokens, it takes far more.

Of several parents in a row only the last one's weights are the anchor, and F is measured on rows of all of them (Huszár
2018, arXiv:1712.03847, shows why one penalty is right). Knows no run directory and no settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from tunesmith.data import collate
from tunesmith.model import drawn_nll, eval_mode
from tunesmith.train.device import ALONE, Processes
from tunesmith.types import Encoded


class Ewc:
    """The penalty. The anchor is where the model's trainable weights are now.

    Args:
        fisher: by name of the trainable parameter, of its shape, float32.
        strength: of the penalty, above 0.
    """

    def __init__(self, model: nn.Module, fisher: Mapping[str, Tensor], *, strength: float) -> None:
        self.strength = strength
        self.fisher = {name: fisher[name].to(parameter.device) for name, parameter in _trainable(model).items()}
        self.anchor = {name: parameter.detach().clone() for name, parameter in _trainable(model).items()}

    @torch.no_grad()
    def add_gradient(self, model: nn.Module) -> float:
        """Add the penalty's gradient, strength * F * (w - anchor), to `.grad`. Returns the penalty in nats per token.

        To be called once for an optimizer step, whatever the number of passes and processes it is made of.
        """
        total = 0.0
        for name, parameter in _trainable(model).items():
            moved = parameter - self.anchor[name]
            pull = self.strength * self.fisher[name] * moved
            total += 0.5 * float((pull * moved).sum())
            if parameter.grad is not None:
                parameter.grad += pull
            elif pull.any():  # else it stays without one, and the optimizer leaves it alone
                parameter.grad = pull
        return total

    def to_bytes(self) -> bytes:
        """F as a safetensors file."""
        return save({name: tensor.cpu().contiguous() for name, tensor in self.fisher.items()})

    @property
    def sha256(self) -> str:
        """Of `to_bytes()`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def read_fisher(content: bytes) -> dict[str, Tensor]:
    """What `Ewc.to_bytes` wrote."""
    return load(content)


def diagonal_fisher(
    model: nn.Module, rows: Sequence[Encoded], *, seed: int, processes: Processes = ALONE
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of the trainable weights, per supervised token, estimated on `rows`.

    The mean over all supervised tokens of E[(d log p(y | before) / dw)^2], y drawn from the model itself. One pass and
    one square for each row: with drawn tokens the gradients of different tokens are uncorrelated, so the square of
    their sum is expected to be the sum of their squares, and no pass for each token is needed. With the tokens of the
    data ("empirical Fisher") neither would hold, and what the model has learned well would hardly count (Kunstner et
    al. 2019, arXiv:1905.12558). Dropout is off.

    Args:
        seed: of the draws; each row has its own, so that it does not matter which process has it.
    """
    trained = _trainable(model)
    device = next(iter(trained.values())).device
    generator = torch.Generator(device)
    tokens = sum(row.target_tokens for row in rows)
    for parameter in trained.values():
        parameter.grad = torch.zeros_like(parameter)
    with eval_mode(model):
        for index in processes.share([len(row) for row in rows]):
            generator.manual_seed(row_seed(seed, index))
            nll = drawn_nll(model, collate([rows[index]], device), generator).sum()
            gradients = torch.autograd.grad(nll, list(trained.values()), allow_unused=True)
            for parameter, gradient in zip(trained.values(), gradients, strict=True):
                if gradient is not None and parameter.grad is not None:
                    parameter.grad.addcmul_(gradient, gradient, value=1 / tokens)
    processes.add_up(model)
    found = {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}
    for parameter in trained.values():
        parameter.grad = None
    return found


def row_seed(seed: int, index: int) -> int:
    """Of the draws for a row: 32 bits, because torch's generator for CPUs leaves the others out."""
    return (seed * 0x9E3779B1 + index) % (1 << 32)


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
